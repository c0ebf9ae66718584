"""PyTorch's collective operations, with one-line errors that name ranks."""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lean_mnist.training.distributed.message import Digests
from lean_mnist.training.distributed.shared import SharedMemory

# How long all processes of a run have for coming together, whatever they allow each other later.
_START = timedelta(seconds=20)
# How long survivors wait for each other before they say who is missing, and for a store that may not answer either.
_ROLL_CALL_SECONDS, _STORE_SECONDS = 3.0, 2.0


class ContactLost(Exception):
    """A collective operation failed; the group can do nothing more."""


class Transport:
    """Collective operations of ``torch.distributed``: gloo between CPUs and for messages, NCCL between GPUs.

    Every rank calls the same ones in the same order. They raise ``ContactLost``, at once where a process has died and
    after ``timeout`` where one does not answer; so does the constructor if not all ``size`` processes come.
    """

    beat_seconds = 5.0  # after which a process at whose work the others wait is to give a sign of life
    _memory: SharedMemory | None = None

    def __init__(self, store: Store, rank: int, size: int, device: torch.device, timeout: timedelta) -> None:
        self.rank, self.size, self._store = rank, size, store
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self._seconds = timeout.total_seconds()
        self.beat_seconds = min(self.beat_seconds, self._seconds / 4)
        set_timeout = getattr(dist, "set_timeout", None)  # from 2.14 on; gloo's has no effect under its name in 2.6
        with _contact():
            dist.init_process_group(
                backend,
                store=PrefixStore("group", store),
                rank=rank,
                world_size=size,
                timeout=timeout if set_timeout is None else _START,
            )
            if set_timeout is not None:
                set_timeout(timeout)

    def all_reduce(self, vector: Tensor) -> None:
        """Replace ``vector`` by the sum of all ranks' vectors."""
        with _contact():
            dist.all_reduce(vector)

    def summands(self, weights: Sequence[float]) -> list[tuple[Tensor, float]]:
        """All ranks' ``shared`` vectors, each with its weight, but those of weight 0.

        All have written theirs, and keep it, until they have heard of each other before and after this is read.
        """
        return [(vector_P, weight) for vector_P, weight in zip(self.shared, weights, strict=True) if weight]

    def weighted_sum(
        self, own_P: Tensor, weights: Sequence[float], sum_P: Tensor, digests: Digests, step: int
    ) -> Tensor:
        """Put into ``sum_P`` the sum of the ranks' ``own_P``, each times its weight; its digests.

        With ``shared`` vectors ``own_P`` is that of this rank. One of weight 0 is not read.
        """
        if self.shared:
            return digests.of_sum(self.summands(weights), sum_P, step)
        weight = weights[self.rank]
        torch.mul(own_P, weight, out=sum_P) if weight else sum_P.zero_()
        self.all_reduce(sum_P)
        return digests.of(sum_P, step)

    def share(self, like_P: Tensor, row: int, *, native: bool) -> None:
        """Exchange vectors like ``like_P`` and rows of up to ``row`` numbers in memory, where that can be.

        That is if all ranks are processes of one machine with memory for them; rows with ``native`` only.
        """
        self._close_memory()
        self._memory = SharedMemory(like_P, row, self.rank, self.all_gather_object, native=native)

    @property
    def shared(self) -> Sequence[Tensor]:
        """A vector of each rank in memory that all of them see, where they are on one machine; each writes its own."""
        return [] if self._memory is None else self._memory.vectors

    def all_gather(self, row_F: Tensor) -> Tensor:
        """All ranks' rows, (N, F); ``row_F`` is on the CPU."""
        if self._memory is not None and self._memory.exchanges:
            with _contact():
                return self._memory.all_gather(row_F, self._seconds)
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
        # Rank 0 holds the store, where ``torchrun`` does not; if that has stopped, a question to it never returns.
        absent = [0] if self.rank else []

        def call_the_roll() -> None:
            with contextlib.suppress(RuntimeError):  # whoever held the store is gone, and nobody can say more
                self._store.set(f"alive/{self.rank}", "")
                left, end = list(range(self.size)), time.monotonic() + _ROLL_CALL_SECONDS
                while left and time.monotonic() < end:
                    time.sleep(0.05)
                    left = [rank for rank in left if not self._store.check([f"alive/{rank}"])]
                absent[:] = left

        asking = threading.Thread(target=call_the_roll, daemon=True)
        asking.start()
        asking.join(_ROLL_CALL_SECONDS + _STORE_SECONDS)
        return list(absent)

    @staticmethod
    def meet(rank: int, size: int) -> Store:
        """The store that the environment's variables name; raises ``ContactLost`` if it, or somebody, is absent."""
        if rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            _await_listener(os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", ""))
        with _contact():
            store, _, _ = next(rendezvous("env://", rank, size, timeout=_START))
            return store

    def close(self) -> None:
        """Leave the group."""
        self._close_memory()
        # A group that has lost somebody may be unable even to end.
        with contextlib.suppress(RuntimeError):
            if dist.is_initialized():
                dist.destroy_process_group()

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()


def _await_listener(host: str, port: str) -> None:
    """Wait until somebody listens there: PyTorch, which would wait as long, logs traces when nobody does."""
    end = time.monotonic() + _START.total_seconds()
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ContactLost(f"nobody listens at {host}:{port} ({error.strerror or error})") from None
            time.sleep(0.1)
        except ValueError:
            return  # which PyTorch finds as well, and says


@contextlib.contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of which those of torch.distributed are subclasses
        # Without the line of gloo's source that it comes from, and without its advice.
        reason = re.sub(r"\[/\S+\] ?", "", str(error).splitlines()[0]).partition(". This is")[0]
        raise ContactLost(reason) from error
