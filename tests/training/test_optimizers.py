"""Optimizers against ``torch.optim`` built by hand, on a whole run: same batches, PyTorch's own gradients."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from lean_mnist.data.batches import Batches
from lean_mnist.data.datasets import load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import split_training
from lean_mnist.nn.update import set_learning_rate
from lean_mnist.training.config import Config
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.objectives.build import build_model
from tests.support.training_cases import digits_config, digits_run, load

Build = Callable[[list[nn.Parameter]], optim.Optimizer]
FLOAT64: dict[str, Any] = {"precision": "float64", "schedule": "constant"}

OPTIMIZERS: dict[str, tuple[dict[str, Any], Build]] = {
    "sgd": (
        {"lr": 0.1, "weight_decay": 5e-4},
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    ),
    "sgd heavy ball": (
        {"lr": 0.05, "nesterov": False, "momentum": 0.8, "weight_decay": 0.0},
        lambda p: optim.SGD(p, lr=0.05, momentum=0.8),
    ),
    "sgd plain": (
        {"lr": 0.2, "momentum": 0.0, "weight_decay": 0.01},
        lambda p: optim.SGD(p, lr=0.2, weight_decay=0.01),
    ),
    "adam": (
        {"optimizer": "adam", "weight_decay": 0.01},
        lambda p: optim.Adam(p, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01),
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1, "momentum": 0.8},
        lambda p: optim.AdamW(p, lr=1e-3, betas=(0.8, 0.999), weight_decay=0.1),
    ),
    "rmsprop": (
        {"optimizer": "rmsprop", "weight_decay": 0.01},
        lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=0.01),
    ),
}  # fmt: skip


def by_pytorch(config: Config, build: Build, clip_norm: float | None = None) -> list[torch.Tensor]:
    """The weights after ``config``'s epochs of a network of ``torch.nn``, differentiated by autograd."""
    digits = load_digits()
    train, _ = split_training(digits.train, validation_size=None, limit_train=config.limit_train, seed=config.seed)
    normalization = Normalization.fit(config.normalization, train.images, digits.maximum)
    batches = Batches(train, normalization, config.batch_size, config.seed, torch.float64)
    initial = build_model(Config(**{**vars(config), "device": "cpu"}), digits.features, digits.classes)
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).double()
    with torch.no_grad():
        for own, theirs in zip(network.parameters(), initial.parameters(), strict=True):
            own.copy_(theirs)
    optimizer = build(list(network.parameters()))
    for epoch in range(config.epochs):
        for x, labels in batches.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), labels).backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def trained(root: Path, **options: Any) -> list[torch.Tensor]:
    """The weights of a run of ours."""
    return list(load(digits_run(root, **options).last)["model"].values())


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float = 1e-9) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_steps_of_torch_optim(name: str, tmp_path: Path) -> None:
    options, build = OPTIMIZERS[name]
    ours = trained(tmp_path, **FLOAT64, **options)
    assert_close(ours, by_pytorch(digits_config(**FLOAT64, **options), build))


def test_the_recipe_of_lean_mnist_is_plain_sgd_with_clipping(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        **FLOAT64, "normalization": "unit", "limit_train": 500, "batch_size": 64, "lr": 0.01, "momentum": 0.0,
        "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    # Clipped at 10 nothing would be; at 1 most steps are.
    ours = trained(tmp_path, clip_norm=1.0, **options)
    theirs = by_pytorch(digits_config(**options), lambda p: optim.SGD(p, lr=0.01), clip_norm=1.0)
    free = by_pytorch(digits_config(**options), lambda p: optim.SGD(p, lr=0.01))
    assert_close(ours, theirs)
    assert not torch.allclose(ours[0], free[0], rtol=1e-6)


def test_clipping_bounds_every_step(tmp_path: Path) -> None:
    """With plain SGD at rate 1 a step's length is the clipped norm."""
    options: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "epochs": 1}
    config = digits_config(**options, device="cpu")
    start = build_model(config, 64, 10)
    end = trained(tmp_path, clip_norm=0.25, batch_size=2000, **options)  # one step
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(end, start.parameters(), strict=True)]).norm()
    assert float(moved) == pytest.approx(0.25, rel=1e-5)


# Batches of 128, the last of 38: ten whole batches in groups of 3 leave a group of one whole and one partial batch.
@pytest.mark.parametrize(("batch", "accumulate"), [(128, 3), (1318, 7)])
def test_accumulated_batches_are_one_big_batch(batch: int, accumulate: int, tmp_path: Path) -> None:
    for name in ("small", "big"):
        (tmp_path / name).mkdir()
    common: dict[str, Any] = {**FLOAT64, "log_every": 1}
    small = digits_run(tmp_path / "small", batch_size=batch, accumulate=accumulate, **common)
    big = digits_run(tmp_path / "big", batch_size=batch * accumulate, **common)
    assert small.summary.state.step == big.summary.state.step == 2 * -(-1318 // (batch * accumulate))
    assert small.summary.state.examples == big.summary.state.examples == 2 * 1318
    assert_close(list(load(small.last)["model"].values()), list(load(big.last)["model"].values()))
    for name in ("train/loss", "gradient_norm/all", "train/epoch_loss"):
        values = [[r["value"] for r in run.records if r["name"] == name] for run in (small, big)]
        assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"nesterov": False, "weight_decay": 0.0}])
def test_sgd_is_that_of_torch_optim_bit_for_bit_and_either_continues_the_other(options: dict[str, Any]) -> None:
    config = Config(**options)
    vectors = [nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2)]
    vectors[0].grad = vectors[1].grad = gradient = torch.zeros(50)
    rule: dict[str, Any] = {"momentum": config.momentum, "nesterov": config.nesterov and config.momentum > 0}
    ours: Any = build_optimizer(config, vectors[:1])
    theirs: Any = optim.SGD(vectors[1:], lr=0.1, weight_decay=config.weight_decay, fused=True, **rule)
    for step in range(6):
        if step == 3:
            states = ours.state_dict(), theirs.state_dict()
            ours, theirs = build_optimizer(config, vectors[:1]), optim.SGD(vectors[1:], lr=7.0, fused=True)
            theirs.load_state_dict(states[0])
            ours.load_state_dict(states[1])
        gradient.copy_(torch.randn(50, generator=torch.Generator().manual_seed(step)))
        for optimizer in (ours, theirs):
            set_learning_rate(optimizer, 0.1 / (step + 1))
            optimizer.step()
        assert torch.equal(vectors[0], vectors[1])


def test_neither_the_optimizer_nor_a_step_imports_the_compiler() -> None:
    code = (
        "import sys, torch; from lean_mnist.nn import MLP, FlatParameters;"
        "from lean_mnist.data.batches import HotBatch;"
        "from lean_mnist.nn.engine.native import NativeEngine; from lean_mnist.nn.update import Update;"
        "from lean_mnist.training.config import Config;"
        "from lean_mnist.training.config.optimizers import build_optimizer;"
        "m = MLP((3, 2)); flat = FlatParameters(m); optimizer = build_optimizer(Config(), [flat.vector]);"
        "update, hot = Update(m, optimizer, flat=flat), HotBatch(4, 3);"
        "engine = NativeEngine(flat, update, lambda: False, hot);"
        "engine.step([(hot.features, hot.labels)]); engine.update(0.1); assert not engine.refused;"
        "m.loss_and_gradients(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64));"
        "optimizer.step(); optimizer.state_dict(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
