"""The test split chooses nothing, and every look at it is on record."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.data.datasets import Dataset, Split, load_digits
from tests.support.training_cases import VALIDATION_EXAMPLES, FinishedRun, digits_run, identical, load, named


def poisoned(name: str, data_dir: Any, **how: bool) -> Dataset:
    """Digits with every label of the test split wrong."""
    digits = load_digits()
    return dataclasses.replace(digits, test=Split(digits.test.images, (digits.test.labels + 1) % 10))


@pytest.mark.parametrize("track_test", [False, True])
def test_the_labels_of_the_test_split_change_no_weight(
    track_test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 5, "track_test": track_test, "early_stopping": 3, "schedule": "constant"}
    folders = [tmp_path / name for name in ("clean", "poisoned")]
    for folder in folders:
        folder.mkdir()
    clean = digits_run(folders[0], **options)
    monkeypatch.setattr("lean_mnist.training.run.load_dataset", poisoned)
    other = digits_run(folders[1], **options)
    assert clean.summary.test.accuracy > 0.8
    assert other.summary.test.accuracy < 0.1
    for a, b in ((clean.best, other.best), (clean.last, other.last)):
        first, second = load(a), load(b)
        assert identical(first["model"], second["model"])
        assert identical(first["metrics"]["best"], second["metrics"]["best"])
    assert identical(load(clean.last)["training"]["optimizer"], load(other.last)["training"]["optimizer"])
    assert clean.summary_json["best_epoch"] == other.summary_json["best_epoch"]


def test_a_run_looks_once(short_run: FinishedRun) -> None:
    looks = short_run.summary_json["test_looks"]
    assert looks == [{"step": 22, "purpose": "final", "errors": short_run.summary_json["test_errors"]}]
    for path in (short_run.best, short_run.last):
        assert load(path)["metrics"]["test_looks"] == looks
    assert not [r for r in short_run.records if r["name"].startswith("test/")]
    assert "the test split was looked at once" in str(short_run.summary)


def test_a_run_that_tracks_the_test_split_looks_once_an_epoch_and_once_more(default_run: FinishedRun) -> None:
    looks = default_run.summary_json["test_looks"]
    assert [look["step"] for look in looks] == [*range(11, 331, 11), 330]
    assert [look["purpose"] for look in looks] == ["track"] * 30 + ["final"]
    for path in (default_run.best, default_run.last):
        assert load(path)["metrics"]["test_looks"] == looks
    accuracies = [1 - look["errors"] / 360 for look in looks[:-1]]
    assert named(default_run.records, "test/accuracy") == pytest.approx(accuracies)
    assert "the test split was looked at 31 times" in str(default_run.summary)


SUMMARY = {
    "dataset": str, "test_examples": int, "test_errors": int, "test_accuracy": float, "best_epoch": int,
    "validation_accuracy": float, "seconds": float, "examples_per_second": float, "checks": dict,
    "certificate": dict,
}  # fmt: skip


def test_the_summary_holds_what_the_contract_says(default_run: FinishedRun) -> None:
    summary = default_run.summary_json
    assert {name: type(summary[name]) for name in SUMMARY} == SUMMARY
    assert (summary["dataset"], summary["test_examples"]) == ("digits", 360)
    assert summary["test_accuracy"] == 1 - summary["test_errors"] / 360
    assert summary["validation_examples"] == VALIDATION_EXAMPLES
    accuracies = named(default_run.records, "validation/accuracy")
    assert summary["validation_accuracy"] == max(accuracies)
    losses = named(default_run.records, "validation/loss")
    ranked = [(accuracy, -loss) for accuracy, loss in zip(accuracies, losses, strict=True)]
    assert summary["best_epoch"] == 1 + ranked.index(max(ranked))
    checks = summary["checks"]
    assert (checks["verdict"], checks["comparisons"], checks["gradchecks"], checks["failures"]) == ("passed", 1, 1, 0)
    largest = max(named(default_run.records, "divergence/largest"))
    assert checks["largest_divergence"] == largest < 1e-4
    assert 0 < checks["share_of_time"] < 1
    text = str(default_run.summary)
    assert f"test accuracy {summary['test_accuracy']:.2%}, 95 % interval " in text
    assert f"epoch {summary['best_epoch']} of 30" in text
    assert f"largest divergence {largest:.1e}" in text


def test_the_weights_that_are_tested_are_the_best_ones(default_run: FinishedRun) -> None:
    digits, best = load_digits(), load(default_run.best)
    normalization = best["normalization"]
    x = (digits.test.images.flatten(1).float() - normalization["mean"]) / normalization["scale"]
    weights = best["model"]
    hidden = torch.relu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    logits = hidden @ weights["layers.1.weight"].T + weights["layers.1.bias"]
    assert int((logits.argmax(1) != digits.test.labels).sum()) == default_run.summary_json["test_errors"]
