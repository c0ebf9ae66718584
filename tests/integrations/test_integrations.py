"""The callbacks of other frameworks, on stand-ins with the same interface, and the pytest fixture."""

import importlib
import sys
import types

import pytest
import torch
from torch import nn
from torch.autograd import Function

from lean_mnist.errors import GradientMismatch

pytest_plugins = ["pytester"]


class Double(Function):
    """Says that the derivative of 2x is ``slope``."""

    slope = 2.0

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return Double.slope * g


class Layer(nn.Module):
    def forward(self, x):
        return Double.apply(x)


@pytest.fixture
def wrong(monkeypatch):
    monkeypatch.setattr(Double, "slope", 2.5)


def imported(monkeypatch, name, **packages):
    """``lean_mnist.integrations.NAME`` as it is where ``packages`` are installed, or not (``None``)."""
    for package, module in packages.items():
        monkeypatch.setitem(sys.modules, package.replace("__", "."), module)
    monkeypatch.delitem(sys.modules, f"lean_mnist.integrations.{name}", raising=False)
    module = importlib.import_module(f"lean_mnist.integrations.{name}")
    monkeypatch.delitem(sys.modules, f"lean_mnist.integrations.{name}")
    return module


# Lightning: a trainer that calls its callbacks where Lightning's does.


class LightningModule(nn.Module):
    def forward(self, *arguments):
        raise NotImplementedError


class LightningCallback:
    pass


def lightning(monkeypatch, package="lightning.pytorch"):
    module = types.ModuleType(package)
    module.Callback = LightningCallback
    names = {"lightning": None, "lightning.pytorch": None, "pytorch_lightning": None}
    if package == "lightning.pytorch":
        names["lightning"] = types.ModuleType("lightning")
    names[package] = module
    for name, value in names.items():
        monkeypatch.setitem(sys.modules, name, value)
    return imported(monkeypatch, "lightning").GradientMonitorCallback


def fit(module, callback, steps=3):
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    callback.on_fit_start(None, module)
    try:
        for _ in range(steps):
            optimizer.zero_grad()
            module.training_step(torch.randn(4, 3)).backward()
            optimizer.step()
    except Exception as error:
        callback.on_exception(None, module, error)
        raise
    callback.on_fit_end(None, module)


class CallsItself(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), Layer())

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        return self(batch).square().mean()


class CallsItsParts(CallsItself):
    def training_step(self, batch):
        return self.net(batch).square().mean()


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("kind", [CallsItself, CallsItsParts])
def test_lightning(monkeypatch, package, kind):
    callback = lightning(monkeypatch, package)(every=2, seed=0)
    assert isinstance(callback, LightningCallback)
    module = kind()
    fit(module, callback)
    assert [report.step for report in callback.monitor.history] == [0, 2]
    assert all(report.ok for report in callback.monitor.history)
    assert {report.module for report in callback.monitor.history} == {"net.1 (Layer)"}
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("kind", [CallsItself, CallsItsParts])
def test_lightning_stops_at_a_wrong_gradient(monkeypatch, wrong, kind):
    module = kind()
    callback = lightning(monkeypatch)()
    with pytest.raises(GradientMismatch, match=r"net.1 \(Layer\)"):
        fit(module, callback)
    assert not any(part._forward_hooks for part in module.modules())


def test_without_lightning(monkeypatch):
    absent = {"lightning": None, "lightning__pytorch": None, "pytorch_lightning": None}
    with pytest.raises(ImportError, match=r"^Lightning is not installed; pip install 'lean_mnist\[lightning\]'$"):
        imported(monkeypatch, "lightning", **absent)


# Hugging Face.


class TrainerCallback:
    pass


def huggingface(monkeypatch):
    transformers = types.ModuleType("transformers")
    transformers.TrainerCallback = TrainerCallback
    return imported(monkeypatch, "huggingface", transformers=transformers).GradientMonitorCallback


def train(model, callback, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    callback.on_train_begin(None, None, None, model=model, train_dataloader=None)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
    callback.on_train_end(None, None, None, model=model)


def test_huggingface(monkeypatch):
    callback = huggingface(monkeypatch)(every=2)
    assert isinstance(callback, TrainerCallback)
    model = nn.Sequential(nn.Linear(3, 3), Layer())
    train(model, callback)
    train(model, callback)
    assert [report.step for report in callback.monitor.history] == [0, 2]
    assert all(report.ok for report in callback.monitor.history)
    assert not any(part._forward_hooks for part in model.modules())


def test_huggingface_stops_at_a_wrong_gradient(monkeypatch, wrong):
    model = nn.Sequential(nn.Linear(3, 3), Layer())
    with pytest.raises(GradientMismatch, match=r"1 \(Layer\)"):
        train(model, huggingface(monkeypatch)())


def test_without_transformers(monkeypatch):
    with pytest.raises(ImportError, match=r"^transformers is not installed; pip install 'lean_mnist\[huggingface\]'$"):
        imported(monkeypatch, "huggingface", transformers=None)


# pytest.

TESTS = """
import torch
from torch.autograd import Function

class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return FACTOR * g * ctx.saved_tensors[0] ** 2

def test_backward(gradient_check):
    report = gradient_check(Cube.apply, lambda x: x**3, [torch.randn(4, requires_grad=True)], names=["x"])
    assert report.ok
"""


@pytest.mark.parametrize(("factor", "failed"), [(3, 0), (2, 1)])
def test_the_fixture(pytester, factor, failed):
    pytester.makepyfile(TESTS.replace("FACTOR", str(factor)))
    plugin = "lean_mnist.integrations.pytest_plugin"
    already = any(module is sys.modules.get(plugin) for _, module in pytest_plugins_registered())
    options = [] if already else ["-p", plugin]
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)
    result.assert_outcomes(failed=failed, passed=1 - failed)
    if failed:
        result.stdout.fnmatch_lines(["FAILED (seed *)", "*FAILED  gradient of x*", "*likely constant factor*"])


def pytest_plugins_registered():
    from importlib.metadata import entry_points

    return [(p.name, sys.modules.get(p.value)) for p in entry_points(group="pytest11")]


def test_nothing_heavy_is_imported_with_the_plugin():
    code = "import sys, lean_mnist.integrations.pytest_plugin; sys.exit('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
