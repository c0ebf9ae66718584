"""The loop: it learns, uses every example, stops when it should, and never applies what is not finite."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.chainrule import dense
from lean_mnist.data.batches import Batch, Batches
from lean_mnist.errors import HealthError
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.step import StepEngine, put_flat_gradients
from lean_mnist.nn.update import Update
from lean_mnist.training.config import Config
from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.hooks.checks import HealthHook
from lean_mnist.training.hooks.step import FailurePolicy, StepHooks
from lean_mnist.training.objectives.build import build_model
from lean_mnist.training.run import run
from lean_mnist.training.sinks.records import Epoch, Record, Scalar
from lean_mnist.training.state import CheckSummary, RunState, Verdict
from lean_mnist.training.trainer import Trainer
from tests.support.planting import Plant
from tests.support.training_cases import (
    NAME,
    STEPS_PER_EPOCH,
    TRAINING_EXAMPLES,
    FinishedRun,
    after_updates,
    digits_config,
    digits_run,
    load,
    named,
    records_in,
)


def test_the_loss_falls_and_the_network_reads(default_run: FinishedRun) -> None:
    losses = named(default_run.records, "train/epoch_loss")
    assert len(losses) == 30
    assert losses[0] > 1.5
    assert losses[-1] < 0.05
    assert named(default_run.records, "validation/accuracy")[-1] > 0.95
    assert default_run.summary.test.accuracy >= 0.95


def test_every_example_is_used_in_every_epoch(short_run: FinishedRun) -> None:
    assert short_run.summary.state.step == 2 * STEPS_PER_EPOCH
    assert short_run.summary.state.examples == 2 * TRAINING_EXAMPLES
    assert short_run.summary_json["training_examples"] == TRAINING_EXAMPLES


@pytest.mark.parametrize(("size", "steps"), [(1317, 2), (1318, 1), (5000, 1), (659, 2)])
def test_the_partial_last_batch_is_used(size: int, steps: int, tmp_path: Path) -> None:
    finished = digits_run(tmp_path, batch_size=size, epochs=1, log_every=1)
    assert (finished.summary.state.step, finished.summary.state.examples) == (steps, TRAINING_EXAMPLES)
    assert len(named(finished.records, "train/loss")) == steps


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=1, log_every=1, batch_size=1000)
    first, second = named(finished.records, "train/loss")
    expected = (1000 * first + 318 * second) / 1318
    assert named(finished.records, "train/epoch_loss") == [pytest.approx(expected, rel=1e-12)]


VARIETY: list[dict[str, Any]] = [
    *({"activation": name} for name in ("leaky-relu", "sigmoid", "tanh", "gelu", "identity")),
    {"hidden": (20, 30, 40)},
    {"hidden": (1,), "bias": False},
    {"normalization": "per-image", "label_smoothing": 0.1},
    {"normalization": "unit", "logit_penalty": 0.01},
    {"initialization": "xavier-uniform", "precision": "float64"},
    {"initialization": "scale", "init_scale": 0.1, "optimizer": "adam"},
    {"accumulate": 3, "batch_size": 50, "clip_norm": 1.0},
    {"batch_size": 1, "limit_train": 30},
]


@pytest.mark.parametrize("options", VARIETY, ids=str)
def test_runs_of_every_kind_pass_their_checks(options: dict[str, Any], tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=1, check_every=5, gradcheck_every=5, **options)
    checks = finished.summary.state.checks
    assert checks.verdict == "passed", checks.first_failure
    assert checks.comparisons >= 2
    assert 0 < checks.largest_share <= 1
    assert load(finished.best)["crosscheck"]["verdict"] == "passed"


def test_a_run_without_checks_says_so(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=1, check="off")
    assert finished.summary_json["checks"]["verdict"] == "unchecked"
    assert load(finished.best)["crosscheck"]["verdict"] == "unchecked"
    assert "none were due" in str(finished.summary)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(short_run: FinishedRun, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("same", "other")]
    for folder in folders:
        folder.mkdir()
    same, other = digits_run(folders[0]), digits_run(folders[1], seed=1)
    expected = named(short_run.records, "train/epoch_loss")
    assert named(same.records, "train/epoch_loss") == expected
    assert named(other.records, "train/epoch_loss") != expected
    weights = [load(run.best)["model"]["layers.0.weight"] for run in (short_run, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# -- stopping early, on evaluations made up for the purpose -----------------------------------------------------------


class OneBatch:
    """An objective and its batches: a small network, one batch an epoch, (correct of 100, loss) of each given."""

    fingerprint = ""

    def __init__(self, config: Config, evaluations: list[tuple[int, float]]) -> None:
        self.config, self.batches, self._evaluations = config, self, iter(evaluations)
        self.parameters = FlatParameters(MLP((2, 3, 2)))

    def chunks(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        yield [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))]

    def engine(self, update: Update, stop_requested: Callable[[], bool]) -> StepEngine:
        return StepEngine(functools.partial(put_flat_gradients, self.parameters), update, stop_requested)

    def learning_rate(self, step: int) -> float:
        return 0.1

    def evaluate(self, split: str) -> Evaluation:
        correct, loss = next(self._evaluations)
        confusion, right = torch.tensor([[correct, 100 - correct], [0, 0]]), torch.arange(100) < correct
        return Evaluation(loss, confusion, torch.zeros(100, dtype=torch.int64), torch.ones(100), right)

    def epoch_values(self) -> dict[str, float]:
        return {}


def _trained_on(evaluations: list[tuple[int, float]], **options: Any) -> tuple[RunState, list[str], list[Record]]:
    """The state after training with these (correct of 100, loss) as the validation split, what was saved, records."""
    state = RunState()
    saved: list[str] = []
    records: list[Record] = []
    objective: Any = OneBatch(digits_config(epochs=len(evaluations), **options), evaluations)

    flat = objective.parameters
    trainer = Trainer(
        objective=objective,
        update=Update(flat.network, torch.optim.SGD([flat.vector], lr=0.1), flat=flat),
        hooks=StepHooks(HealthHook(math.log(2), FailurePolicy(state.checks)), [], [], state.checks),
        state=state,
        emit=records.append,
        save=lambda which: saved.append(f"{which} {state.epoch}"),
        stop_requested=lambda: False,
    )
    assert trainer.fit()
    return state, saved, records


def test_the_best_is_by_accuracy_and_ties_by_loss() -> None:
    state, saved, records = _trained_on([(50, 1.0), (60, 2.0), (60, 2.0), (60, 1.5), (59, 0.1), (60, 1.6)])
    assert [which for which in saved if which.startswith("best")] == ["best 1", "best 2", "best 4"]
    assert state.best is not None
    assert (state.best.epoch, state.best.correct, state.best.loss) == (4, 60, 1.5)
    reasons = [record.value for record in records if record.name == "checkpoint/selection"]
    assert ["loss at equal accuracy" in str(reason) for reason in reasons] == [False, False, True]
    assert [which for which in saved if which.startswith("last")] == [f"last {epoch}" for epoch in range(1, 7)]


EARLY = [  # evaluations, patience, epochs made
    ([(50, 1.0), (40, 1.0), (40, 1.0), (40, 1.0)], 2, 3),
    ([(50, 1.0), (40, 1.0), (60, 1.0), (40, 1.0), (40, 1.0), (90, 1.0)], 2, 5),
    ([(50, 1.0), (40, 1.0), (60, 1.0), (40, 1.0)], 3, 4),
    ([(50, 1.0), (50, 1.0), (90, 1.0)], 1, 2),
    # No better accuracy, as the option says, whatever the loss does.
    ([(50, 1.0), (50, 0.9), (50, 0.8), (50, 0.7)], 2, 3),
]


@pytest.mark.parametrize(("evaluations", "patience", "epochs"), EARLY)
def test_training_stops_after_so_many_epochs_without_a_better_accuracy(
    evaluations: list[tuple[int, float]], patience: int, epochs: int
) -> None:
    state, _, _ = _trained_on(evaluations, early_stopping=patience)
    assert state.epoch == epochs


def test_training_stops_early_also_when_a_failed_check_lets_nothing_be_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckSummary, "verdict", property(lambda summary: Verdict.FAILED))
    state, saved, _ = _trained_on([(50, 1.0), (40, 1.0), (40, 1.0), (40, 1.0), (40, 1.0)], early_stopping=2)
    assert not [which for which in saved if which.startswith("best")]
    assert state.epoch == 3


def test_a_run_stops_early_and_says_why(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=60, early_stopping=3, schedule="constant", lr=0.5)
    assert finished.summary.state.epoch < 60
    assert finished.summary_json["finished"] == "no better validation accuracy in 3 epochs"
    assert load(finished.last)["training"]["state"]["epochs_without_improvement"] == 3


def test_an_epoch_reports_what_a_person_reads() -> None:
    _, _, records = _trained_on([(50, 1.0), (60, 0.5)])
    epochs = [record.value for record in records if isinstance(record, Epoch)]
    assert [(epoch["epoch"], epoch["validation_accuracy"], epoch["validation_loss"]) for epoch in epochs] == [
        (1, 0.5, 1.0), (2, 0.6, 0.5),
    ]  # fmt: skip
    steps = [record.step for record in records if isinstance(record, Scalar) and record.name == "validation/accuracy"]
    assert steps == [1, 2]


# -- health -----------------------------------------------------------------------------------------------------------

Watched = dict[str, Any]


@pytest.fixture
def watched(here: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The network of the next run under ``"model"``, and how often it was updated under ``"steps"``."""
    seen: Watched = {"steps": 0, "before": []}

    def build(*arguments: Any) -> MLP:
        seen["model"] = model = build_model(*arguments)
        return model

    def count(number: int, parameters: FlatParameters[Any]) -> None:
        seen["steps"] = number
        seen["before"] = [parameter.detach().clone() for parameter in parameters.network.parameters()]

    monkeypatch.setattr("lean_mnist.training.objectives.build.build_model", build)
    after_updates(monkeypatch, count)
    return seen


def _untouched(watched: Watched) -> bool:
    """Whether the weights are, bit for bit, those that the last update left."""
    return all(map(torch.equal, watched["model"].parameters(), watched["before"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    value: float, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Batches.chunks

    def spoilt(batches: Batches, number: int, start: int = 0) -> Iterator[list[Batch]]:
        index = itertools.count()
        for x, labels in itertools.chain.from_iterable(chunks(batches, number, start)):
            yield [(torch.full_like(x, value) if next(index) == 4 else x, labels)]

    monkeypatch.setattr(Batches, "chunks", spoilt)
    with pytest.raises(HealthError, match=r"step 5: the loss is (nan|inf); the weights are as they were") as caught:
        run(digits_config(check="audit", log_every=1))  # else it is a fault of the memory
    assert caught.value.exit_status == 3
    assert watched["steps"] == 4
    assert _untouched(watched)
    # What a person needs to see is on record, as JSON has it.
    loss = [r["value"] for r in records_in(Path("runs", NAME)) if r["name"] == "train/loss" and r["step"] == 5]
    assert loss in (["nan"], ["inf"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_gradient_that_is_not_finite_stops_before_the_step_and_is_named(
    layer: int, value: float, watched: Watched, plant: Plant
) -> None:
    calls = []
    right = dense.dense_backward

    def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True), *into: Any) -> Any:
        found: Any = right(tape, d_z, needs, *into)
        # Only the step's own calls count: the enclosure runs the same formula, on balls.
        if isinstance(d_z, torch.Tensor) and tape.weight_HD.shape[1] == (64, 128)[layer]:
            calls.append(layer)
            if len(calls) >= 3:  # also when the step is computed again
                found.bias_H[1] = value
        return found

    plant("chainrule.dense.dense_backward", wrong)
    expected = (
        rf"step 3: the gradient of layers\.{layer}\.bias is not finite: likely NaN in layers\.{layer}\.bias, "
        rf"db = Σ dz: 1 of {(128, 10)[layer]} values .*; the weights are as they were before this step; to ask again: "
    )
    with pytest.raises(HealthError, match=expected):
        run(digits_config(engine="eager"))
    assert watched["steps"] == 2
    assert _untouched(watched)


def _notices(folder: Path, about: str) -> list[tuple[int, str]]:
    records = records_in(folder)
    return [(r["step"], r["value"]) for r in records if r["name"] == "health/warning" and about in r["value"]]


@pytest.fixture
def scaled_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``scaled_batches(factor)``: features times ``factor``."""
    chunks = Batches.chunks

    def scale(factor: float) -> None:
        def scaled(batches: Batches, number: int, start: int = 0) -> Iterator[list[Batch]]:
            return ([(factor * x, y)] for x, y in itertools.chain.from_iterable(chunks(batches, number, start)))

        monkeypatch.setattr(Batches, "chunks", scaled)

    return scale


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_gradient_that_explodes_is_announced_once_a_tensor(
    log_every: int, scaled_batches: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled_batches(100.0)
    finished = digits_run(tmp_path, check="audit", lr=1e-9, log_every=log_every)
    found = _notices(finished.folder, "exploding")
    assert [text.split(" is ")[0] for _, text in found] == [
        "the gradient of layers.0.weight", "the gradient of layers.1.weight",
    ]  # fmt: skip
    assert all(step == 1 for step, _ in found)
    assert found[0][1].endswith(", above 10")
    norms = named(finished.records, "gradient_norm/layers.0.weight")
    assert min(norms) > 10
    assert len(norms) == 1 + 2 * STEPS_PER_EPOCH // log_every - (log_every == 1)
    # Quiet silences all but warnings.
    assert all(line.startswith("warning: step 1: ") for line in capsys.readouterr().err.splitlines())


def test_a_gradient_that_vanishes_is_announced_once_a_tensor(tmp_path: Path) -> None:
    finished = digits_run(tmp_path, hidden=(32, 32), initialization="scale", init_scale=1e-4, lr=1e-9, log_every=1)
    tensors = [text.split(" is ")[0].rpartition(" ")[2] for _, text in _notices(finished.folder, "vanishing")]
    assert tensors == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "layers.2.weight"]


def test_a_small_gradient_at_the_end_of_training_is_no_warning(default_run: FinishedRun) -> None:
    assert _notices(default_run.folder, "") == []


@pytest.mark.parametrize(("scale", "notice"), [(0.01, False), (10.0, True)])
def test_a_first_loss_far_from_that_of_guessing_is_announced(scale: float, notice: bool, tmp_path: Path) -> None:
    finished = digits_run(tmp_path, epochs=1, initialization="scale", init_scale=scale, lr=1e-9)
    found = _notices(finished.folder, "that of guessing is ln C = 2.303")
    assert [step for step, _ in found] == [1] * notice
    (ratio,) = named(finished.records, "health/initial_loss_over_ln_classes")
    assert (ratio > 2) == notice
