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


def restore_run(path: Path, objective: Objective, optimizer: Optimizer) -> RunState:
    """Put objective, optimizer and PyTorch's random numbers where the ``last.pt`` at ``path`` left them.

    Returns the run's state; raises ``CheckpointError`` or ``ConfigError`` where this run cannot go on from there.
    """
    content = read_checkpoint(path)
    if "training" not in content:
        raise CheckpointError(
            f"{path}: expected a last.pt, which a run can continue from, found a checkpoint without that"
        )
    if content["data"]["sha256"] != objective.fingerprint:
        raise ConfigError(
            f"{path}: the {objective.config.dataset} found now is not the one this run was started on "
            "(its hash differs)"
        )
    objective.restore(content, path)
    training = content["training"]
    optimizer.load_state_dict(training["optimizer"])
    torch.set_rng_state(training["rng"])
    return RunState.from_dict(training["state"])


def save_run(folder: Path, which: str, objective: Objective, optimizer: Optimizer, state: RunState) -> None:
    """Write the run as it is as ``"best"`` or ``"last"``; the last also holds what is needed to go on."""
    own, position = objective.saved()
    metrics: dict[str, Any] = {
        "step": state.step,
        "epoch": state.epoch,
        "best": None if state.best is None else {**dataclasses.asdict(state.best), "accuracy": state.best.accuracy},
        "test_looks": state.test_looks,
    }
    content: dict[str, Any] = {
        **own,
        "config": objective.config.to_dict(),
        "metrics": metrics,
        "crosscheck": state.checks.to_dict(),
        "data": {"name": objective.config.dataset, "sha256": objective.fingerprint},
        "versions": {"lean_mnist": __version__, "torch": str(torch.__version__)},
    }
    if which == "last":
        content["training"] = {
            "state": state.to_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            **({"position": position} if position else {}),
        }
    write_checkpoint(folder / f"{which}.pt", content)
