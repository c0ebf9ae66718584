"""What a failed gradient check leaves in the run's folder: a bundle from which the very step can be asked again."""

from __future__ import annotations

from pathlib import Path

from lean_mnist.audit.bundle import save_step_bundle
from lean_mnist.training.config import Config
from lean_mnist.training.hooks import Step

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
        """Write the bundle; returns how to replay it, for the end of the message. A full disk stops nothing."""
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
