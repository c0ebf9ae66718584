"""Failed gradient checks: refuse the step or warn of it, and keep a bundle from which the step can be reproduced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lean_mnist.audit.bundle import save_step_bundle
from lean_mnist.errors import GradientMismatch
from lean_mnist.training.config import Config
from lean_mnist.training.config.schedules import is_power_of_ten
from lean_mnist.training.hooks.step import KeepFailure, Step, keep_nothing
from lean_mnist.training.sinks.records import Notice, Record
from lean_mnist.training.state import CheckSummary

# A run that goes on after a failure may fail at every step; the first ones tell.
MOST = 3
FOLDER = "failures"


class FailureKeeper:
    """Writes ``<run>/failures/step-<n>.pt`` for the first failed steps of a run.

    ``rank`` is the process's number where there are several: each writes of its own part, ``step-<n>-rank-<r>.pt``.
    """

    def __init__(self, run_folder: Path, config: Config, rank: int | None = None) -> None:
        self._folder, self._config = run_folder / FOLDER, config
        self._ending = ".pt" if rank is None else f"-rank-{rank}.pt"

    def __call__(self, step: Step, message: str) -> str:
        """Write the bundle; returns the command that reproduces the step. A full disk stops nothing."""
        path = self._folder / f"step-{step.number}{self._ending}"
        if not path.exists():  # else the other check has failed at the same step before
            if len(list(self._folder.glob(f"step-*{self._ending}"))) >= MOST:
                return ""
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                save_step_bundle(
                    path,
                    number=step.number,
                    model=step.model,
                    batches=step.batches,
                    tapes=step.tapes,
                    past=step.past,
                    loss=step.loss,
                    message=message,
                    seed=self._config.seed,
                    config=self._config.to_dict(),
                )
            except OSError as error:
                return f"; its bundle could not be written: {path}: {error.strerror or error}"
        return f"; to ask again: python -m lean_mnist.crosscheck.replay {path}"


@dataclass(frozen=True)
class FailurePolicy:
    """Treatment of a step whose gradients fail a check."""

    summary: CheckSummary  # counts the failures; whoever calls ``refuse`` has entered this one
    stop: bool = True  # whether the step is refused and the run ends; else it is warned of, and training goes on
    keep: KeepFailure = keep_nothing  # writes a bundle of the step

    def refuse(self, step: Step, found: str, details: str) -> Iterator[Record]:
        """Keep the step with all ``details`` and raise ``GradientMismatch`` with ``found``, or yield a warning."""
        head = f"gradient check failed at step {step.number}: "
        kept, failures = self.keep(step, head + details), self.summary.failures
        if self.stop:
            raise GradientMismatch(f"{head}{found}; the step was not applied{kept}")
        if is_power_of_ten(failures):  # a run that goes on wrong may fail at every step
            count = "" if failures == 1 else f" (failure {failures:,} of this run)"
            yield Notice(step.number, "crosscheck/warning", f"{head}{found}{count}{kept}")
