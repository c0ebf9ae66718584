"""Options, data and state that have to be the same on every rank before the first step."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from lean_mnist.training.checkpoints import content_hash
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.version import __version__


def start_of(config: Config, fingerprint: str, start: Any) -> dict[str, str]:
    """Options (but for where things are and what is printed), data, versions, and where training starts, as text.

    ``fingerprint`` is the data set's; ``start`` holds weights and, where a run goes on, optimizer and state: a nest of
    plain values and tensors, of which the hash is compared.
    """
    options = {
        "--" + field.name.replace("_", "-"): _text(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in MAY_CHANGE_ON_RESUME
    }
    return options | {
        "the data (SHA-256)": fingerprint[:16],
        "lean_mnist": __version__,
        "PyTorch": str(torch.__version__),
        "the state to start from (SHA-256)": content_hash(start)[:16],
    }


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
