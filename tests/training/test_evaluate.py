"""``python -m lean_mnist.evaluate``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from lean_mnist import evaluate
from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.evaluate import EvaluateArguments
from lean_mnist.training.evaluation.metrics import clopper_pearson
from lean_mnist.training.evaluation.report import evaluate_checkpoint
from lean_mnist.training.run import run
from tests.support.training_cases import (
    TEST_EXAMPLES,
    TRAINING_EXAMPLES,
    VALIDATION_EXAMPLES,
    FinishedRun,
    call,
    digits_config,
    load,
)

Call = Callable[..., Any]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``called(*arguments)``: what the command prints; it must succeed."""

    def use(*arguments: Any) -> str:
        status, out, err = call(evaluate.main, [str(argument) for argument in arguments], monkeypatch, capsys)
        assert (status, err) == (0, "")
        return out

    return use


def test_json_is_one_document_with_the_numbers_of_the_summary(called: Call, short_run: FinishedRun) -> None:
    found, summary = json.loads(called(short_run.best, "--json")), short_run.summary_json
    assert (found["dataset"], found["split"], found["crosscheck"]) == ("digits", "test", "passed")
    assert found["checkpoint"] == str(short_run.best)
    assert (found["examples"], found["errors"]) == (TEST_EXAMPLES, summary["test_errors"])
    assert found["accuracy"] == summary["test_accuracy"]
    assert found["loss"] == summary["test_loss"]
    assert found["accuracy_interval_95"] == summary["test_accuracy_interval_95"]
    correct = found["examples"] - found["errors"]
    assert found["accuracy_interval_95"] == list(clopper_pearson(correct, TEST_EXAMPLES))
    confusion = found["confusion"]
    assert sum(map(sum, confusion)) == TEST_EXAMPLES
    assert sum(confusion[c][c] for c in range(10)) == correct
    assert found["class_accuracy"] == [confusion[c][c] / sum(confusion[c]) for c in range(10)]


def test_the_text_says_the_same(called: Call, short_run: FinishedRun) -> None:
    found, text = json.loads(called(short_run.best, "--json")), called(short_run.best)
    first, second, *certificate, blank, heading, columns = text.splitlines()[:-10]
    rows = text.splitlines()[-10:]
    assert certificate[0] == f"certificate: {found['certificate']['path']}"
    assert [line.strip() for line in certificate[1:3]] == found["certificate"]["statement"]
    assert first.startswith(f"digits, test split: accuracy {found['accuracy']:.2%}, 95 % interval ")
    assert f"({found['errors']} errors in 360), loss {found['loss']:.4f}" in first
    assert second == "gradient checks while it trained: passed"
    assert (blank, heading.split()[:3]) == ("", ["true", "class", "accuracy"])
    assert columns.split() == [str(c) for c in range(10)]
    for c, row in enumerate(rows):
        name, share, *counts = row.split()
        assert (name, share) == (str(c), f"{found['class_accuracy'][c]:.2%}")
        assert [0 if count == "·" else int(count) for count in counts] == found["confusion"][c]
    assert len(rows) == 10


def test_the_validation_split_gives_the_accuracy_that_was_stored(called: Call, short_run: FinishedRun) -> None:
    found = json.loads(called(short_run.best, "--split", "validation", "--json"))
    best = load(short_run.best)["metrics"]["best"]
    assert found["examples"] == best["examples"] == VALIDATION_EXAMPLES
    assert found["accuracy"] == best["accuracy"] == short_run.summary_json["validation_accuracy"]
    assert found["loss"] == best["loss"]


def test_the_training_split_is_the_one_that_was_trained_on(called: Call, short_run: FinishedRun) -> None:
    found = json.loads(called(short_run.last, "--split", "train", "--json"))
    assert found["examples"] == TRAINING_EXAMPLES


def test_splits_are_cut_as_the_run_cut_them(called: Call, here: Path) -> None:
    summary = run(digits_config(limit_train=200, validation_size=50, seed=5, epochs=1))
    best = summary.checkpoints / "best.pt"
    assert json.loads(called(best, "--split", "train", "--json"))["examples"] == 200
    found = json.loads(called(best, "--split", "validation", "--json"))
    assert found["examples"] == 50
    assert found["accuracy"] == summary.to_dict()["validation_accuracy"]


def test_evaluating_changes_no_checkpoint(called: Call, short_run: FinishedRun) -> None:
    before = short_run.best.read_bytes()
    called(short_run.best)
    assert short_run.best.read_bytes() == before


def test_another_data_set_is_refused(short_run: FinishedRun, tiny_mnist: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_mnist(tmp_path / "data")
    with pytest.raises(CheckpointError) as caught:
        evaluate_checkpoint(EvaluateArguments(str(short_run.best), dataset="mnist", data_dir=str(folder)))
    assert str(caught.value) == (
        f"{short_run.best}: its network takes 64 features and knows 10 classes; mnist has 784 and 10"
    )


def test_data_that_are_not_those_trained_on(here: Path, tiny_mnist: Callable[..., Path]) -> None:
    """The test split of other data of that form can be evaluated; a training or validation split cannot be cut."""
    for seed in (0, 1):
        tiny_mnist(here / f"data-{seed}", seed=seed)
    summary = run(digits_config(dataset="mnist", data_dir="data-0", epochs=1, batch_size=10))
    best = str(summary.checkpoints / "best.pt")
    assert evaluate_checkpoint(EvaluateArguments(best)).evaluation.errors == summary.test.errors
    assert evaluate_checkpoint(EvaluateArguments(best, data_dir="data-1")).evaluation.examples == 20
    splits: list[Literal["validation", "train"]] = ["validation", "train"]
    for split in splits:
        assert evaluate_checkpoint(EvaluateArguments(best, split=split)).split == split
        with pytest.raises(ConfigError, match=f"--split {split}: the mnist found here is not what it was trained on"):
            evaluate_checkpoint(EvaluateArguments(best, split=split, data_dir="data-1"))


def test_pictures_are_written_and_named(called: Call, short_run: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    found = json.loads(called(short_run.best, "--plots", folder, "--json"))
    names = [
        "reliability", "risk-by-coverage", "misread", "first-layer-weights", "bound-by-examples", "bound-by-delta",
        "bound-by-bits",
    ]  # fmt: skip
    assert found["plots"] == [str(folder / f"{name}.png") for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.png" for name in names)
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 100
    assert 0 < found["calibration_error"] < 1


def test_no_bound_is_drawn_of_a_split_that_selected(called: Call, short_run: FinishedRun, tmp_path: Path) -> None:
    text = called(short_run.best, "--plots", tmp_path, "--split", "validation")
    assert f"written {tmp_path}/reliability.png" in text
    assert "bound-by-examples" not in text
    assert "bound-by-delta" not in text


def test_a_folder_that_cannot_be_made(short_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    plots = str(tmp_path / "file" / "plots")
    with pytest.raises(ConfigError, match=f"--plots {plots}: expected a folder that can be written, found: Not a dir"):
        evaluate_checkpoint(EvaluateArguments(str(short_run.best), plots=plots))


def test_without_matplotlib_pictures_are_refused_in_one_line_and_nothing_is_written(
    short_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"^charts need matplotlib; to have it: .*-m pip install matplotlib$"):
        evaluate_checkpoint(EvaluateArguments(str(short_run.best), plots=str(tmp_path / "plots")))
    assert not (tmp_path / "plots").exists()
