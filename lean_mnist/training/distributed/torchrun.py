"""The world that ``torchrun`` made for this process, or the one process that was started without it."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch.distributed.rendezvous import rendezvous

from lean_mnist.errors import ConfigError, RankLost
from lean_mnist.training.distributed.transport import ContactLost, Transport
from lean_mnist.training.distributed.world import World

# A process that says nothing for so long counts as dead. One that died is noticed at once: its connections close.
TIMEOUT = timedelta(minutes=5)


def from_environment(device: str, timeout: timedelta = TIMEOUT) -> World:
    """Join the group that ``WORLD_SIZE``, ``RANK``, ``LOCAL_RANK`` and ``MASTER_…`` describe; a ``World`` without them.

    ``device`` is ``cpu`` or ``cuda``; with ``cuda`` each process of a machine takes the GPU of its ``LOCAL_RANK``.
    Raises ``ConfigError`` for variables that make no sense or too few GPUs, and ``RankLost`` if somebody does not come.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return World()
    rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise ConfigError(f"RANK: expected 0 to {size - 1}, found {rank}")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"--device cuda: expected a GPU for each process, found {torch.cuda.device_count()} "
                f"for at least {local + 1} processes on this machine"
            )
        torch.cuda.set_device(local)
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
        return World(Transport(store, rank, size, torch.device(device), timeout))
    except (ContactLost, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RankLost(f"rank {rank} could not join the other {size - 1} processes of the run: {reason}") from None


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}: expected a number, as torchrun sets it, found {text!r}") from None
