"""``--average``: a mean of weights over epochs is evaluated, selected and saved, and what trains is as without it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bit_flips import flip_bit
from lean_mnist.errors import HealthError, MemoryFault
from lean_mnist.training.average import WeightAverage
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.evaluation.metrics import evaluate
from lean_mnist.training.objectives import classification
from lean_mnist.training.run import run
from lean_mnist.training.steps import Steps
from tests.support.distributed_cases import together
from tests.support.training_cases import LAST, digits_config, digits_run, identical, load, named

BEST = LAST.with_name("best.pt")
PLAIN: dict[str, Any] = {"epochs": 3, "schedule": "constant", "lr": 0.02}


def mean_of(parts: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """Mean of state dicts, each of ``decay`` times the weight of the next, in float64."""
    shares = torch.tensor([decay ** (len(parts) - 1 - i) for i in range(len(parts))], dtype=torch.float64)
    shares /= shares.sum()
    return {name: torch.stack([part[name].double() for part in parts], -1) @ shares for name in parts[0]}


def assert_near(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name].double(), tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_the_mean_over_epochs_is_selected_and_what_trains_is_as_without(
    decay: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A constant rate, so that a run of more epochs goes the same way.
    shorter = [digits_run(tmp_path_factory.mktemp("n"), **{**PLAIN, "epochs": epochs}) for epochs in (1, 2, 3)]
    averaged = digits_run(tmp_path_factory.mktemp("averaged"), **PLAIN, average=decay, check="full")
    last, best = load(averaged.last), load(averaged.best)
    assert identical(last["model"], load(shorter[-1].last)["model"])
    assert named(averaged.records, "train/loss") == named(shorter[-1].records, "train/loss")
    ends = [load(one.last)["model"] for one in shorter]
    assert_near(last["training"]["position"]["average"], mean_of(ends, decay))
    epoch = averaged.summary_json["best_epoch"]
    assert_near(best["model"], mean_of(ends[:epoch], decay))
    assert "training" not in best
    assert averaged.summary_json["averaged"] is True
    assert shorter[0].summary_json["averaged"] is False
    assert "of weights averaged over its epochs" in " ".join(str(averaged.summary).split())
    card = averaged.best.with_name("model_card.md").read_text(encoding="utf-8")
    assert f"a mean of those at the ends of its epochs, each with {decay:g} times the weight of the next." in card


def test_what_was_tested_is_what_was_saved(tmp_path: Path) -> None:
    averaged = digits_run(tmp_path, **PLAIN, average=0.5)
    network = load_checkpoint(averaged.best)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        start = run(digits_config(epochs=1, run_name="b", lr=1e-30, init_from=str(averaged.best)))
    assert start.test.errors == averaged.summary.test.errors
    assert identical(load(tmp_path / "checkpoints" / "b" / "last.pt")["model"], dict(network.model.state_dict()))


def test_a_run_that_starts_from_anothers_last_weights_leaves_its_average_behind(here: Path) -> None:
    run(digits_config(**PLAIN, average=0.9))
    run(digits_config(epochs=1, run_name="b", init_from=str(LAST), average=0.9))
    other = load(Path("checkpoints", "b", "last.pt"))
    assert identical(other["training"]["position"]["average"], other["model"])


def test_several_processes_have_the_same(here: Path) -> None:
    options: dict[str, Any] = {**PLAIN, "average": 0.5, "check": "full"}
    alone = digits_run(here, **options, run_name="alone")
    outcomes = together(2, lambda world: run(digits_config(**options), None, world))
    assert [error for _, error in outcomes] == [None, None]
    for ours, theirs in ((BEST, alone.best), (LAST, alone.last)):
        assert_near(load(ours)["model"], {name: part.double() for name, part in load(theirs)["model"].items()})


@pytest.mark.parametrize(
    "options", [{"precision": "bfloat16"}, {"quantize": 4, "normalization": "unit"}, {"track_test": True}], ids=str
)
def test_other_forms_of_training(options: dict[str, Any], tmp_path: Path) -> None:
    averaged = digits_run(tmp_path, **PLAIN, **options, average=0.5)
    assert averaged.summary.test.accuracy > 0.7
    assert averaged.summary_json["certificate"]["path"]


def test_a_bit_that_flips_in_the_average_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = WeightAverage.add

    def added(self: WeightAverage, parameters: Any) -> None:
        add(self, parameters)
        if self._epochs == 2:
            flip_bit(self._vector, 9, 22)

    monkeypatch.setattr(WeightAverage, "add", added)
    with pytest.raises(MemoryFault, match="the average of the weights was changed in memory"):
        run(digits_config(**PLAIN, average=0.5, check="full"))
    assert load(LAST)["metrics"]["epoch"] == 1


def test_a_run_that_is_killed_as_it_goes_on_has_its_average(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(digits_config(**PLAIN, average=0.9))
    before = load(LAST)["training"]["position"]
    monkeypatch.setattr(Steps, "take_chunk", lambda *arguments: sys.exit(1))
    with pytest.raises(SystemExit):
        run(digits_config(**{**PLAIN, "epochs": 4}, average=0.9), LAST)
    assert identical(load(LAST)["training"]["position"], before)


def test_a_rollback_to_the_start_forgets_the_average(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = iter(range(1, 10))

    def evaluated(*arguments: Any, **options: Any) -> Any:
        if next(evaluations) == 1:
            raise HealthError("the network's outputs are not finite")
        return evaluate(*arguments, **options)

    monkeypatch.setattr(classification, "evaluate", evaluated)
    run(digits_config(**{**PLAIN, "epochs": 1}, average=0.9, on_nonfinite="rollback"))
    last = load(LAST)
    assert last["training"]["state"]["rollbacks"] == 1
    assert identical(last["training"]["position"]["average"], last["model"])
