"""More epochs for a run, weights of another run to start from, and what either says and pays for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist import train
from lean_mnist.certify import CertifyArguments, certify_checkpoint
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.run import run
from tests.support.training_cases import (
    NAME,
    call,
    digits_config,
    digits_run,
    identical,
    interrupted_at,
    load,
    named,
    records_in,
)

KINDS: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "constant", "lr": 0.01},
    "step": {"schedule": "step", "decay_epochs": 2, "lr": 0.05, "augment": "affine", "average": 0.5},
    "exponential, adam": {"schedule": "exponential", "decay_epochs": 1, "optimizer": "adam", "warmup_steps": 5},
}
FINAL, CHECKPOINTS = 3, Path("checkpoints")


@pytest.fixture(autouse=True)
def same_generator() -> None:
    """PyTorch's global generator, which a run saves but does not draw from, begins alike in every run of a test."""
    torch.manual_seed(0)


def go_on(*arguments: str) -> Any:
    config, path = read_arguments(["--resume", NAME, *arguments])
    assert path is not None
    return run(config, path)


@pytest.mark.parametrize("interrupted", [False, True], ids=["finished", "interrupted"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_more_epochs_is_the_longer_run_bit_for_bit(
    kind: str, interrupted: bool, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    longer = digits_run(tmp_path_factory.mktemp("longer"), epochs=FINAL, **KINDS[kind])
    torch.manual_seed(0)
    if interrupted:
        interrupted_at(7, lambda: run(digits_config(epochs=1, **KINDS[kind])))
    else:
        run(digits_config(epochs=1, **KINDS[kind]))
    summary = go_on("--epochs", str(FINAL))
    for which, theirs in (("best", longer.best), ("last", longer.last)):
        ours, expected = load(CHECKPOINTS / NAME / f"{which}.pt"), load(theirs)
        for name in ("model", "normalization", "config", "crosscheck"):
            assert identical(without_seconds(ours[name]), without_seconds(expected[name])), (which, name)
    for name in ("optimizer", "position"):
        assert identical(ours["training"].get(name), expected["training"].get(name)), name
    for name in ("train/loss", "train/learning_rate", "validation/accuracy", "divergence/largest"):
        assert named(records_in(Path("runs", NAME)), name) == named(longer.records, name), name
    assert summary.state.epoch == FINAL
    assert json.loads(Path("runs", NAME, "config.json").read_text(encoding="utf-8"))["epochs"] == FINAL
    # A finished run's test accuracy was known before it went on, and is paid for.
    assert [look["purpose"] for look in summary.state.test_looks] == ["track"] * (not interrupted) + ["final"]
    assert summary.state.adaptive is not interrupted


def without_seconds(value: Any) -> Any:
    return {key: item for key, item in value.items() if key != "seconds"} if isinstance(value, dict) else value


def test_the_certificate_pays_for_looks_that_were_known(here: Path) -> None:
    run(digits_config(epochs=1, schedule="constant", lr=0.01))
    first = json.loads(Path("runs", NAME, "certificate.json").read_text(encoding="utf-8"))
    go_on("--epochs", "2")
    second = json.loads(Path("runs", NAME, "certificate.json").read_text(encoding="utf-8"))
    assert (first["history"]["looks"], first["history"]["adaptive"]) == (1, False)
    assert (second["history"]["looks"], second["history"]["adaptive"]) == (2, True)
    again, _ = certify_checkpoint(CertifyArguments(), f"checkpoints/{NAME}/best.pt")
    assert again.document["history"] == second["history"]


def test_a_schedule_of_epochs_says_what_it_does(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(digits_config(epochs=2, schedule="cosine", lr=0.05, log_every=1))
    capsys.readouterr()
    status, _, err = call(train.main, ["--resume", NAME, "--epochs", "4", "--no-quiet"], monkeypatch, capsys)
    assert status == 0
    assert err.splitlines()[0] == (
        "4 epochs rather than 2: from epoch 3 on by --schedule cosine of so many, with a rate of 0.025 now; before, "
        "rates were those of 2 epochs; its test accuracy is known, so that a certificate pays for adaptive evaluations"
    )
    rates = named(records_in(Path("runs", NAME)), "train/learning_rate")
    assert rates[-1] < 0.025


def test_a_run_that_goes_on_can_be_interrupted_and_resumed_as_it_is(here: Path) -> None:
    run(digits_config(epochs=1))
    interrupted_at(5, lambda: go_on("--epochs", "3"))
    assert not Path("runs", NAME, "summary.json").exists()
    assert go_on().state.epoch == 3


def test_a_finished_run_that_is_resumed_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(digits_config(epochs=1))
    before = records_in(Path("runs", NAME))
    status, out, err = call(train.main, ["--resume", NAME, "--no-quiet"], monkeypatch, capsys)
    assert (status, out[:21]) == (0, "digits: test accuracy")
    assert err == "resumed a finished run (all 1 epochs done): nothing is trained, it is summed up again\n"
    assert call(train.main, ["--resume", NAME, "--quiet"], monkeypatch, capsys) == (0, "", "")
    assert records_in(Path("runs", NAME)) == before


def test_a_run_starts_from_the_weights_of_another(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(digits_config(epochs=2))
    best = load(CHECKPOINTS / NAME / "best.pt")
    capsys.readouterr()
    for which in (NAME, f"checkpoints/{NAME}", f"checkpoints/{NAME}/best.pt"):
        name = f"from-{len(which)}"
        options = ["--dataset", "digits", "--init-from", which, "--run-name", name, "--epochs", "1", "--seed", "3"]
        with monkeypatch.context() as patch:
            patch.setattr("lean_mnist.training.trainer.Trainer.fit", lambda trainer: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                call(train.main, options, patch, capsys)
        started = load(CHECKPOINTS / name / "last.pt")
        assert identical(started["model"], best["model"])
        assert started["metrics"]["step"] == 0
        assert started["config"]["init_from"] == which
    status, _, _ = call(train.main, ["--resume", name], monkeypatch, capsys)  # though what it started from is gone
    assert status == 0
    summary = json.loads(Path("runs", name, "summary.json").read_text(encoding="utf-8"))
    assert [look["step"] for look in summary["test_looks"]] == [0, 11]
    certificate = json.loads(Path("runs", name, "certificate.json").read_text(encoding="utf-8"))
    assert (certificate["history"]["looks"], certificate["history"]["adaptive"]) == (2, True)


def test_weights_are_taken_in_the_precision_of_the_run(here: Path) -> None:
    run(digits_config(epochs=1, precision="float64"))
    summary = run(digits_config(epochs=1, init_from=NAME, run_name="other"))
    assert load(CHECKPOINTS / "other" / "last.pt")["model"]["layers.0.weight"].dtype == torch.float32
    assert "that of guessing" not in Path("runs", "other", "metrics.jsonl").read_text(encoding="utf-8")
    assert summary.state.checks.failures == 0
