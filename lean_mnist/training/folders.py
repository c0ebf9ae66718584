"""Where a run writes: a folder under runs and one under checkpoints, both of the run's name."""

from __future__ import annotations

import time
from pathlib import Path

from lean_mnist.errors import ConfigError
from lean_mnist.training.config import Config


def claim_folders(config: Config, *, resuming: bool) -> tuple[str, Path, Path]:
    """The run's name, and its folders under runs and checkpoints, made; a new run never writes into an old one's."""
    name = config.run_name or f"{config.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        numbered = name if number == 1 else f"{name}-{number}"
        folders = [Path(config.runs_dir) / numbered, Path(config.checkpoints_dir) / numbered]
        taken = [] if resuming else [folder for folder in folders if folder.exists()]
        if not taken:
            break
        if config.run_name is not None:
            raise ConfigError(f"--run-name {name}: {taken[0]} exists already; choose another name, or --resume {name}")
        number += 1
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: expected a folder that can be written, found: {error.strerror}") from None
    return numbered, *folders  # type: ignore[return-value]
