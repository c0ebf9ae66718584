"""PyTorch's collective operations, with one-line errors that name ranks."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

# How long survivors wait for each other before they say who is missing.
_ROLL_CALL_SECONDS = 3.0


class ContactLost(Exception):
    """A collective operation failed; the group can do nothing more."""


class Transport:
    """Collective operations of ``torch.distributed``: gloo between CPUs and for messages, NCCL between GPUs.

    Every rank calls the same ones in the same order. They raise ``ContactLost``; so does the constructor if not all
    ``size`` processes come within ``timeout``.
    """

    def __init__(self, store: Store, rank: int, size: int, device: torch.device, timeout: timedelta) -> None:
        self.rank, self.size, self._store = rank, size, store
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _contact():
            dist.init_process_group(
                backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=timeout
            )

    def all_reduce(self, vector: Tensor) -> None:
        """Replace ``vector`` by the sum of all ranks' vectors."""
        with _contact():
            dist.all_reduce(vector)

    def all_gather(self, row_F: Tensor) -> Tensor:
        """All ranks' rows, (N, F); ``row_F`` is on the CPU."""
        table_NF = row_F.new_empty(self.size, len(row_F))
        with _contact():
            dist.all_gather(list(table_NF), row_F)  # whose name is the same from 2.6 to 2.14
        return table_NF

    def all_gather_object(self, value: Any) -> list[Any]:
        """All ranks' values."""
        values: list[Any] = [None] * self.size
        with _contact():
            dist.all_gather_object(values, value)
        return values

    def missing(self) -> list[int]:
        """After ``ContactLost``: the ranks that did not say within seconds that they lost contact as well."""
        self.close()  # so that those who wait for this process find out as well
        try:
            self._store.set(f"alive/{self.rank}", "")
            absent, end = list(range(self.size)), time.monotonic() + _ROLL_CALL_SECONDS
            while absent and time.monotonic() < end:
                time.sleep(0.05)
                absent = [rank for rank in absent if not self._store.check([f"alive/{rank}"])]
        except RuntimeError:  # whoever held the store is gone, and nobody can say more
            return []
        return absent

    def close(self) -> None:
        """Leave the group."""
        # A group that has lost somebody may be unable even to end.
        with contextlib.suppress(RuntimeError):
            if dist.is_initialized():
                dist.destroy_process_group()


@contextlib.contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of which those of torch.distributed are subclasses
        # Without the line of gloo's source that it comes from, and without its advice.
        reason = re.sub(r"\[/\S+\] ?", "", str(error).splitlines()[0]).partition(". This is")[0]
        raise ContactLost(reason) from error
