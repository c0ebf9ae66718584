"""Cost of the reduction of a gradient to a step, with its checks and without, between the processes of one machine.

torchrun --nproc-per-node=2 -m benchmarks.reduction [NUMBERS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from lean_mnist.training.distributed import World, from_environment
from lean_mnist.training.distributed.message import Digests

NUMBERS = 101_770  # of 784-128-10
REPEATS, STEPS = 15, 40


def measure(world: World, numbers: int) -> dict[str, float]:
    """Microseconds a step of each way, by name: medians over repeats in which the ways take turns."""
    generator = torch.Generator().manual_seed(world.rank)
    gradient_P, loss = torch.randn(numbers, generator=generator), torch.tensor(1.0)
    world.prepare([], gradient_P, 0)
    digests, part = Digests(0, numbers, gradient_P.device), world.share(64)
    plain_P, small = gradient_P.clone(), torch.zeros(16, dtype=torch.int64)
    table = list(torch.zeros(world.size, 16, dtype=torch.int64))

    def checked(step: int) -> None:
        world.snapshot(gradient_P, step)
        world.reduce(gradient_P, loss, part.stop - part.start, 64, step=step)

    def unchecked(step: int) -> None:
        dist.all_reduce(plain_P)
        plain_P.mul_(0.5)

    ways: dict[str, Callable[[int], object]] = {
        "all-reduce of the gradient alone": unchecked,
        "gather of one small message": lambda step: dist.all_gather(table, small),
        "one set of digests": lambda step: digests.of(gradient_P, step),
        "reduction with all its checks": checked,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            for step in range(STEPS):
                way(1 + repeat * STEPS + step)
            times[name].append((time.perf_counter() - started) / STEPS * 1e6)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Print the table, on rank 0."""
    with from_environment("cpu") as world:
        if world.size == 1:
            raise SystemExit("expected several processes: torchrun --nproc-per-node=2 -m benchmarks.reduction")
        numbers = int(sys.argv[1]) if len(sys.argv) > 1 else NUMBERS
        times = measure(world, numbers)
        if world.is_writer:
            print(f"{world.size} gloo processes, {numbers:,} float32 numbers, PyTorch {torch.__version__}")
            for name, value in times.items():
                print(f"  {name:<35} {value:8.0f} µs")


if __name__ == "__main__":
    main()
