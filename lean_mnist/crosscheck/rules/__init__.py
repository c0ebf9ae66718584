"""The rules of ``check_function``; to add one, register a function in a module here, and write its test.

A rule is a function of a ``Context`` that returns findings, registered by the decorator ``rule``. Every module of this
package is imported, and the rules are asked in the order of their numbers.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace

from torch import Tensor

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.diagnosis import Kind, diagnose
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable
from lean_mnist.crosscheck.subjects.calls import CallFailed, NotChecked, Upstream, one_line
from lean_mnist.errors import ArgumentError
from lean_mnist.torch_internals import uncompiled_calls

Ask = Callable[[Context], "list[Finding]"]


@dataclass(frozen=True)
class Rule:
    """A rule, and the decorator that registers the function to ``ask``."""

    name: str
    _: KW_ONLY
    order: int  # in which rules are asked: that of their worth for their cost
    also: tuple[str, ...] = ()  # other names that its findings have
    points_to: Kind | None = None  # as of its findings
    severity: Severity = Severity.ERROR  # of its failures
    oracle: bool = False  # it can tell a first-order gradient from a wrong one
    fast: bool = False  # asked even if few are
    copies: float = 12.0  # so many times the bytes of inputs and outputs it takes in memory
    varies: bool = False  # layouts, sizes or what needs a gradient: asked of compiled code uncompiled
    part: bool = False  # of a large call asked of some rows alone, where the function treats each by itself
    if_right: bool = False  # asked only of what is meant to be the derivative, and no oracle has found wrong
    ask: Ask = lambda _: []

    def __call__(self, ask: Ask) -> Ask:
        """Register ``ask``."""
        _REGISTERED.append(replace(self, ask=ask))
        return ask

    def findings(self, ctx: Context) -> list[Finding]:
        """The findings, each with the rule's name unless it has another; a call that raises is one that failed.

        Where memory or time runs out, or the rule itself raises, it is not applicable: what others found stays.
        """
        rows = ""
        left_out = "not checked: fast" if ctx.options.fast and not self.fast else ""
        try:
            there = ctx.part if self.part and not left_out else None
            if there is not None:
                rows = f", of {there.length:,} of {ctx.length:,} rows"
            needed = self.copies * (there or ctx).size
            if needed > ctx.options.max_memory:
                left_out = f"not checked: some {needed:.1e} bytes, more than max_memory"
            with uncompiled_calls() if self.varies else nullcontext():
                found = [not_applicable(left_out)] if left_out else self.ask(there or ctx)
        except CallFailed as failure:  # it ran before, so it does not always
            found = [failed(f"its {failure}")]
        except ArgumentError:
            raise
        except Exception as error:
            reason = NotChecked.of(error) or f"internal error, {type(error).__name__}: {one_line(error, 160)}"
            found = [not_applicable(str(reason))]
        return [self._own(replace(finding, text=f"{finding.text}{rows}")) for finding in found]

    def _own(self, finding: Finding) -> Finding:
        name, severity = finding.rule or self.name, finding.severity or self.severity
        oracle = self.oracle and name == self.name
        return replace(finding, rule=name, points_to=self.points_to, severity=severity, oracle=oracle)


rule = Rule
_REGISTERED: list[Rule] = []


@contextmanager
def noting_failed_calls(
    findings: list[Finding], words: str = "", subject: str = "", severity: Severity | None = None
) -> Iterator[None]:
    """Append a failure to ``findings`` where the function raises inside of the block, which ends there."""
    try:
        yield
    except CallFailed as failure:
        findings.append(failed(f"{words} its {failure}".lstrip(), subject, severity=severity))


def other_gradients(
    ctx: Context, words: str, found: Sequence[Tensor], expected: Sequence[Tensor], upstream: Upstream
) -> list[Finding]:
    """Failures of ``words``, diagnosed, where gradients differ by more than rounding explains."""
    return [
        failed(words, ctx.name(place), diagnose(found[place], expected[place]))
        for place in ctx.differing(found, expected, upstream)
    ]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
RULES = tuple(sorted(_REGISTERED, key=lambda registered: registered.order))
