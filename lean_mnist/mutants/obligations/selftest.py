"""Plant every fault, and see the obligations fail that it must break."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lean_mnist.errors import GradientMismatch
from lean_mnist.mutants.obligations.faults import FAULTS
from lean_mnist.mutants.obligations.making import Fault
from lean_mnist.mutants.report import Progress
from lean_mnist.verification.model import Obligation
from lean_mnist.verification.report import obligations, select


@dataclass(frozen=True)
class ObligationsSelftest:
    """For each fault the obligations that found it and those that did not; obligations that no fault breaks."""

    found: dict[str, list[str]]
    missed: dict[str, list[str]]
    unbroken: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """True if every obligation has a fault, and finds every fault that it must."""
        return bool(self.found) and not any(self.missed.values()) and not self.unbroken

    @property
    def verdict(self) -> str:
        """One line."""
        broken = {name for names in self.found.values() for name in names}
        return (
            f"{'passed' if self.ok else 'FAILED'}: {sum(not names for names in self.missed.values())} of "
            f"{len(self.found)} faults found by the obligations that they break, {len(broken)} in all; obligations "
            f"for which no fault is planted: {', '.join(self.unbroken) or 'none'} ({self.seconds:.0f} s)"
        )

    def raise_if_failed(self) -> None:
        """Raise ``GradientMismatch``, whose exit status is 3, unless ``ok``."""
        if not self.ok:
            missed = [f"{fault} (by {', '.join(names)})" for fault, names in self.missed.items() if names]
            missed += [f"none is planted for {', '.join(self.unbroken)}"] if self.unbroken else []
            raise GradientMismatch(f"faults that obligations miss: {'; '.join(missed) or 'none was planted'}")

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        faults = [{"fault": name, "found_by": self.found[name], "missed_by": self.missed[name]} for name in self.found]
        return {"ok": self.ok, "faults": faults, "unbroken": list(self.unbroken), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        lines = [f"{name}: {', '.join(found) or 'NOT FOUND'}" for name, found in self.found.items()]
        lines += [f"{name}: MISSED by {', '.join(missed)}" for name, missed in self.missed.items() if missed]
        return "\n".join(["planted in what obligations check", "", *lines, "", self.verdict])


def check_obligations(
    only: str | None = None, faults: Sequence[Fault] = FAULTS, progress: Progress = lambda *_: None
) -> ObligationsSelftest:
    """Plant each fault, and check the obligations that it must break, or those of them that ``only`` picks."""
    started = time.perf_counter()
    everything = obligations()
    chosen = {o.id: o for o in (everything if only is None else select(everything, only))}
    planted = [fault for fault in faults if not chosen.keys().isdisjoint(fault.fails)]
    found, missed = dict[str, list[str]](), dict[str, list[str]]()
    for done, fault in enumerate(planted):
        progress(done, len(planted), fault.name)
        broken = _broken(fault, [chosen[name] for name in fault.fails if name in chosen])
        found[fault.name] = [name for name, fails in broken.items() if fails]
        missed[fault.name] = [name for name, fails in broken.items() if not fails]
    progress(len(planted), len(planted), "")
    reached = {name for fault in planted for name in fault.fails}
    unbroken = tuple(name for name in chosen if name not in reached)
    return ObligationsSelftest(found, missed, unbroken, time.perf_counter() - started)


def _broken(fault: Fault, must_fail: Sequence[Obligation]) -> dict[str, bool]:
    with fault.planted():
        results = [obligation.check() for obligation in must_fail]
    # That a fault cannot even be called says nothing of the obligation.
    return {r.obligation.id: not r.as_expected and not r.detail.startswith("TypeError") for r in results}
