"""``python -m benchmarks.speed``: seconds an epoch, ours and what people would pick instead, by turns in one run.

Every contender trains 784-128-10 with SGD and momentum in float32 on the same examples, one epoch a turn; the turns are
interleaved and medians counted, so that a busy moment of the machine hits all alike. The *floor* is the five matrix
products of a step and nothing else. Contenders that are not installed (extra ``bench``) are left out, by name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lean_mnist.command_line import parse, run_command
from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.normalization import Normalization

HIDDEN, RATE, MOMENTUM = 128, 0.05, 0.9
VALIDATION = 100  # our trainer always has some; so the others go without these examples too
Epoch = Callable[[], float]  # trains one epoch; returns its seconds


@dataclass(frozen=True)
class Arguments:
    """Time an epoch of ours and of what people would pick instead."""

    repeats: int = 5
    """Epochs of each; the median counts. One more goes before, unmeasured."""
    batch_size: int = 64
    """Examples a step."""
    examples: int = 60_000
    """Training examples an epoch, at most; a hundred are kept for the validation that our trainer always does."""
    dataset: str = "auto"
    """mnist, where it is there; digits otherwise."""
    threads: int = 0
    """PyTorch's threads; 0 leaves them as they are."""
    only: str = ""
    """Contenders whose names contain this, or one of several parts with commas between."""
    json: bool = False
    """Print one JSON document."""


@dataclass(frozen=True)
class Task:
    """Input of every contender: normalised float32 examples, and the raw data set for ours."""

    dataset: Dataset
    x: torch.Tensor  # (m, D)
    y: torch.Tensor  # (m,)
    batch_size: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.x.shape[1], HIDDEN, self.dataset.classes


def ours(task: Task, check: str) -> Epoch:
    """Our trainer as ``python -m lean_mnist.train`` runs it: the steps of a run's second epoch, with their records.

    The first one has what is done once (steps captured, the first audit), as JAX's has its compilation; evaluation and
    saving come after, and no contender has them.
    """
    from lean_mnist.training.config import Config
    from lean_mnist.training.run import run

    def epoch() -> float:
        options: dict[str, Any] = {
            "dataset": task.dataset.name,
            "hidden": (HIDDEN,),
            "check": check,
            "batch_size": task.batch_size,
            "epochs": 2,
            "limit_train": len(task.x),
            "validation_size": VALIDATION,
            "schedule": "constant",
            "lr": RATE,
            "momentum": MOMENTUM,
            "quiet": True,
            "run_name": "speed",
        }
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            run(Config(**options, runs_dir=f"{folder}/runs", checkpoints_dir=f"{folder}/checkpoints"))
            records = map(json.loads, Path(folder, "runs", "speed", "metrics.jsonl").read_text().splitlines())
            speeds = [r["value"] for r in records if r["name"] == "throughput/examples_per_second"]
        return len(task.x) / float(speeds[1])

    return epoch


def floor(task: Task) -> Epoch:
    """The matrix products of a step, and nothing else."""
    features, hidden, classes = task.sizes
    x, size = task.x, task.batch_size
    w1, b1, w2, b2 = (torch.randn(*shape) for shape in ((hidden, features), (hidden,), (classes, hidden), (classes,)))
    h, dz, ds = torch.randn(size, hidden), torch.randn(size, hidden), torch.randn(size, classes)

    def epoch() -> float:
        started = time.perf_counter()
        for begin in range(0, len(x) - size + 1, size):
            batch = x[begin : begin + size]
            torch.addmm(b1, batch, w1.T)
            torch.addmm(b2, h, w2.T)
            _ = ds.T @ h, ds @ w2, dz.T @ batch
        return time.perf_counter() - started

    return epoch


def _plain(task: Task) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    features, hidden, classes = task.sizes
    model = torch.nn.Sequential(torch.nn.Linear(features, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))
    return model, torch.optim.SGD(model.parameters(), RATE, MOMENTUM)


def pytorch_in_memory(task: Task) -> Epoch:
    model, optimizer = _plain(task)

    def epoch() -> float:
        started = time.perf_counter()
        for chosen in torch.randperm(len(task.x)).split(task.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(task.x[chosen]), task.y[chosen]).backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def pytorch_dataloader(task: Task) -> Epoch:
    from torch.utils.data import DataLoader, TensorDataset

    model, optimizer = _plain(task)
    loader = DataLoader(TensorDataset(task.x, task.y), task.batch_size, shuffle=True)

    def epoch() -> float:
        started = time.perf_counter()
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def scikit_learn(task: Task) -> Epoch:
    from sklearn.neural_network import MLPClassifier

    x, y = task.x.numpy(), task.y.numpy()

    def epoch() -> float:
        network = MLPClassifier(
            (HIDDEN,), solver="sgd", batch_size=task.batch_size, learning_rate_init=RATE, momentum=MOMENTUM, max_iter=1
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one epoch has not converged
            started = time.perf_counter()
            network.fit(x, y)
            return time.perf_counter() - started

    return epoch


def lightning(task: Task) -> Epoch:
    import lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.network, _ = _plain(task)

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), RATE, MOMENTUM)

    loader = DataLoader(TensorDataset(task.x, task.y), task.batch_size, shuffle=True)

    def epoch() -> float:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, accelerator="cpu",
            )  # fmt: skip
            started = time.perf_counter()
            trainer.fit(Module(), loader)
            return time.perf_counter() - started

    return epoch


def jax_scan(task: Task) -> Epoch:
    import jax
    import jax.numpy as jnp
    import optax

    features, hidden, classes = task.sizes
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    weights = {
        "w1": jax.random.normal(keys[0], (features, hidden)) * (2 / features) ** 0.5,
        "b1": jnp.zeros(hidden),
        "w2": jax.random.normal(keys[1], (hidden, classes)) * (2 / hidden) ** 0.5,
        "b2": jnp.zeros(classes),
    }
    optimizer = optax.sgd(RATE, MOMENTUM)
    x, y, size = jnp.asarray(task.x.numpy()), jnp.asarray(task.y.numpy()), task.batch_size
    steps = len(x) // size

    def loss(w: Any, bx: Any, by: Any) -> Any:
        logits = jax.nn.relu(bx @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, by).mean()

    def step(carry: Any, chosen: Any) -> Any:
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w, x[chosen], y[chosen])
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(w, updates), state), value

    def scan(carry: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))[: steps * size].reshape(steps, size)
        return jax.lax.scan(step, carry, order)

    whole, carry = jax.jit(scan), (weights, optimizer.init(weights))

    def epoch() -> float:
        started = time.perf_counter()
        jax.block_until_ready(whole(carry, jax.random.PRNGKey(1)))
        return time.perf_counter() - started

    return epoch


def keras(task: Task) -> Epoch:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as k

    features, hidden, classes = task.sizes
    model = k.Sequential(
        [k.layers.Input((features,)), k.layers.Dense(hidden, activation="relu"), k.layers.Dense(classes)]
    )
    model.compile(k.optimizers.SGD(RATE, MOMENTUM), k.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = task.x.numpy(), task.y.numpy()

    def epoch() -> float:
        started = time.perf_counter()
        model.fit(x, y, batch_size=task.batch_size, epochs=1, verbose=0)
        return time.perf_counter() - started

    return epoch


CONTENDERS: dict[str, tuple[str | None, Callable[[Task], Epoch]]] = {
    "the matrix products alone": (None, floor),
    "ours, checks off": (None, lambda task: ours(task, "off")),
    "ours, audits (default)": (None, lambda task: ours(task, "audit")),
    "ours, every step screened": (None, lambda task: ours(task, "full")),
    "PyTorch, tensors in memory": (None, pytorch_in_memory),
    "PyTorch, DataLoader": (None, pytorch_dataloader),
    "scikit-learn": (None, scikit_learn),
    "Lightning": ("lightning", lightning),
    "JAX, jit(scan)": ("optax", jax_scan),
    "Keras on JAX": ("keras", keras),
}


def main() -> None:
    """Time everything that is installed, and print a table."""
    arguments = parse(Arguments, sys.argv[1:], prog="python -m benchmarks.speed")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.dataset, "data")
    train = dataset.train
    x = Normalization.fit("standard", train.images, dataset.maximum).apply(train.images).flatten(1)
    examples = min(arguments.examples, len(x) - VALIDATION)
    task = Task(dataset, x[:examples], train.labels[:examples], arguments.batch_size)
    epochs, absent = {}, []
    for name, (package, build) in CONTENDERS.items():
        if arguments.only and not any(part in name for part in arguments.only.split(",")):
            continue
        if package is not None and importlib.util.find_spec(package) is None:
            absent.append(name)
            continue
        epochs[name] = build(task)
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    with tqdm(total=len(epochs) * (arguments.repeats + 1), unit="epoch", file=sys.stderr) as progress:
        for turn in range(arguments.repeats + 1):
            for name, epoch in epochs.items():
                taken = epoch()
                if turn:  # the first one warms up and compiles
                    seconds[name].append(taken)
                progress.update()
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    about = (
        f"{dataset.name}, {len(task.x):,} examples an epoch, batch {task.batch_size}, {arguments.repeats} repeats; "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, PyTorch {torch.__version__}"
    )
    if arguments.json:
        print(json.dumps({"about": about, "seconds": seconds, "medians": medians, "absent": absent}))
        return
    print(about)
    default = medians.get("ours, audits (default)", float("nan"))
    for name, taken in medians.items():
        print(f"{name:<28} {taken:7.3f} s an epoch  {taken / default:6.2f}× ours")
    for name in absent:
        print(f"{name:<28} not installed")


if __name__ == "__main__":
    run_command(main)
