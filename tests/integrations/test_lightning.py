"""``GradientMonitorCallback`` inside Lightning's own trainer."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lean_mnist.errors import GradientMismatch
from tests.support.integrations_models import (
    CLASSES,
    WIDTH,
    Norm,
    SwitchedRMSNorm,
    checked_steps,
    equal,
    examples,
    hooks,
    monitor_of,
    network,
    weights,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a package says of its own imports is not about us
    L = pytest.importorskip("lightning.pytorch")

from lean_mnist.integrations.lightning import GradientMonitorCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]
BATCHES, BATCH = 6, 4


class Net(L.LightningModule):  # type: ignore[name-defined, misc]
    """Its norm's backward is right for the first ``right_for`` batches."""

    def __init__(self, right_for: Any = 100, manual: Any = False) -> None:
        super().__init__()
        self.body, self.right_for = network(), right_for
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, number: Any) -> Any:
        SwitchedRMSNorm.wrong = number >= self.right_for
        x, y = batch
        loss = cross_entropy(self.body(x), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def batches(number: Any = BATCHES) -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*examples(number * BATCH)), batch_size=BATCH)


def fit(net: Any, *callbacks: Any, validation: Any = None, **options: Any) -> Any:
    options = {"max_steps": BATCHES, **options}
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(net, batches(), validation)
    return trainer


@pytest.fixture(autouse=True)
def right_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwitchedRMSNorm, "wrong", False)


@pytest.mark.parametrize("manual", [False, True])
def test_a_right_backward_trains_on_unhindered(manual: Any) -> None:
    alone, watched, callback = Net(manual=manual), Net(manual=manual), GradientMonitorCallback(every=2)
    fit(alone)
    assert fit(watched, callback).global_step == BATCHES
    assert equal(weights(alone), weights(watched))
    assert checked_steps(callback.monitor) == [0, 2, 4]
    assert {report.module for report in monitor_of(callback).history} == {"body.1 (Norm)"}
    assert hooks(watched) == 0


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("right_for", [0, 4])
def test_a_wrong_backward_stops_before_the_optimizer(manual: Any, right_for: Any) -> None:
    alone, watched = Net(manual=manual), Net(right_for, manual)
    fit(alone, max_steps=right_for)
    callback = GradientMonitorCallback(every=4)
    with pytest.raises(GradientMismatch, match=rf"^body\.1 \(Norm\), forward {right_for}: FAILED"):
        fit(watched, callback)
    assert [report.ok for report in monitor_of(callback).history] == ([True, False] if right_for else [False])
    assert equal(weights(alone), weights(watched))
    assert hooks(watched) == 0


@pytest.mark.parametrize("right_for", [100, 3])
def test_accumulated_gradients(right_for: Any) -> None:
    alone, watched, callback = Net(), Net(right_for), GradientMonitorCallback(every=3)
    if right_for == 3:  # the second half of the second step
        fit(alone, max_steps=1, accumulate_grad_batches=2)
        with pytest.raises(GradientMismatch, match="forward 3: FAILED"):
            fit(watched, callback, accumulate_grad_batches=2)
    else:
        fit(alone, max_epochs=2, max_steps=-1, accumulate_grad_batches=2)
        assert fit(watched, callback, max_epochs=2, max_steps=-1, accumulate_grad_batches=2).global_step == BATCHES
        assert checked_steps(callback.monitor) == [0, 3, 6, 9]
    assert equal(weights(alone), weights(watched))


class TwoParts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(CLASSES, WIDTH), Norm(), nn.Linear(WIDTH, CLASSES))

    def training_step(self, batch: Any, number: Any) -> Any:
        x, y = batch
        return cross_entropy(self.head(self.body(x)), y)


def test_every_counts_batches_whatever_parts_are_called() -> None:
    net, callback = TwoParts(), GradientMonitorCallback(every=2)
    fit(net, callback)
    checked_steps(callback.monitor)
    assert [report.module for report in monitor_of(callback).history] == ["body.1 (Norm)", "head.1 (Norm)"] * 3


class Validated(Net):
    def validation_step(self, batch: Any, number: Any) -> None:
        with torch.inference_mode(False), torch.enable_grad():  # as where the prediction is a force, a gradient itself
            x, y = batch
            cross_entropy(self.body(x.clone()), y).backward()
            self.zero_grad()


def test_validation_does_not_count() -> None:
    net, callback = Validated(), GradientMonitorCallback(every=2)
    fit(net, callback, validation=batches(2), val_check_interval=2)
    assert len(checked_steps(callback.monitor)) == 3
    assert monitor_of(callback).forwards == BATCHES + 2 * 3 + 2  # and two of the sanity check


def test_mixed_precision() -> None:
    net, callback = Net(), GradientMonitorCallback(every=3)
    fit(net, callback, precision="bf16-mixed")
    assert checked_steps(callback.monitor) == [0, 3]
    assert {finding.rule for report in monitor_of(callback).history for finding in report.findings} >= {"autocast"}
    with pytest.raises(GradientMismatch, match=r"^body\.1 \(Norm\)"):
        fit(Net(right_for=0), GradientMonitorCallback(), precision="bf16-mixed")


class Interrupted(Net):
    def __init__(self, error: Any) -> None:
        super().__init__()
        self.error = error

    def training_step(self, batch: Any, number: Any) -> Any:
        if number == 1:
            raise self.error
        return super().training_step(batch, number)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_detaches_when_something_else_goes_wrong(error: Any) -> None:
    net, callback = Interrupted(error), GradientMonitorCallback()
    with pytest.raises((ValueError, SystemExit)):  # Lightning's way to end at Ctrl-C
        fit(net, callback)
    assert checked_steps(callback.monitor) == [0]
    assert hooks(net) == 0


def test_a_second_fit_begins_anew() -> None:
    net, callback = Net(), GradientMonitorCallback(every=4)
    fit(net, callback)
    first = callback.monitor
    fit(net, callback)
    assert callback.monitor is not first
    assert checked_steps(callback.monitor) == [0, 4]
