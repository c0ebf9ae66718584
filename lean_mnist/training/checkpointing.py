"""What goes into the checkpoints of a run, and how a run goes on from one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.nn.update import Optimizer
from lean_mnist.training.checkpoints import read_checkpoint, write_checkpoint
from lean_mnist.training.objectives.protocol import Objective
from lean_mnist.training.state import RunState
from lean_mnist.version import __version__


class Checkpointing:
    """Writes and reads the checkpoints of a run; ``state`` is the run's, from the start or from a checkpoint.

    Args:
        objective, optimizer: hold the weights and what moves them.
        resume: the ``last.pt`` to go on from, if any.

    Raises ``CheckpointError`` or ``ConfigError`` for a checkpoint from which this run cannot go on.
    """

    def __init__(self, objective: Objective, optimizer: Optimizer, resume: Path | None) -> None:
        self._objective, self._optimizer = objective, optimizer
        self.state = RunState()
        if resume is not None:
            self._restore(resume)

    def _restore(self, path: Path) -> None:
        content = read_checkpoint(path)
        if "training" not in content:
            raise CheckpointError(
                f"{path}: expected a last.pt, which a run can continue from, found a checkpoint without that"
            )
        if content["data"]["sha256"] != self._objective.fingerprint:
            raise ConfigError(
                f"{path}: the {self._objective.config.dataset} found now is not the one this run was started on "
                "(its hash differs)"
            )
        self._objective.restore(content, path)
        training = content["training"]
        self._optimizer.load_state_dict(training["optimizer"])
        self.state = RunState.from_dict(training["state"])
        torch.set_rng_state(training["rng"])

    def save(self, folder: Path, which: str) -> None:
        """Write the present state as ``"best"`` or ``"last"``; the last also holds what is needed to go on."""
        state, (own, position) = self.state, self._objective.saved()
        metrics: dict[str, Any] = {
            "step": state.step,
            "epoch": state.epoch,
            "best": None if state.best is None else {**dataclasses.asdict(state.best), "accuracy": state.best.accuracy},
            "test_looks": state.test_looks,
        }
        content: dict[str, Any] = {
            **own,
            "config": self._objective.config.to_dict(),
            "metrics": metrics,
            "crosscheck": state.checks.to_dict(),
            "data": {"name": self._objective.config.dataset, "sha256": self._objective.fingerprint},
            "versions": {"lean_mnist": __version__, "torch": str(torch.__version__)},
        }
        if which == "last":
            content["training"] = {
                "state": state.to_dict(),
                "optimizer": self._optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                **({"position": position} if position else {}),
            }
        write_checkpoint(folder / f"{which}.pt", content)
