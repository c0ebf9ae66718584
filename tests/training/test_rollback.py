"""``--on-nonfinite rollback``: a run that diverges returns to its last end of an epoch, so many times."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.errors import (
    CheckpointError,
    HealthError,
)
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import StepChunk
from lean_mnist.training.run import run
from lean_mnist.training.steps import Steps
from tests.support.distributed_cases import together
from tests.support.training_cases import (
    LAST,
    MEASURED,
    NAME,
    STEPS_PER_EPOCH,
    digits_config,
    digits_run,
    identical,
    interrupted_at,
    load,
    named,
    records_in,
    spoil_weights,
)

ROLLBACK = LAST.with_name("rollback.pt")
ROLLING: dict[str, Any] = {"on_nonfinite": "rollback", "epochs": 3, "average": 0.5, "check": "off", "log_every": 1}


def _explodes_at(patch: pytest.MonkeyPatch, step: int, above: float, rank: str = "") -> None:
    """A run whose weights leave all bounds at that step, as often as its learning rate there is above ``above``."""
    take = Steps._computed

    def computed(steps: Steps, *arguments: Any) -> Any:
        found = take(steps, *arguments)
        if found.number == step and found.learning_rate > above:
            found.gradient.fill_(torch.inf)
            found.gradient_sum = torch.inf
        return found

    patch.setattr(Steps, "_computed", computed)
    patch.setattr(NativeEngine, "chunk", lambda *arguments, **options: StepChunk([], [], False))


def test_a_run_that_diverges_goes_back_with_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _explodes_at(monkeypatch, STEPS_PER_EPOCH + 4, above=2e-3)
    finished = digits_run(tmp_path, **ROLLING, lr=0.1, schedule="constant")
    state = finished.summary.state
    assert (state.step, state.rollbacks) == (3 * STEPS_PER_EPOCH, 2)
    assert finished.summary_json["rollbacks"] == 2
    assert "rollbacks  2, each" in str(finished.summary)
    why = f"step {STEPS_PER_EPOCH + 4}: the gradient of layers.0.weight is not finite; the weights are as they were "
    assert [(record["step"], record["value"]) for record in finished.records if record["name"] == "run/rollback"] == [
        (
            STEPS_PER_EPOCH,
            f"back here with 0.1 of the learning rate, rollback {number} of 3, because of {why}before this step",
        )
        for number in (1, 2)
    ]
    lines = [line for line in capsys.readouterr().err.splitlines() if "rollback" in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"warning: step {STEPS_PER_EPOCH}: back here ")
    rates = named(finished.records, "train/learning_rate")
    assert rates == pytest.approx([0.1] * STEPS_PER_EPOCH + [0.001] * 2 * STEPS_PER_EPOCH)
    steps = [record["step"] for record in finished.records if record["name"] == "train/loss"]
    assert steps == list(range(1, 3 * STEPS_PER_EPOCH + 1))


def test_the_number_of_rollbacks_is_bounded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _explodes_at(monkeypatch, 5, above=0)
    with pytest.raises(HealthError, match=r"^step 5: .*; given up after 2 rollbacks$") as caught:
        run(digits_config(**ROLLING, rollbacks=2))
    assert caught.value.exit_status == 3
    assert load(LAST)["training"]["state"]["rollbacks"] == 2
    assert [record["name"] for record in records_in(Path("runs", NAME))].count("run/rollback") == 2


def test_weights_of_no_use_are_gone_back_from(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_weights(monkeypatch, STEPS_PER_EPOCH + 2, 1e38)
    assert run(digits_config(**ROLLING)).state.rollbacks == 1


@pytest.mark.parametrize("stop", [STEPS_PER_EPOCH + 2, STEPS_PER_EPOCH + 6, 2 * STEPS_PER_EPOCH + 5])
def test_a_run_goes_back_to_the_same_place_however_often_it_was_interrupted(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _explodes_at(monkeypatch, STEPS_PER_EPOCH + 4, above=2e-3)
    folders = [tmp_path / "whole", tmp_path / "parts"]
    for folder in folders:
        folder.mkdir()
    whole = digits_run(folders[0], **ROLLING, lr=0.1, schedule="constant")
    monkeypatch.chdir(folders[1])
    interrupted_at(stop, lambda: run(digits_config(**ROLLING, lr=0.1, schedule="constant")))
    run(digits_config(**ROLLING, lr=0.1, schedule="constant"), LAST)
    assert identical(load(whole.last)["model"], load(LAST)["model"])
    ours, theirs = (
        [(r["step"], r["name"], r["value"]) for r in records if r["name"] not in MEASURED]
        for records in (whole.records, records_in(Path("runs", NAME)))
    )
    assert ours == theirs


def test_a_damaged_place_to_go_back_to_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _explodes_at(monkeypatch, STEPS_PER_EPOCH + 4, above=0)
    interrupted_at(STEPS_PER_EPOCH + 2, lambda: run(digits_config(**ROLLING)))
    ROLLBACK.write_bytes(b"cake")
    with pytest.raises(CheckpointError, match=rf"^{ROLLBACK}: "):
        run(digits_config(**ROLLING), LAST)


def test_two_processes_go_back_together(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _explodes_at(monkeypatch, STEPS_PER_EPOCH + 4, above=2e-3)
    config = digits_config(**ROLLING, lr=0.1, schedule="constant")
    outcomes = together(2, lambda world: run(config, None, world))
    assert [(error, summary.state.rollbacks) for summary, error in outcomes] == [(None, 2)] * 2
