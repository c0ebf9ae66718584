"""The gate: a wrong gradient never reaches the weights, and no checkpoint made after it is called best."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lean_mnist import train
from lean_mnist.audit.step_audit import AuditResult
from lean_mnist.chainrule import dense
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.crosscheck.comparison import Divergence
from lean_mnist.errors import GradientMismatch, LeanMnistError
from lean_mnist.invocation import typed
from lean_mnist.nn import MLP
from lean_mnist.training.hooks.checks import judged
from lean_mnist.training.hooks.step import FailurePolicy
from lean_mnist.training.objectives.build import build_model
from lean_mnist.training.run import run
from lean_mnist.training.state import CheckSummary
from tests.support.planting import Plant
from tests.support.training_cases import (
    NAME,
    STEPS_PER_EPOCH,
    call,
    digits_config,
    digits_run,
    load,
    named,
    records_in,
)


@pytest.mark.parametrize("order", [1, -1])
def test_a_divergence_that_is_no_number_is_the_largest_that_is_recorded(order: int) -> None:
    found = [Divergence(name, value, 0.1, (), 0.0, 0.0) for name, value in (("a", math.nan), ("b", 0.5))][::order]
    result = AuditResult((Divergence("loss", 0.0, 0.1, (), 0.0, 0.0), *found), (), None, 0, 0.0)
    step: Any = SimpleNamespace(number=3)
    records = {record.name: record.value for record in judged(step, result, FailurePolicy(CheckSummary(), stop=False))}
    assert math.isnan(records["divergence/largest"])
    assert math.isnan(records["crosscheck/share_of_allowed"])
    assert records["crosscheck/passed"] == 0


def _first_layer(change: Callable[[torch.Tensor], torch.Tensor], after: int = 0) -> Callable[[Plant], None]:
    """Changes the first layer's weight gradient, from the backward pass after the first ``after`` on."""

    def put(plant: Plant) -> None:
        passes = []
        right = dense.dense_backward

        def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True), *into: Any) -> Any:
            found: Any = right(tape, d_z, needs, *into)
            # Only the step's own calls count: the enclosure runs the same formula, on balls.
            if tape.weight_HD.shape != (128, 64) or not isinstance(d_z, torch.Tensor):
                return found
            passes.append(1)
            return found._replace(weight_HD=change(found.weight_HD)) if len(passes) > after else found

        plant("chainrule.dense.dense_backward", wrong)

    return put


def _no_mask(plant: Plant) -> None:
    plant("chainrule.activations.ACTIVATIONS.relu", ACTIVATIONS["relu"]._replace(backward=lambda h, d_h: d_h))


def _one_entry(gradient: torch.Tensor) -> torch.Tensor:
    changed = gradient.clone()
    changed[7, 20] += gradient.norm() / 1000
    return changed


def _scaled(gradient: torch.Tensor) -> torch.Tensor:
    return 1.001 * gradient


def _nan(gradient: torch.Tensor) -> torch.Tensor:
    return torch.full_like(gradient, torch.nan)


BUGS: dict[str, Callable[[Plant], None]] = {
    "dW1 times 1.001": _first_layer(_scaled),
    "one entry of dW1": _first_layer(_one_entry),
    "no ReLU mask": _no_mask,
    "dW1 transposed in memory order": _first_layer(lambda gradient: gradient.T.reshape(gradient.shape)),
    "dW1 zero": _first_layer(torch.zeros_like),
    "dW1 NaN": _first_layer(_nan),
}


@pytest.fixture
def initial(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[MLP, list[torch.Tensor]]]:
    """Each network that is built from now on, with a copy of its initial weights."""
    built = []

    def build(*arguments: Any) -> MLP:
        model = build_model(*arguments)
        built.append((model, [parameter.detach().clone() for parameter in model.parameters()]))
        return model

    monkeypatch.setattr("lean_mnist.training.objectives.build.build_model", build)
    return built


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_gradient_stops_a_default_run_at_its_first_step(
    bug: str, initial: list[tuple[MLP, list[torch.Tensor]]],
    plant: Plant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    BUGS[bug](plant)
    arguments = ["--dataset", "digits", "--run-name", NAME, "--quiet"]
    status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, out) == (3, "")
    *warnings, error = err.splitlines()
    assert error.startswith("error: ")
    assert "step 1: " in error
    assert "layers.0.weight" in error
    assert "layers.1.weight[" not in error
    assert all(line.startswith("warning: step 1: ") for line in warnings)
    model, weights = initial[0]
    assert all(map(torch.equal, model.parameters(), weights))
    assert not Path("checkpoints", NAME, "best.pt").exists()
    assert load(Path("checkpoints", NAME, "last.pt"))["model"]["layers.0.weight"].equal(weights[0])
    assert not Path("runs", NAME, "summary.json").exists()


def test_the_message_names_the_tensor_the_place_and_both_values(here: Path, plant: Plant) -> None:
    _first_layer(_one_entry)(plant)
    with pytest.raises(GradientMismatch) as caught:
        run(digits_config())
    message = str(caught.value)
    assert message.startswith("gradient check failed at step 1: layers.0.weight[7, 20]: hand-written ")
    assert "reference " in message
    assert "; likely wrong values in layers.0.weight, dW = Σ dzᵀ h: " in message
    assert "(one element, [7, 20])" in message
    replay = typed("python -m lean_mnist.crosscheck.replay", f"runs/{NAME}/failures/step-1.pt")
    assert message.endswith(f"; the step was not applied; to ask again: {replay}")
    assert "\n" not in message
    records = records_in(Path("runs", NAME))
    assert named(records, "crosscheck/passed") == [0.0]
    assert named(records, "divergence/layers.0.weight")[0] > 5e-4
    assert named(records, "divergence/layers.1.weight")[0] < 1e-5


def test_a_wrong_gradient_is_found_in_accumulated_batches_too(here: Path, plant: Plant) -> None:
    _first_layer(_scaled)(plant)
    with pytest.raises(GradientMismatch, match=r"layers\.0\.weight"):
        run(digits_config(accumulate=4))


def test_nothing_planted_nothing_found(here: Path, plant: Plant) -> None:
    _first_layer(lambda gradient: gradient)(plant)
    assert run(digits_config()).state.checks.verdict == "passed"


@pytest.mark.parametrize("bug", ["dW1 times 1.001", "no ReLU mask"])
def test_with_warn_the_run_goes_on_and_is_marked(
    bug: str, tmp_path: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    BUGS[bug](plant)
    finished = digits_run(tmp_path, on_divergence="warn", check="audit", check_every=10, engine="eager")
    assert finished.summary.state.step == 2 * STEPS_PER_EPOCH
    assert not finished.best.exists()
    last = load(finished.last)
    assert last["crosscheck"]["verdict"] == "failed"
    assert "layers.0.weight" in last["crosscheck"]["first_failure"]
    summary = finished.summary_json
    assert summary["checks"]["verdict"] == "failed"
    assert summary["checks"]["failures"] == 3  # steps 1, 10 and 20
    assert summary["best_epoch"] is summary["validation_accuracy"] is None
    assert set(summary["files"]) == {"card", "certificate", "last", "report", "run"}
    assert "evaluate checkpoints/a-run/last.pt" in (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "proved within" not in str(finished.summary)  # of gradients that fail nothing is proved
    assert "WARNING" in str(finished.summary)
    assert "none could be called best" in str(finished.summary)
    assert len(named(finished.records, "crosscheck/warning")) == 1  # of the first failure, the tenth, the hundredth …
    assert all("not selected" in text for text in named(finished.records, "checkpoint/selection"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["step 1"]


def test_a_nan_gradient_is_not_applied_even_with_warn(
    initial: list[tuple[MLP, list[torch.Tensor]]], plant: Plant
) -> None:
    BUGS["dW1 NaN"](plant)
    with pytest.raises(LeanMnistError, match=r"layers\.0\.weight") as caught:
        run(digits_config(on_divergence="warn"))
    assert caught.value.exit_status == 3
    model, weights = initial[0]
    assert all(map(torch.equal, model.parameters(), weights))


# From step 13 on, in the second epoch; a fault of the Python that a recording of the first step does not run again.
LATE = _first_layer(_scaled, after=12)


# The audit finds it when it is next due, the screen at the very step.
@pytest.mark.parametrize(("check", "found"), [("audit", 15), ("screen", 13), ("full", 13)])
def test_a_failure_that_begins_later_keeps_the_earlier_best(here: Path, plant: Plant, check: str, found: int) -> None:
    LATE(plant)
    with pytest.raises(GradientMismatch, match=f"step {found}"):
        run(digits_config(epochs=3, check_every=5, check=check, engine="eager"))
    for which in ("best", "last"):
        content = load(Path("checkpoints", NAME, f"{which}.pt"))
        assert content["metrics"]["step"] == STEPS_PER_EPOCH
        assert content["crosscheck"]["verdict"] == "passed"


def test_with_warn_a_later_failure_keeps_the_earlier_best_and_marks_the_run(tmp_path: Path, plant: Plant) -> None:
    LATE(plant)
    finished = digits_run(tmp_path, epochs=3, check="audit", check_every=5, on_divergence="warn", engine="eager")
    best, last = load(finished.best), load(finished.last)
    assert (best["metrics"]["step"], best["crosscheck"]["verdict"]) == (STEPS_PER_EPOCH, "passed")
    assert (last["metrics"]["step"], last["crosscheck"]["verdict"]) == (3 * STEPS_PER_EPOCH, "failed")
    summary = finished.summary_json
    assert (summary["best_epoch"], summary["checks"]["verdict"]) == (1, "failed")
    assert summary["checks"]["first_failure"].startswith("step 15: ")
    assert "first at step 15" in str(finished.summary)
    # The summary is of the weights in best.pt, not of the last ones.
    assert best["metrics"]["test"]["errors"] == summary["test_errors"]
    json.dumps(summary, allow_nan=False)
