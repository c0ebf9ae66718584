"""Own data go the whole way: trained on, evaluated, certified and checked, said to be of unknown origin."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.evaluate import EvaluateArguments
from lean_mnist.exchange.export import export_checkpoint
from lean_mnist.export import ExportArguments
from lean_mnist.generalization import checker
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.evaluation.report import evaluate_checkpoint
from lean_mnist.training.run import run


def write(path: Path, shape: tuple[int, ...], classes: int, m: int = 90, named: str = "class {}") -> str:
    """Images whose class can be told by where they are bright."""
    random = np.random.default_rng(0)
    y = np.arange(m) % classes
    x = random.integers(0, 100, (m, *shape), dtype=np.uint8)
    x.reshape(m, -1)[np.arange(m), y] = 255
    np.savez(path, x=x, y=np.array([named.format(label) for label in range(classes)])[y])
    return str(path)


@pytest.mark.parametrize(("shape", "classes"), [((20, 14), 3), ((30,), 2)])
def test_own_data_are_certified_as_nobodys(shape: tuple[int, ...], classes: int, here: Path) -> None:
    path = write(here / "own.npz", shape, classes)
    summary = run(Config(dataset=path, epochs=20, lr=0.05, batch_size=16, run_name="r", quiet=True, weight_decay=0))
    names = tuple(f"class {label}" for label in range(classes))
    assert summary.class_names == tuple(summary.to_dict()["class_names"]) == names
    assert summary.test.errors <= 2
    checkpoint = load_checkpoint(here / "checkpoints" / "r" / "best.pt")
    rows, columns = shape if len(shape) == 2 else (1, *shape)
    about = {"image_shape": [rows, columns], "maximum": 255, "class_names": list(names)}
    assert checkpoint.data == {"name": "own", "sha256": load_dataset(path).fingerprint(), **about}
    assert checkpoint.config.dataset == path

    report = evaluate_checkpoint(EvaluateArguments(str(here / "checkpoints" / "r" / "best.pt")))
    assert report.evaluation.errors == summary.test.errors
    assert report.warning is None
    assert report.certificate is not None
    assert not report.certificate.why_not
    assert "class 1" in str(report)

    checked = checker.check(str(here / "runs" / "r" / "certificate.json"), [], 1, None)
    assert "nobody vouches" in str(checked)
    assert "(called 'own', vouched for by nobody)" in str(checked)


def test_more_classes_than_a_byte_holds_are_trained_on_and_not_certified(here: Path) -> None:
    path = write(here / "many.npz", (18, 18), 300, 600)
    summary = run(Config(dataset=path, epochs=1, run_name="r", quiet=True, check="off", hidden=(8,)))
    assert summary.certificate == "data: 300 classes, expected at most 256, whose labels are a byte each"


def test_clipped_pixels_are_trained_on_and_not_certified(here: Path) -> None:
    summary = run(Config(dataset="digits", epochs=1, clip_pixels=1.5, run_name="r", quiet=True))
    expected = "normalization: clips features, which no certificate knows of; expected no --clip-pixels"
    assert summary.certificate == expected
    assert load_checkpoint(here / "checkpoints" / "r" / "best.pt").normalization.clip == 1.5
    with pytest.raises(ConfigError, match=r"^--quantize: expected --clip-pixels None, found 1\.5$"):
        Config(quantize=2, normalization="unit", clip_pixels=1.5)


def test_centered_pixels_are_certified_by_their_mean_and_scale(here: Path) -> None:
    run(Config(dataset="digits", epochs=1, normalization="centered", run_name="r", quiet=True))
    checkpoint = load_checkpoint(here / "checkpoints" / "r" / "best.pt")
    assert checkpoint.normalization.kind == "centered"
    assert checkpoint.normalization.scale == 16
    path = str(here / "runs" / "r" / "certificate.json")
    assert checker.read(path)["decoder"]["normalization"]["scale"] == "16"
    checker.check(path, [], 1, None)


def test_data_that_changed_meanwhile_are_noticed(here: Path) -> None:
    path = write(here / "own.npz", (5, 4), 3)
    config = Config(dataset=path, epochs=2, run_name="r", quiet=True, check="off")
    run(config)
    last = here / "checkpoints" / "r" / "last.pt"
    write(here / "own.npz", (5, 4), 3, 93)  # other examples are cut off to test, some of which it has learned from
    report = evaluate_checkpoint(EvaluateArguments("r"))
    expected = f"the {report.dataset} found here is not what it was trained on (its hash differs): it may have learned "
    assert report.warning == f"{expected}from images that now are in the test split"
    assert f"warning: {expected}" in str(report)
    assert '"warning": "the own found here' in report.to_json()
    with pytest.raises(ConfigError, match=r"own\.npz found now is not the one this run was started on"):
        run(dataclasses.replace(config, epochs=3), last)
    exported = export_checkpoint(ExportArguments("r", out=str(here / "r.safetensors")))
    assert exported.comparison is not None
    assert exported.comparison.source == "1,000 random images (the test images of its run are not here)"


def test_classes_that_are_called_otherwise_are_not_taken_for_the_same(here: Path) -> None:
    path = write(here / "own.npz", (5, 4), 3)
    config, last = Config(dataset=path, run_name="r", epochs=1, quiet=True, check="off"), here / "checkpoints/r/last.pt"
    run(config)
    for shape, classes, named, expected in (
        ((5, 4), 2, "class {}", ""),  # the first two of them
        ((5, 4), 2, "other {}", r"its classes are class 0, class 1, class 2; those of b are other 0, other 1$"),
        ((4, 5), 3, "class {}", r"its network takes images of 5x4 pixels; b has 4x5$"),
    ):
        other = EvaluateArguments("r", dataset=write(here / "b.npz", shape, classes, named=named))
        if expected:
            with pytest.raises(CheckpointError, match=expected):
                evaluate_checkpoint(other)
        else:
            assert "class 2" in str(evaluate_checkpoint(other))
    write(here / "own.npz", (5, 4), 3, named="renamed {}")
    with pytest.raises(
        ConfigError, match=r"are renamed 0, .*, expected class 0, class 1, class 2 as it was started on$"
    ):
        run(config, last)


def test_classes_that_only_validation_has_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(here / "own.npz", (6, 5), 30, 60)  # of each class one to learn from and one to test
    run(Config(dataset=path, epochs=1, run_name="r", check="off"))
    expected = (
        r"Data set 'own' has nothing to learn from of 'class \d+', .*, in what validation and limit-train leave\n"
    )
    assert re.search(expected, capsys.readouterr().err)


def test_faults_of_the_data_stand_in_the_model_card(here: Path) -> None:
    with np.load(write(here / "one.npz", (5, 4), 3)) as arrays:
        x, y = arrays["x"], arrays["y"]
    np.savez(here / "own.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    run(Config(dataset=str(here / "own.npz"), epochs=1, run_name="r", quiet=True, check="off"))
    card = (here / "checkpoints" / "r" / "model_card.md").read_text(encoding="utf-8")
    assert "\n\nData set 'own' has nothing to test of 'class 2'.\n" in card
    assert "\n\nData set 'own': 2 of its 2 test images are also among those to learn from.\n" in card
