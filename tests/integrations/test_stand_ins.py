"""The callbacks of other frameworks, on stand-ins with the same interface: for where those are not installed."""

import importlib
import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from lean_mnist.errors import ArgumentError, GradientMismatch
from tests.support.integrations_models import SwitchedRMSNorm, checked_steps, equal, examples, hooks, network, weights

BATCHES = 3


@pytest.fixture(autouse=True)
def right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwitchedRMSNorm, "wrong", False)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, right: bool) -> None:
    monkeypatch.setattr(SwitchedRMSNorm, "wrong", True)


def imported(monkeypatch: pytest.MonkeyPatch, name: str, packages: Any) -> Any:
    """``lean_mnist.integrations.NAME`` as it is where ``packages`` are installed, or are not (``None``)."""
    for package, module in packages.items():
        monkeypatch.setitem(sys.modules, package, module)
    name = f"lean_mnist.integrations.{name}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


def batches() -> Any:
    return torch.stack(torch.chunk(examples(4 * BATCHES)[0], BATCHES))


# Lightning: a trainer that calls its callbacks where Lightning's does.

ABSENT = {"lightning": None, "lightning.pytorch": None, "pytorch_lightning": None}


class LightningCallback:
    monitor: Any


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType(request.param)
    vars(module)["Callback"] = LightningCallback
    parent = types.ModuleType("lightning") if request.param == "lightning.pytorch" else None
    packages = {**ABSENT, "lightning": parent, request.param: module}
    return imported(monkeypatch, "lightning", packages).GradientMonitorCallback


def fit(module: Any, callback: Any) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    callback.on_fit_start(None, module)
    try:
        for number, batch in enumerate(batches()):
            callback.on_train_batch_start(None, module, batch, number)
            optimizer.zero_grad()
            loss = module.training_step(batch)
            loss.backward()
            optimizer.step()
            callback.on_train_batch_end(None, module, loss, batch, number)
            module.training_step(batch)  # a validation, with gradients
    except Exception as error:
        callback.on_exception(None, module, error)
        raise
    callback.on_fit_end(None, module)


class CallsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = network(), nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.head(self.net(x))

    def training_step(self, batch: Any) -> Any:
        return self(batch).square().mean()


class CallsItsParts(CallsItself):
    def training_step(self, batch: Any) -> Any:
        return self.head(self.net(batch)).square().mean()


@pytest.mark.parametrize("every", [2, lambda batch: batch != 1])
@pytest.mark.parametrize("kind", [CallsItself, CallsItsParts])
def test_lightning(lightning: Any, kind: Any, every: Any) -> None:
    module, callback = kind(), lightning(every=every, seed=0)
    assert isinstance(callback, LightningCallback)
    fit(module, callback)
    fit(module, callback)
    assert len(checked_steps(callback.monitor)) == 2
    assert {report.module for report in callback.monitor.history} == {"net.1 (Norm)"}
    assert hooks(module) == 0


def test_lightning_as_the_budget_allows(lightning: Any) -> None:
    module, callback = CallsItself(), lightning(seed=0, at_most=1.0)
    fit(module, callback)
    assert callback.monitor.forwards == BATCHES  # no validation among them
    assert checked_steps(callback.monitor)[0] == 0
    assert hooks(module) == 0


@pytest.mark.parametrize("kind", [CallsItself, CallsItsParts])
def test_lightning_stops_at_a_wrong_gradient(lightning: Any, wrong: bool, kind: Any) -> None:
    module = kind()
    before = weights(module)
    with pytest.raises(GradientMismatch, match=r"^net.1 \(Norm\)"):
        fit(module, lightning())
    assert equal(before, weights(module))
    assert hooks(module) == 0


@pytest.mark.parametrize("every", [0, 1.5, "2"])
def test_a_bad_schedule(lightning: Any, every: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^every: expected a whole number of at least 1, or a function, found "):
        lightning(every=every)


def test_without_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"^Lightning is not installed; pip install 'lean_mnist\[lightning\]'$"):
        imported(monkeypatch, "lightning", ABSENT)


# Hugging Face.


class TrainerCallback:
    monitor: Any


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch) -> Any:
    transformers = types.ModuleType("transformers")
    vars(transformers)["TrainerCallback"] = TrainerCallback
    return imported(monkeypatch, "huggingface", {"transformers": transformers}).GradientMonitorCallback


def train(model: Any, callback: Any, after_step: Any = lambda: None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    callback.on_train_begin(None, None, None, model=model, train_dataloader=None)
    for batch in batches():
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        after_step()
    callback.on_train_end(None, None, None, model=model)


def test_huggingface(huggingface: Any) -> None:
    model, callback = network(), huggingface(every=2)
    assert isinstance(callback, TrainerCallback)
    train(model, callback)
    train(model, callback)
    assert checked_steps(callback.monitor) == [0, 2]
    assert hooks(model) == 0


def test_huggingface_stops_at_a_wrong_gradient(huggingface: Any, wrong: bool) -> None:
    model, callback = network(), huggingface()
    before = weights(model)
    with pytest.raises(GradientMismatch, match=r"^1 \(Norm\)"):
        train(model, callback)
    assert equal(before, weights(model))
    assert hooks(model) == 0


def test_another_exception_leaves_it_attached_unless_it_is_a_context(huggingface: Any) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    model, callback = network(), huggingface()
    for attached, context in ((True, huggingface()), (False, callback)):
        with pytest.raises(RuntimeError, match="no memory"), context:
            train(model, callback, fail)
        assert (hooks(model) > 0) is attached


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"^transformers is not installed; pip install 'lean_mnist\[huggingface\]'$"):
        imported(monkeypatch, "huggingface", {"transformers": None})


class Broken:
    """Finds ``lightning`` and ``transformers``, which need something that is not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in ("lightning", "transformers"):
            raise ModuleNotFoundError("No module named 'else'", name="else")


@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("huggingface", "transformers")])
def test_a_broken_package_is_not_an_absent_one(monkeypatch: pytest.MonkeyPatch, name: str, package: Any) -> None:
    for module in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'else'$"):
        imported(monkeypatch, name, {})
