"""``GradientMonitorCallback`` inside the Hugging Face trainer."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lean_mnist.errors import GradientMismatch
from tests.support.integrations_models import (
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
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")  # which its trainer needs

from lean_mnist.integrations.huggingface import GradientMonitorCallback

STEPS, BATCH = 6, 4


class Net(nn.Module):
    """Gives its loss, as the trainer expects. Its norm's backward is right for the first ``right_for`` batches."""

    def __init__(self, right_for: Any = 100) -> None:
        super().__init__()
        self.body, self.right_for, self.batches = network(), right_for, 0

    def forward(self, x: Any, labels: Any = None) -> Any:
        if self.training:
            SwitchedRMSNorm.wrong = self.batches >= self.right_for
            self.batches += 1
        logits = self.body(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Examples(torch.utils.data.Dataset[Any]):
    def __init__(self, number: Any) -> None:
        self.x, self.labels = examples(number)

    def __len__(self) -> Any:
        return len(self.x)

    def __getitem__(self, i: Any) -> Any:
        return {"x": self.x[i], "labels": self.labels[i]}


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(SwitchedRMSNorm, "wrong", False)

    def make(net: Any, *callbacks: Any, **options: Any) -> Any:
        arguments = transformers.TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            per_device_train_batch_size=BATCH,
            **{"max_steps": STEPS, **options},
        )
        data = {"train_dataset": Examples(STEPS * BATCH), "eval_dataset": Examples(2 * BATCH)}
        return transformers.Trainer(net, arguments, callbacks=list(callbacks), **data)

    return make


def test_a_right_backward_trains_on_unhindered(trainer: Any) -> None:
    alone, watched, callback = Net(), Net(), GradientMonitorCallback(every=2)
    trainer(alone).train()
    watching = trainer(watched, callback)
    watching.train()
    assert watching.state.global_step == STEPS
    assert equal(weights(alone), weights(watched))
    assert checked_steps(callback.monitor) == [0, 2, 4]
    assert {report.module for report in monitor_of(callback).history} == {"body.1 (Norm)"}
    assert hooks(watched) == 0


@pytest.mark.parametrize("right_for", [0, 4])
def test_a_wrong_backward_stops_before_the_optimizer(trainer: Any, right_for: Any) -> None:
    net, callback = Net(right_for), GradientMonitorCallback(every=4)
    before: list[Any] = []

    class Before(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_step_begin(self, *arguments: Any, model: Any, **others: Any) -> None:
            before[:] = weights(model)

    stopped = trainer(net, callback, Before())
    with pytest.raises(GradientMismatch, match=rf"^body\.1 \(Norm\), forward {right_for}: FAILED"):
        stopped.train()
    assert stopped.state.global_step == right_for
    assert [report.ok for report in monitor_of(callback).history] == ([True, False] if right_for else [False])
    assert equal(before, weights(net))
    assert hooks(net) == 0


@pytest.mark.parametrize("right_for", [100, 3])
def test_accumulated_gradients(trainer: Any, right_for: Any) -> None:
    alone, watched, callback = Net(), Net(right_for), GradientMonitorCallback(every=3)
    watching = trainer(watched, callback, gradient_accumulation_steps=2)
    if right_for == 3:  # the second half of the second step
        with pytest.raises(GradientMismatch, match="forward 3: FAILED"):
            watching.train()
        assert watching.state.global_step == 1
    else:
        trainer(alone, gradient_accumulation_steps=2).train()
        watching.train()
        assert checked_steps(callback.monitor) == [0, 3, 6, 9]
        assert equal(weights(alone), weights(watched))


def test_evaluation_does_not_count(trainer: Any) -> None:
    callback = GradientMonitorCallback(every=2)
    watching = trainer(Net(), callback, eval_strategy="steps", eval_steps=1)
    watching.train()
    assert checked_steps(callback.monitor) == [0, 2, 4]
    assert monitor_of(callback).forwards == STEPS


def test_mixed_precision(trainer: Any) -> None:
    callback = GradientMonitorCallback(every=3)
    trainer(Net(), callback, bf16=True).train()
    assert checked_steps(callback.monitor) == [0, 3]
    assert {finding.rule for report in monitor_of(callback).history for finding in report.findings} >= {"autocast"}
    with pytest.raises(GradientMismatch, match=r"^body\.1 \(Norm\)"):
        trainer(Net(right_for=0), GradientMonitorCallback(), bf16=True).train()


def test_after_another_exception_it_is_for_the_caller_to_detach(trainer: Any) -> None:
    class Interrupted(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            raise KeyboardInterrupt

    net, callback = Net(), GradientMonitorCallback()
    interrupted = trainer(net, callback, Interrupted())
    with pytest.raises(KeyboardInterrupt), callback:
        interrupted.train()
    assert checked_steps(callback.monitor) == [0]
    assert hooks(net) == 0


def test_a_second_training_begins_anew(trainer: Any) -> None:
    net, callback = Net(), GradientMonitorCallback(every=4)
    again = trainer(net, callback)
    again.train()
    first = callback.monitor
    again.train()
    assert callback.monitor is not first
    assert checked_steps(callback.monitor) == [0, 4]
    assert hooks(net) == 0
