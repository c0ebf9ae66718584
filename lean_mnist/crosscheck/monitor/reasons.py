"""Reasons not to check a call, the fence that turns whatever goes wrong in a hook into one, and the counts of all."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import torch

from lean_mnist.crosscheck.subjects.calls import CallFailed, NotChecked, one_line
from lean_mnist.errors import LeanMnistError

Result = TypeVar("Result")


class Reason(Enum):
    """The kinds of calls that cannot be checked."""

    FREED = "the storage of a tensor that it needs was freed"
    CHANGED = "a tensor that it needs was changed before the check"
    UNUSUAL_TENSORS = "sparse, nested, distributed or complex tensors"
    NOT_REPEATABLE = "the same call again gives something else"
    CALL_FAILED = "the call cannot be made again"
    OUT_OF_SIGHT = "a gradient goes to a tensor that cannot be seen"
    NO_BACKWARD = "no backward through it has ended"
    UPSTREAM = "no finite upstream gradient came"
    NOTHING_TO_CHECK = "neither an input nor a parameter needs a gradient"
    NOTHING_TOLD = "differences tell nothing"
    MEMORY = "out of memory"
    UNFORESEEN = "an unforeseen error"


class NotApplicable(Exception):
    """The call cannot be checked, for ``reason``."""

    def __init__(self, reason: Reason, detail: object = "") -> None:
        self.reason, self.detail = reason, one_line(detail)
        super().__init__(f"{reason.value}: {self.detail}" if self.detail else reason.value)


def not_applicable_because(error: Exception) -> NotApplicable:
    """The reason that an exception in a check amounts to."""
    cause = error.error if isinstance(error, CallFailed) else error
    if isinstance(cause, NotApplicable):
        return cause
    if NotChecked.of(cause) is not None:
        return NotApplicable(Reason.MEMORY, cause)
    if isinstance(error, (CallFailed, LeanMnistError)):
        return NotApplicable(Reason.CALL_FAILED, error)
    return NotApplicable(Reason.UNFORESEEN, f"{type(error).__name__}: {error}")


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


class ModelHook:
    """A hook of the model that does nothing in a copy of the model, a pickled one included."""

    def __init__(self, hook: Callable[..., None] | None) -> None:
        self._hook = hook

    def __call__(self, *arguments: Any, **named: Any) -> None:
        """Call the hook."""
        if self._hook is not None:
            self._hook(*arguments, **named)

    def __reduce__(self) -> "tuple[type[ModelHook], tuple[None]]":
        return ModelHook, (None,)


class Fence:
    """Keeps what goes wrong in hooks from the loop that calls them: counts it, and the time that hooks take."""

    def __init__(self) -> None:
        self.reasons: Counter[Reason] = Counter()
        self.examples: dict[Reason, str] = {}  # the first of each
        self.seconds = 0.0
        self._inside = False

    def count(self, error: NotApplicable, module: str = "") -> None:
        """Count a call of ``module`` that is not checked."""
        self.reasons[error.reason] += 1
        self.examples.setdefault(error.reason, ": ".join(filter(None, (module, error.detail))))

    def guard(self, hook: Callable[..., Result]) -> Callable[..., Result | None]:
        """``hook``, which no exception leaves, and which does nothing while PyTorch traces it."""

        @functools.wraps(hook)
        def guarded(*arguments: Any, **named: Any) -> Result | None:
            if _is_traced():
                return None
            try:
                return hook(*arguments, **named)
            except Warning:  # which the loop has turned into an error
                return None
            except Exception as error:
                self.count(not_applicable_because(error))
                return None

        return guarded

    def timed(self, hook: Callable[..., Result]) -> Callable[..., Result | None]:
        """``guard``, for hooks that are there only where something is checked: their time is added up."""
        guarded = self.guard(hook)

        @functools.wraps(hook)
        def measured(*arguments: Any, **named: Any) -> Result | None:
            if self._inside or _is_traced():
                return guarded(*arguments, **named)
            self._inside, started = True, time.perf_counter()
            try:
                return guarded(*arguments, **named)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - started

        return measured


@dataclass(frozen=True)
class MonitorSummary:
    """Counts of module calls by what became of them. ``print`` it."""

    forwards: int  # with gradients enabled
    passed: int
    failed: int
    inconclusive: int
    not_applicable: Mapping[str, int]  # by reason
    examples: Mapping[str, str]  # the first call of each reason
    intended: Mapping[str, tuple[str, ...]]  # by word, the Functions and where they are called
    never_met: tuple[str, ...]  # what an option names, and no forward has met
    bypassed: tuple[str, ...]  # modules whose call does not run their hooks
    seconds: float
    share: float  # of the time since the first checked forward

    @property
    def checked(self) -> int:
        """The number of calls held against an oracle."""
        return self.passed + self.failed

    def __str__(self) -> str:
        lines = [f"{self.checked or 'nothing was'} checked in {self.forwards} forwards"]
        lines[0] += f": {self.passed} passed, {self.failed} failed, {self.inconclusive} inconclusive"
        lines[0] += f", {sum(self.not_applicable.values())} not applicable"
        lines += [f"  {n} × {reason} (first: {self.examples[reason]})" for reason, n in self.not_applicable.items()]
        lines += [f"  {word}: {', '.join(where)}" for word, where in self.intended.items()]
        if self.never_met:
            lines.append(f"  named in an option and never met: {', '.join(self.never_met)}")
        if self.bypassed:
            lines.append(f"  called without their hooks, so seen only inside of others: {', '.join(self.bypassed)}")
        lines.append(f"  checks took {self.seconds:.2f} s, {self.share:.1%} of the time")
        return "\n".join(lines)
