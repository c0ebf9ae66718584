"""Whole runs in which bits flip in memory, which end with one line; and honest runs, which see no alarm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bit_flips import flip_bit
from lean_mnist import train
from lean_mnist.data.batches import PlannedBatches
from lean_mnist.errors import MemoryFault
from lean_mnist.generalization.pacbayes.posterior import PosteriorStep
from lean_mnist.nn import FlatParameters
from lean_mnist.pacbayes import run as run_pac_bayes
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.run import run
from lean_mnist.training.steps import Steps
from tests.support.distributed_cases import together
from tests.support.training_cases import (
    LAST,
    NAME,
    STEPS_PER_EPOCH,
    after_updates,
    call,
    digits_config,
    digits_run,
    identical,
    interrupted_at,
    load,
    named,
)


def flip_after(patch: pytest.MonkeyPatch, update: int, where: Callable[[FlatParameters[Any]], torch.Tensor]) -> None:
    """In all runs together, a bit flips after so many updates."""

    def flip(number: int, parameters: FlatParameters[Any]) -> None:
        if number == update:
            flip_bit(where(parameters), 9, 22)

    after_updates(patch, flip)


def weights(parameters: FlatParameters[Any]) -> torch.Tensor:
    return parameters.vector.data


def test_a_run_stops_with_one_line_and_goes_on_from_its_last_checkpoint(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load(digits_run(here, check="full").last)
    with pytest.MonkeyPatch.context() as patch:
        flip_after(patch, STEPS_PER_EPOCH + 4, weights)
        arguments = ["--dataset", "digits", "--epochs", "2", "--run-name", "b", "--check", "full", "--quiet"]
        status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, out) == (3, "")
    assert err.splitlines() == [err.rstrip("\n")]
    assert err.startswith(f"error: step {STEPS_PER_EPOCH + 5}: layers.0.weight[0, 0] to layers.0.weight[")
    assert "-m lean_mnist.train --resume checkpoints/b" in err
    run(digits_config(run_name="b", check="full"), Path("checkpoints/b/last.pt"))
    assert identical(load(Path("checkpoints/b/last.pt"))["model"], whole["model"])


def test_what_changed_after_the_last_step_is_not_saved(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_after(monkeypatch, STEPS_PER_EPOCH, weights)
    with pytest.raises(MemoryFault, match=rf"^step {STEPS_PER_EPOCH}: layers\.0\.weight"):
        run(digits_config(check="full"))
    assert load(LAST)["metrics"]["step"] == 0
    assert not LAST.with_name("best.pt").exists()


def test_with_warn_the_run_goes_on_and_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_after(monkeypatch, 5, weights)
    finished = digits_run(tmp_path, check="full", on_divergence="warn")
    assert finished.summary.state.step == 2 * STEPS_PER_EPOCH
    assert finished.summary_json["checks"]["verdict"] == "failed"
    assert finished.summary_json["checks"]["failures"] == 1
    assert finished.summary_json["checks"]["first_failure"].startswith("step 6: layers.0.weight[0, 0] to ")
    assert len(named(finished.records, "memory/warning")) == 1
    assert not finished.best.exists()


@pytest.mark.parametrize("check", ["off", "audit", "full"])
@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize("label", [2**40, -3])
def test_a_label_of_no_class_ends_a_run_with_one_line(
    check: str, engine: str, label: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Steps.take_chunk

    def spoiled(self: Steps, batches: Any) -> bool:
        if self.state.step >= 4:
            in_memory = isinstance(batches, PlannedBatches)  # is made a batch only when it is asked for
            assert in_memory == (engine == "native")
            labels, at = (batches.labels, batches.order[batches.end - 1]) if in_memory else (batches[-1][1], 7)
            labels[at] = label
        return take(self, batches)

    monkeypatch.setattr(Steps, "take_chunk", spoiled)
    with pytest.raises(MemoryFault, match=str(label)) as caught:
        run(digits_config(check=check, engine=engine))
    assert "\n" not in str(caught.value)


HONEST: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in ("sgd", "adam", "adamw", "rmsprop")},
    "bfloat16": {"precision": "bfloat16"},
    "float64": {"precision": "float64", "clip_norm": 0.1},
    "accumulated": {"accumulate": 3},
    "as written": {"engine": "eager"},
    "quantized": {"quantize": 3, "normalization": "unit"},
    "augmented": {"augment": "elastic", "optimizer": "adam"},
    "per image": {"normalization": "per-image", "batch_size": 50},
}


@pytest.mark.parametrize("options", HONEST.values(), ids=list(HONEST))
def test_an_honest_run_raises_no_alarm_and_learns_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    plain = load(digits_run(tmp_path, check="off", run_name="off", **options).root / "checkpoints" / "off" / "last.pt")
    finished = digits_run(tmp_path, check="full", **options)
    assert finished.summary.state.checks.verdict == "passed"
    assert identical(load(finished.last)["model"], plain["model"])
    assert identical(load(finished.last)["training"]["optimizer"], plain["training"]["optimizer"])


def test_a_resumed_run_raises_no_alarm(here: Path) -> None:
    whole = load(
        digits_run(here, check="full", optimizer="adam", augment="affine", run_name="whole").root
        / "checkpoints"
        / "whole"
        / "last.pt"
    )
    config = digits_config(check="full", optimizer="adam", augment="affine")
    interrupted_at(4, lambda: run(config))
    interrupted_at(STEPS_PER_EPOCH, lambda: run(config, LAST))
    run(config, LAST)
    assert identical(load(LAST)["model"], whole["model"])


PAC_BAYES: dict[str, Any] = {
    "dataset": "digits", "hidden": (8,), "prior_scale": ("0.1", "1/4"), "prior_epochs": 1, "epochs": 1, "draws": 300,
    "run_name": NAME, "quiet": True,
}  # fmt: skip


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.objectives.pac_bayes_result.ESTIMATE_DRAWS", 500)


def test_an_honest_pac_bayes_run_raises_no_alarm(here: Path, few_draws: None) -> None:
    run_pac_bayes(PacBayesConfig(**PAC_BAYES, check="full"))
    full = load(LAST)
    assert full["crosscheck"]["verdict"] == "passed"
    run_pac_bayes(PacBayesConfig(**{**PAC_BAYES, "run_name": "off"}, check="off"))
    assert identical(load(Path("checkpoints/off/last.pt"))["model"], full["model"])


def test_a_prior_that_is_changed_is_found(here: Path, few_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    init = PosteriorStep.__init__

    def kept(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(PosteriorStep, "__init__", kept)
    flip_after(monkeypatch, 3, lambda parameters: made[0].prior.vector)
    with pytest.raises(MemoryFault, match=r"^step 4: the prior's "):
        run_pac_bayes(PacBayesConfig(**PAC_BAYES, check="full"))


def test_all_of_several_processes_stop_where_one_finds_something(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_after(monkeypatch, 7, weights)  # of one rank, whichever it is
    outcomes = together(2, lambda world: run(digits_config(check="full"), None, world))
    errors = [error for _, error in outcomes]
    assert [type(error) for error in errors] == [MemoryFault] * 2
    assert len({str(error) for error in errors}) == 1
    assert str(errors[0]).startswith("rank ")
    assert ": step 5: layers.0.weight[0, 0] to " in str(errors[0])
