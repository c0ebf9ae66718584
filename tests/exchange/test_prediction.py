"""Images that are no data set's: predicted as the network reads them, or refused in one line."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import CheckpointError, ConfigError, DataError
from lean_mnist.exchange.prediction import Predictions, predict
from lean_mnist.predict import PredictArguments
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.config import Config
from lean_mnist.training.run import run
from tests.support.training_cases import FinishedRun


@pytest.fixture
def images(in_digits: FinishedRun, tmp_path: Path) -> np.ndarray:
    """Test images of digits, 0 to 16, also as PNG files 0.png … in ``tmp_path``, from 0 to 255."""
    pixels = load_dataset("digits", ".").test.images[:6].numpy()
    for index, image in enumerate(pixels):
        Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    return pixels


def asked(*paths: Path | str, **options: Any) -> Predictions:
    return predict(PredictArguments("a-run", tuple(map(str, paths)), **options))


def test_files_folders_and_arrays_are_predicted_alike(images: np.ndarray, tmp_path: Path) -> None:
    expected = load_checkpoint("a-run").probabilities(images)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "one.npy", images[2].astype(np.float32))
    np.savez(tmp_path / "a.npz", y=np.arange(6), x_test=images[..., None])
    files = asked(*(tmp_path / f"{index}.png" for index in range(6)))
    for found in (files, asked(tmp_path), asked(tmp_path / "a.npy"), asked(tmp_path / "a.npz")):
        assert torch.equal(torch.tensor(found.probabilities, dtype=torch.float64), expected)
    assert files.names == tuple(str(tmp_path / f"{index}.png") for index in range(6))
    both = asked(tmp_path / "one.npy", tmp_path / "5.png")
    assert both.names == (f"{tmp_path}/one.npy[0]", f"{tmp_path}/5.png")
    torch.testing.assert_close(torch.tensor(both.probabilities, dtype=torch.float64), expected[[2, 5]])


def test_a_line_an_image_the_likeliest_first(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Predictions("c", ("a", "bb", "c"), ("x.png", "y"), ((0.25, 0.5, 0.25), (0.0, 1 - 1e-9, 1e-9)), (), 2)
    assert str(found).splitlines() == ["x.png  bb  50.000%   a  25.000%", "y      bb  99.999%   c   0.000%"]
    everything = Predictions("c", ("a", "bb", "c"), ("x.png",), ((0.25, 0.5, 0.25),), (), 0)
    assert str(everything) == "x.png  bb     a  25.000%  bb  50.000%   c  25.000%"
    values = json.loads(everything.to_json())
    assert values["images"][0] == {
        "image": "x.png",
        "class": "bb",
        "label": 1,
        "probability": 0.5,
        "top": [
            {"class": name, "label": c, "probability": p}
            for name, c, p in (("bb", 1, 0.5), ("a", 0, 0.25), ("c", 2, 0.25))
        ],
        "probabilities": [0.25, 0.5, 0.25],
    }


def test_polarity_is_turned_only_if_asked_for_and_a_light_border_is_said(images: np.ndarray, tmp_path: Path) -> None:
    inverted = tmp_path / "inverted.png"
    with Image.open(tmp_path / "3.png") as image:
        Image.fromarray(255 - np.asarray(image)).save(inverted)
    plain, wrong, right = asked(tmp_path / "3.png"), asked(inverted), asked(inverted, invert=True)
    assert right.probabilities == plain.probabilities
    assert wrong.probabilities != plain.probabilities
    assert wrong.notes == ("light at their border, where digits is dark: 1 of 1 images; --invert turns them",)
    assert plain.notes == right.notes == ()
    twice = asked(tmp_path / "3.png", invert=True)
    assert twice.notes == ("light at their border, where digits is dark: 1 of 1 images; --no-invert turns them",)


def test_size_is_changed_only_if_asked_for(images: np.ndarray, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with Image.open(tmp_path / "4.png") as image:
        image.resize((24, 40), Image.Resampling.NEAREST).save(large)
    expected = f"{large}: 40x24 pixels, expected 8x8 as the network was trained on; --resize brings it there"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        asked(large)
    assert asked(large, resize=True).ranked(0)[0][0] == asked(tmp_path / "4.png").ranked(0)[0][0]


def test_own_classes_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    x, y = random.integers(0, 99, (40, 5, 4), dtype=np.uint8), np.arange(40) % 2
    x[:, 0, 0] = 255 * y
    np.savez("own.npz", x=x, y=np.array(["left", "right"])[y])
    run(Config(dataset="own.npz", epochs=15, lr=0.05, batch_size=8, check="off", run_name="own", quiet=True))
    np.save("some.npy", x[:4])
    found = predict(PredictArguments("own", ("some.npy",)))
    assert [found.class_names[found.ranked(index)[0][0]] for index in range(4)] == ["left", "right", "left", "right"]


def with_array(array: Any, name: str = "a.npy") -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        np.save(root / name, array)
        return root / name

    return make


def with_arrays(**arrays: Any) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        np.savez(root / "a.npz", **arrays)
        return root / "a.npz"

    return make


def with_text(root: Path) -> Path:
    (root / "a.png").write_text("<svg/>")
    return root / "a.png"


def empty(root: Path) -> Path:
    (root / "inside").mkdir()
    return root / "inside"


GOOD = np.zeros((2, 8, 8), dtype=np.uint8)
REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (lambda root: root / "none.png", "expected a PNG or JPEG image, found: No such file or directory"),
    (with_text, "damaged or no image, expected a PNG or JPEG image"),
    (empty, "no image in it, expected at least 1"),
    (with_array(GOOD + 17), "[0]: a pixel of 17, expected at most 16, as digits"),
    (with_array(GOOD[0, 0]), "has shape (8,), expected (rows, columns) or (images, rows, columns)"),
    (with_array(GOOD / 3 + 0.5), "holds float64 from 0.5 to 0.5, expected whole numbers from 0 to 255"),
    (with_array(GOOD * np.nan), "holds float64, NaN or infinities among them"),
    (with_array(GOOD.astype(object)), "holds objects, of which nothing is run"),
    (with_array(GOOD[:0]), "no image in it, expected at least 1"),
    (with_array(np.zeros((1, 0, 0), dtype=np.uint8)), "[0]: 0x0 pixels, expected 8x8"),
    (with_arrays(a=GOOD, b=GOOD), "expected one array, or one called x_test, x, images, found a, b"),
    (with_array(np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)), "is in colour, expected grey pixels; --grey"),
]


@pytest.mark.parametrize(("make", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_image_of_the_network_is_one_line(
    make: Callable[[Path], Path], expected: str, in_digits: FinishedRun, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}.*{re.escape(expected)}"):
        asked(path)


def test_options_that_cannot_be(in_digits: FinishedRun) -> None:
    with pytest.raises(ConfigError, match=r"^--top: expected at least 1, found 0$"):
        asked("x.png", top=0)
    with pytest.raises(ConfigError, match="expected images behind the checkpoint, found none"):
        asked()
    with pytest.raises(CheckpointError, match=r"^b-run: expected a run, .*, found none \(did you mean 'a-run'\?\)$"):
        predict(PredictArguments("b-run", ("x.png",)))


def test_the_command_takes_options_between_its_images(
    images: np.ndarray, in_digits: FinishedRun, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lean_mnist.predict", "a-run", "--top", "1", str(tmp_path / "0.png")]
    done = subprocess.run(
        [*command, "--invert", str(tmp_path / "1.png")], capture_output=True, text=True, check=True, cwd=in_digits.root
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith("note: light at their border")
