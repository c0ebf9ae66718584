"""Own data go the whole way: trained on, evaluated, certified and checked, said to be of unknown origin."""

from pathlib import Path

import numpy as np
import pytest

from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import ConfigError
from lean_mnist.generalization import checker
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.evaluation.report import EvaluateArguments, evaluate_checkpoint
from lean_mnist.training.run import run


def write(path: Path, shape: tuple[int, ...], classes: int, m: int = 90) -> str:
    """Images whose class can be told by where they are bright."""
    random = np.random.default_rng(0)
    y = np.arange(m) % classes
    x = random.integers(0, 100, (m, *shape), dtype=np.uint8)
    x.reshape(m, -1)[np.arange(m), y] = 255
    np.savez(path, x=x, y=np.array([f"class {label}" for label in range(classes)])[y])
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
