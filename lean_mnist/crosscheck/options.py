"""The options of ``check_function``, validated."""

import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from lean_mnist.crosscheck.report import Severity
from lean_mnist.crosscheck.subjects.calls import SOURCES, GradientSource
from lean_mnist.errors import ArgumentError, nearest, require_count

VaryBatch = bool | Sequence[int] | Callable[[int], Sequence[Any]]
VarySizes = Mapping[int | str, int | Sequence[int]]
SEVERITIES = tuple(severity.value for severity in Severity)


def severity_named(fail_on: str) -> Severity:
    """The severity of that name; raises ``ArgumentError`` if there is none."""
    if fail_on not in SEVERITIES:
        hint = nearest(str(fail_on), SEVERITIES)
        raise ArgumentError(f"fail_on: expected one of {', '.join(SEVERITIES)}, found {fail_on!r}{hint}")
    return Severity(fail_on)


def seed_from(seed: object) -> int:
    """``seed``, or a fresh one for ``None``; raises ``ArgumentError`` for what is none."""
    if seed is None:
        return secrets.randbits(48)
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**63:
        raise ArgumentError(f"seed: expected a whole number from -2^63 to below 2^63, found {seed!r}")
    return int(seed)


def require_tolerance(tolerance: float) -> None:
    """Raise ``ArgumentError`` for what is no tolerance."""
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise ArgumentError(f"tolerance: expected a number of at least 0, found {tolerance!r}")


@dataclass(frozen=True)
class Options:
    """The options of ``check_function``, described there. Raises ``ArgumentError`` for one that cannot be."""

    probes: int = 3
    replays: int = 8
    vary_batch: VaryBatch = False
    vary_sizes: VarySizes | None = None
    skip: Collection[str] = ()
    fail_on: str = Severity.ERROR.value
    intended: str = ""
    derivative_of: Callable[..., Any] | None = None
    tolerance: float = 0.0
    gradients_from: GradientSource = None
    time_limit: float = math.inf
    max_memory: float = math.inf
    fast: bool = False
    upstream: Sequence[Sequence[Tensor | None]] = ()

    def __post_init__(self) -> None:
        require_count(probes=self.probes, replays=self.replays)
        sizes: object = self.vary_sizes
        if sizes is not None and not isinstance(sizes, Mapping):
            kind = type(sizes).__name__
            raise ArgumentError(f"vary_sizes: expected a dict from inputs to dimensions, found {kind}")
        severity_named(self.fail_on)
        if not isinstance(self.intended, str):
            raise ArgumentError(f"intended: expected a word such as 'surrogate', found {type(self.intended).__name__}")
        if self.derivative_of is not None and not callable(self.derivative_of):
            raise ArgumentError(f"derivative_of: expected a function, found {type(self.derivative_of).__name__}")
        require_tolerance(self.tolerance)
        if not (self.gradients_from in (None, *SOURCES) or callable(self.gradients_from)):
            found = f"{self.gradients_from!r}{nearest(str(self.gradients_from), SOURCES)}"
            raise ArgumentError(f"gradients_from: expected {', '.join(SOURCES)} or a function, found {found}")
        for option in ("time_limit", "max_memory"):
            value = getattr(self, option)
            if not isinstance(value, (int, float)) or not value > 0:
                raise ArgumentError(f"{option}: expected a number above 0, found {value!r}")
        upstream: object = self.upstream
        if not isinstance(upstream, (list, tuple)) or not all(isinstance(v, (list, tuple)) for v in upstream):
            raise ArgumentError("upstream: expected lists, each of a tensor or None for every output")
        if isinstance(self.skip, str):
            raise ArgumentError(f"skip: expected a list of names of RULES, found the string {self.skip!r}")


LEAST = Options(probes=1, replays=1)
