"""Ranks that are threads of one process, with faults to plant between them; and a small training loop for any world.

As a program: the second of two processes, on the file store that is its argument; it dies, or with ``stop`` stops.
"""

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, though its module does not list it

from lean_mnist.errors import HealthError, LeanMnistError
from lean_mnist.nn import MLP
from lean_mnist.nn.parameters import flatten_parameters, parameter_layout, unflatten_parameters
from lean_mnist.training.distributed import World
from lean_mnist.training.distributed.transport import ContactLost, Transport

PATIENCE = timedelta(minutes=2)  # with a process that starts on a busy machine
Plant = Callable[[int, int, Tensor], None]  # (rank, how many all-reduces before, vector)


def nothing(rank: int, call: int, vector: Tensor) -> None:
    """No fault."""


class Room:
    """Meeting point of ``size`` threads."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.given = size, threading.Barrier(size, timeout=60), [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        try:
            self.given[rank] = value
            self.barrier.wait()
            values = list(self.given)
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise ContactLost("the barrier is broken") from None
        return values


class ThreadTransport(Transport):
    """A ``Transport`` between threads; ``sent`` may change what a rank sends, ``received`` what it gets."""

    shares = True  # gradients are summed in shared memory, rather than by ``all_reduce``

    def __init__(self, room: Room, rank: int, sent: Plant, received: Plant) -> None:
        self.room, self.rank, self.size, self._sent, self._received = room, rank, room.size, sent, received
        self.calls = 0

    def share(self, like_P: Tensor, row: int, *, native: bool) -> None:
        if self.shares:
            super().share(like_P, row, native=native)

    def summands(self, weights: Sequence[float]) -> list[tuple[Tensor, float]]:
        self._sent(self.rank, self.calls, self.shared[self.rank])
        self.room.exchange(self.rank, None)
        sum_P = torch.zeros_like(self.shared[0])
        for vector, weight in super().summands(weights):
            sum_P += weight * vector
        self._received(self.rank, self.calls, sum_P)
        self.calls += 1
        return [(sum_P, 1.0)]

    def all_reduce(self, vector: Tensor) -> None:
        self._sent(self.rank, self.calls, vector)
        vector.copy_(torch.stack(self.room.exchange(self.rank, vector.clone())).sum(0))
        self._received(self.rank, self.calls, vector)
        self.calls += 1

    def all_gather(self, row_F: Tensor) -> Tensor:
        return torch.stack(self.room.exchange(self.rank, row_F))

    def all_gather_object(self, value: Any) -> list[Any]:
        return [pickle.loads(given) for given in self.room.exchange(self.rank, pickle.dumps(value))]

    def missing(self) -> list[int]:
        return [self.size - 1]

    def close(self) -> None:
        pass


def together(
    size: int, act: Callable[[World], Any], sent: Plant = nothing, received: Plant = nothing
) -> list[tuple[Any, LeanMnistError | None]]:
    """Values that ``act`` returned and raised on each of ``size`` ranks."""
    room = Room(size)
    outcomes: list[Any] = [None] * size

    def rank_of(rank: int) -> None:
        with World(ThreadTransport(room, rank, sent, received)) as world:
            try:
                outcomes[rank] = (act(world), None)
            except LeanMnistError as error:
                outcomes[rank] = (None, error)
            except SystemExit:  # it dies, and the others notice, when they next wait for it
                deadline = time.monotonic() + 10
                while room.barrier.n_waiting < size - 1 and time.monotonic() < deadline:
                    time.sleep(0.001)
                room.barrier.abort()

    threads = [threading.Thread(target=rank_of, args=(rank,), name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def train(world: World, *, batch_size: int = 16, epochs: int = 2, seed: int = 0) -> Tensor:
    """A few epochs of gradient descent on 50 random examples, the last batch smaller; the final weights, (P,)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(50, 7, generator=generator), torch.randint(3, (50,), generator=generator)
    model = MLP((7, 5, 3), seed=seed)
    weights_P = flatten_parameters(model)
    if world.size > 1:
        world.prepare(parameter_layout(model), weights_P, seed)
    step = 0
    for _ in range(epochs):
        for start in range(0, 50, batch_size):
            images, labels = x[start : start + batch_size], y[start : start + batch_size]
            share = world.share(len(labels))
            gradient_P, loss = gradient(model, images[share], labels[share])
            step += 1
            if world.size > 1:
                world.snapshot(gradient_P, step)
                loss, _ = world.reduce(gradient_P, loss, len(labels[share]), len(labels), step=step)
            weights_P = weights_P - 0.5 * gradient_P
            unflatten_parameters(weights_P, model)
    return torch.cat([weights_P, loss.detach().reshape(1)])


def gradient(model: MLP, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Flat gradient and loss; of no examples, what a mean over nothing gives."""
    if not len(y):
        return torch.full_like(flatten_parameters(model), float("nan")), torch.tensor(float("nan"))
    model.zero_grad()
    loss = model.loss(x, y)
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]), loss.detach()


def one_step(
    world: World,
    *,
    change: Callable[[World, Tensor], None] | None = None,
    before: Callable[[World, Tensor], None] | None = None,
    share: Callable[[World], slice] | None = None,
    step: int = 7,
    **options: Any,
) -> tuple[Tensor, Any]:
    """Reduce a random gradient of a 7-5-3 network; ``before`` changes it before it is declared, ``change`` after."""
    model = MLP((7, 5, 3), seed=0)
    gradient_P = torch.randn(58, generator=torch.Generator().manual_seed(world.rank))
    world.prepare(parameter_layout(model), gradient_P, 0)
    if before is not None:
        before(world, gradient_P)
    world.snapshot(gradient_P, step)
    if change is not None:
        change(world, gradient_P)
    total = 4 * world.size
    part = share(world) if share is not None else world.share(total)
    loss, examples = torch.tensor(float(world.rank)), part.stop - part.start
    reduced = world.reduce(gradient_P, loss, examples, total, step=step, **options)
    return gradient_P, reduced


def at(rank: int, action: Callable[[Tensor], object]) -> Callable[[World, Tensor], None]:
    """A change of one rank's gradient."""

    def change(world: World, gradient_P: Tensor) -> None:
        if world.rank == rank:
            action(gradient_P)

    return change


def scenarios(world: World) -> list[Any]:
    """Results of two processes together: weights, errors and the writer's process number, of each rank."""
    world.assert_consistent({"--lr": "0.1"})
    weights = train(world)
    errors = []
    for act in (
        lambda: world.assert_consistent({"--lr": f"0.{world.rank + 1}"}),
        lambda: one_step(world, refusal=HealthError("no") if world.rank == 1 else None),
        lambda: one_step(world, change=at(1, lambda g: g[10].add_(1))),
    ):
        try:
            act()
        except LeanMnistError as error:
            errors.append(str(error))
    return world.gather((weights, errors, world.on_writer(os.getpid)))


def join(store: str, rank: int, seconds: float = 30) -> World:
    """One of two processes, which waits so long for the other's answers."""
    return World(Transport(FileStore(store, 2), rank, 2, torch.device("cpu"), timedelta(seconds=seconds)))


if __name__ == "__main__":
    own = join(sys.argv[1], 1)
    if sys.argv[2:] == ["stop"]:
        own.on_writer(lambda: None)
        os.kill(os.getpid(), signal.SIGSTOP)
    scenarios(own)
    os._exit(7)  # dies without a word
