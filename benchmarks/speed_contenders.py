"""Contenders of ``benchmarks.speed``: each trains 784-128-10 with SGD and momentum in float32 on the same examples.

A contender goes on where its last epoch ended, ours aside, which is two epochs of a run each time: the second is timed,
and it is those two whose accuracy is told.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.data.datasets import Dataset

HIDDEN, RATE, MOMENTUM = 128, 0.05, 0.9
VALIDATION = 100  # our trainer always has some; so the others go without these examples too
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Input of every contender: normalised float32 examples, and the raw data set for ours."""

    dataset: Dataset
    x: torch.Tensor  # (m, D)
    y: torch.Tensor  # (m,)
    x_test: torch.Tensor
    batch_size: int
    threads: int  # 0: as many as each takes by itself

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.x.shape[1], HIDDEN, self.dataset.classes

    @property
    def steps(self) -> int:
        """Steps of an epoch, the partial last one with them."""
        return -(-len(self.x) // self.batch_size)


@dataclass(frozen=True)
class Contender:
    """An epoch of training, which says its seconds, and what is then read in the test images."""

    epoch: Callable[[], float]
    predict: Callable[[torch.Tensor], Any] | None = None  # classes (m,) of x (m, D)
    errors: Callable[[], int] | None = None  # in the test images, where the contender counts them itself
    epochs: int | None = None  # that it has trained then; as many as it was called for if not said

    def accuracy(self, task: Task) -> float | None:
        """Of the test images as the last epoch left it; ``None`` for one that learns nothing."""
        labels = task.dataset.test.labels.numpy()
        if self.errors is not None:
            return 1 - self.errors() / len(labels)
        if self.predict is None:
            return None
        return float((np.asarray(self.predict(task.x_test)) == labels).mean())


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ours(task: Task, check: str) -> Contender:
    """Our trainer as ``python -m lean_mnist.train`` runs it: the steps of a run's second epoch, with their records.

    The first one has what is done once (kernels compiled, the first audit), as JAX's has its compilation; evaluation
    and saving come after, and no contender has them.
    """
    from lean_mnist.training.config import Config
    from lean_mnist.training.run import run

    errors = [0]

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
            "threads": task.threads or None,
            "quiet": True,
            "run_name": "speed",
        }
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            summary = run(Config(**options, runs_dir=f"{folder}/runs", checkpoints_dir=f"{folder}/checkpoints"))
            records = map(json.loads, Path(folder, "runs", "speed", "metrics.jsonl").read_text().splitlines())
            speeds = [r["value"] for r in records if r["name"] == "throughput/examples_per_second"]
        errors[0] = summary.test.errors
        return len(task.x) / float(speeds[1])

    return Contender(epoch, errors=lambda: errors[0], epochs=2)


def floor(task: Task) -> Contender:
    """The matrix products of a step, and nothing else."""
    features, hidden, classes = task.sizes
    x, size = task.x, task.batch_size
    w1, b1, w2, b2 = (torch.randn(*shape) for shape in ((hidden, features), (hidden,), (classes, hidden), (classes,)))
    h, dz, ds = torch.randn(size, hidden), torch.randn(size, hidden), torch.randn(size, classes)

    def products() -> None:
        for batch in x.split(size):
            m = len(batch)
            torch.addmm(b1, batch, w1.T)
            torch.addmm(b2, h[:m], w2.T)
            _ = ds[:m].T @ h[:m], ds[:m] @ w2, dz[:m].T @ batch

    return Contender(lambda: timed(products))


def _plain(task: Task) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    features, hidden, classes = task.sizes
    model = torch.nn.Sequential(torch.nn.Linear(features, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))
    return model, torch.optim.SGD(model.parameters(), RATE, MOMENTUM)


def _predict(model: torch.nn.Module) -> Callable[[torch.Tensor], Any]:
    return lambda x: model(x).argmax(1)


def pytorch_in_memory(task: Task) -> Contender:
    model, optimizer = _plain(task)

    def train() -> None:
        for chosen in torch.randperm(len(task.x)).split(task.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(task.x[chosen]), task.y[chosen]).backward()
            optimizer.step()

    return Contender(lambda: timed(train), _predict(model))


def pytorch_dataloader(task: Task) -> Contender:
    from torch.utils.data import DataLoader, TensorDataset

    model, optimizer = _plain(task)
    loader = DataLoader(TensorDataset(task.x, task.y), task.batch_size, shuffle=True)

    def train() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return Contender(lambda: timed(train), _predict(model))


def scikit_learn(task: Task) -> Contender:
    from sklearn.neural_network import MLPClassifier

    x, y, classes = task.x.numpy(), task.y.numpy(), np.arange(task.dataset.classes)
    options = {"solver": "sgd", "batch_size": task.batch_size, "learning_rate_init": RATE, "momentum": MOMENTUM}
    network = MLPClassifier((HIDDEN,), **options)

    def train() -> None:
        network.partial_fit(x, y, classes=classes)

    return Contender(lambda: timed(train), lambda x: network.predict(x.numpy()))


def lightning(task: Task) -> Contender:
    import lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    network, _ = _plain(task)

    class Module(pl.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), RATE, MOMENTUM)

    loader = DataLoader(TensorDataset(task.x, task.y), task.batch_size, shuffle=True)
    module = Module()

    def epoch() -> float:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, accelerator="cpu",
            )  # fmt: skip
            return timed(lambda: trainer.fit(module, loader))

    return Contender(epoch, _predict(network))


def jax_scan(task: Task) -> Contender:
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
    steps = len(x) // size  # a scan has no smaller last batch

    def logits(w: Any, x: Any) -> Any:
        return jax.nn.relu(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]

    def loss(w: Any, bx: Any, by: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(w, bx), by).mean()

    def step(carry: Any, chosen: Any) -> Any:
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w, x[chosen], y[chosen])
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(w, updates), state), value

    def scan(carry: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(x))[: steps * size].reshape(steps, size)
        return jax.lax.scan(step, carry, order)

    whole, carry, number = jax.jit(scan), [(weights, optimizer.init(weights))], iter(range(1 << 30))

    def epoch() -> float:
        def train() -> None:
            carry[0], _ = jax.block_until_ready(whole(carry[0], jax.random.PRNGKey(next(number))))

        return timed(train)

    return Contender(epoch, lambda x: logits(carry[0][0], x.numpy()).argmax(1))


def keras(task: Task) -> Contender:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as k

    features, hidden, classes = task.sizes
    model = k.Sequential(
        [k.layers.Input((features,)), k.layers.Dense(hidden, activation="relu"), k.layers.Dense(classes)]
    )
    model.compile(k.optimizers.SGD(RATE, MOMENTUM), k.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = task.x.numpy(), task.y.numpy()

    def train() -> None:
        model.fit(x, y, batch_size=task.batch_size, epochs=1, verbose=0)

    return Contender(lambda: timed(train), lambda x: model.predict(x.numpy(), 1000, verbose=0).argmax(1))


CONTENDERS: dict[str, tuple[str | None, Callable[[Task], Contender]]] = {
    "the matrix products alone": (None, floor),
    "ours, checks off": (None, lambda task: ours(task, "off")),
    "ours, audits alone": (None, lambda task: ours(task, "audit")),
    "ours, every step screened": (None, lambda task: ours(task, "screen")),
    "ours, screened, memory compared, audited (default)": (None, lambda task: ours(task, "full")),
    "PyTorch, tensors in memory": (None, pytorch_in_memory),
    "PyTorch, DataLoader": (None, pytorch_dataloader),
    "scikit-learn": (None, scikit_learn),
    "Lightning": ("lightning", lightning),
    "JAX, jit(scan)": ("optax", jax_scan),
    "Keras on JAX": ("keras", keras),
}
