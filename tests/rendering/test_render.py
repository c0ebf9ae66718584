"""``python -m lean_mnist.render``: every option, to the letter."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lean_mnist import render
from lean_mnist.data.datasets import load_digits
from lean_mnist.errors import ConfigError
from lean_mnist.rendering.png import png
from lean_mnist.rendering.sheet import BORDERS, Style, Tile, sheet
from lean_mnist.training.checkpoints import load_checkpoint
from lean_mnist.training.evaluation.metrics import Evaluation, evaluate
from tests.support.golden import assert_golden
from tests.support.training_cases import FinishedRun, call, digits_run

GOLDEN = Path(__file__).with_name("golden")
Call = Callable[..., Any]
COUNTS = load_digits().test.labels.bincount().tolist()

# name of the file: options
CASES = {
    "defaults": "",
    "count": "--count 2",
    "index": "--count 2 --index 358",  # the last two; more are not there
    "past_the_end": "--index 359",
    "train": "--train --count 2",
    "inverted": "--count 2 --inverted",
    "stats": "--count 2 --stats",
    "grid": "--count 7 --grid 3",
    "compare": "--count 3 --compare",
    "wide": "--count 2 --wide",
    **{f"palette_{name}": f"--count 2 --grid 2 --palette {name}" for name in ("simple", "detailed", "blocks")},
    **{f"border_{name}": f"--count 3 --compare --border {name}" for name in BORDERS},
    "all": "--train --index 5 --count 5 --grid 2 --stats --palette blocks --border double --inverted --wide",
    "json": "--count 2 --json",
    "colour": "--count 2 --grid 2 --colour --border rounded",
    "colour_inverted": "--count 1 --colour --inverted --wide",
}


@pytest.fixture(autouse=True)
def no_choice_of_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says about colour."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``called(options, status=0, data="digits")``: output and errors of the command."""

    def use(options: str, status: int = 0, data: str = "digits") -> tuple[str, str]:
        arguments = [*(["--dataset", data] if data else []), *options.split()]
        found, out, err = call(render.main, arguments, monkeypatch, capsys)
        assert found == status, err
        return out, err

    return use


@pytest.mark.parametrize("name", CASES)
def test_each_option(name: str, called: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if "colour" in name:
        monkeypatch.setenv("FORCE_COLOR", "1")
    out, err = called(CASES[name])
    assert err == ""
    assert_golden(GOLDEN / f"{name}.txt", out)


def test_options_make_a_difference() -> None:
    """A golden file that another option would do for as well shows nothing."""
    texts = [path.read_text(encoding="utf-8") for path in GOLDEN.glob("*.txt")]
    assert len(texts) == len(CASES)
    # compare without a border, and with the border "none"
    assert len(set(texts)) == len(texts) - 1


def test_colour_is_for_terminals_alone(called: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = called("--count 2")
    out, err = called("--count 2 --colour")
    assert out == plain
    assert err == (
        "--colour: the output is no terminal with colours (FORCE_COLOR=1 to have them all the same), so these are "
        "characters\n"
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert called("--count 2 --colour") == (out, err)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[38;2;" in called("--count 2 --colour")[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert called("--count 2 --colour") == (plain, "--colour: NO_COLOR is set, so these are characters\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--count 0", "--count: expected 1 or more, found 0"),
        ("--grid -1", "--grid: expected 1 or more, found -1"),
        ("--grid 2 --compare", "--grid and --compare: expected one of them"),
        ("--errors", "--errors: expected --checkpoint as well, whose errors are meant"),
        ("--png x.png --border double", "--border: of images as text, without effect beside --png"),
        ("--png x.png --palette blocks", "--palette: of images as text, without effect beside --png"),
        ("--json --colour", "--colour: of images as text, without effect beside --json"),
        ("--json --grid 2", "--grid: of images as text, without effect beside --json"),
        ("--checkpoint x --grey", "--grey: expected without --checkpoint, whose run says whether it was given"),
        ("--index 360", "--index: expected 0 to 359, of the images (digits, test split), found 360"),
        ("--index -1", "--index: expected 0 to 359, of the images (digits, test split), found -1"),
        ("--count two", "--count: expected a whole number, found 'two'"),
        (
            "--palette block",
            "--palette: expected one of default, simple, detailed, blocks, found 'block' (did you mean 'blocks'?)",
        ),
        (
            "--border round",
            "--border: expected one of single, double, rounded, heavy, ascii, none, found 'round' (did you mean "
            "'rounded'?)",
        ),
        ("--color", "--color: no such option (did you mean '--colour'?); --help lists them"),
        ("--checkpoint no.pt", "no.pt: expected a checkpoint, found: No such file or directory"),
        ("--png no/such/folder.png", "no/such/folder.png: No such file or directory"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options: str, message: str, called: Call) -> None:
    assert called(options, 2) == ("", f"error: {message}\n")


def test_tiles_of_any_size_stand_in_one_row() -> None:
    tiles = [Tile(np.full((rows, columns), 255, np.uint8), ("a caption",)) for rows, columns in ((1, 1), (3, 12))]
    assert list(sheet(tiles, 2, Style(255, border="ascii"))) == [
        "a caption  a caption",
        "+-+        +------------+",
        "|@|        |@@@@@@@@@@@@|",
        "+-+        |@@@@@@@@@@@@|",
        "           |@@@@@@@@@@@@|",
        "           +------------+",
    ]


def test_own_data_are_shown_with_the_names_of_their_classes(called: Call, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (6, 5, 9), dtype=np.uint8)
    names = np.array(["cat", "dog & cow"])
    path = tmp_path / "own.npz"
    labels = np.array([0, 1, 1, 0, 1, 0])
    np.savez(path, x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3], class_names=names)
    out, err = called("--stats --border ascii", data=str(path))
    assert "images by label: cat 1, dog & cow 2\n" in out
    assert [line for line in out.splitlines() if line.startswith("#")] == [
        "#0: label cat", "#1: label dog & cow", "#2: label dog & cow"
    ]  # fmt: skip
    assert out.count("+---------+\n") == 6
    vouched, overlap = err.splitlines()
    assert "nobody vouches" in vouched
    assert overlap == "Data set 'own': 3 of its 3 test images are also among those to learn from"
    found = json.loads(called("--json --palette simple", data=str(path))[0])
    assert found["class_names"] == ["cat", "dog & cow"]
    assert [len(line) for one in found["images"] for line in one["text"]] == [9] * 15


def test_the_misread_ones_are_marked_where_there_is_colour() -> None:
    tile = Tile(np.zeros((2, 1), np.uint8), ("misread",), marked=True)
    assert next(sheet([tile], 1, Style(255, colour=True))) == "\x1b[1;31mmisread\x1b[0m"
    assert next(sheet([tile], 1, Style(255))) == "misread"


@pytest.mark.parametrize("inverted", [False, True])
def test_a_png_holds_the_pixels_of_every_image(inverted: bool) -> None:
    images = np.random.default_rng(1).integers(0, 17, (5, 8, 8), dtype=np.uint8)
    tiles = [Tile(image, ("#1",), marked=index == 2) for index, image in enumerate(images)]
    picture = Image.open(io.BytesIO(png(tiles, 3, 16, inverted=inverted)))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    pixels = np.asarray(picture)
    scale, step_x, step_y = 14, 8 * 14 + 12, 8 * 14 + 18 + 12
    for index, image in enumerate(images):
        y, x = 12 + 18 + index // 3 * step_y, 12 + index % 3 * step_x
        shown = pixels[y : y + 8 * scale : scale, x : x + 8 * scale : scale]
        grey = np.floor(image / 16 * 255 + 0.5)
        assert (shown == (255 - grey if inverted else grey)[:, :, None]).all()
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    assert red[:, 2 * step_x : 3 * step_x].any()
    assert not red[:, : 2 * step_x].any()


def test_a_png_is_bounded() -> None:
    tiles = [Tile(np.zeros((20_000, 1), np.uint8), ("x" * 2000,))]
    with pytest.raises(ConfigError, match=r"--png: a picture of .* dots, expected at most 100,000,000"):
        png(tiles, 1, 255)


def test_a_png_is_written_instead_of_text(called: Call, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    out, _ = called(f"--count 4 --grid 2 --stats --png {path}")
    first, counts, written = out.splitlines()
    assert first == "digits, test split: images 0 to 3 of 360, pixels from 0 to 16"
    assert counts == "images by label: " + ", ".join(f"{label} {n}" for label, n in enumerate(COUNTS))
    assert written == f"written {path}"
    with Image.open(path) as picture:
        assert picture.width > 2 * 112
        assert picture.height > 2 * (112 + 3 * 18)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One epoch on ``digits``."""
    return digits_run(tmp_path_factory.mktemp("trained"), epochs=1)


@pytest.fixture(scope="module")
def reading(trained: FinishedRun) -> Evaluation:
    """What its checkpoint reads in the test split."""
    checkpoint = load_checkpoint(trained.best)
    return evaluate(checkpoint.model, load_digits().test, checkpoint.normalization)


def test_predictions_stand_beside_labels(called: Call, trained: FinishedRun, reading: Evaluation) -> None:
    out, _ = called(f"--checkpoint {trained.best} --count 360 --json", data="")
    found = json.loads(out)["images"]
    assert [one["index"] for one in found] == list(range(360))
    assert [one["label"] for one in found] == load_digits().test.labels.tolist()
    assert [one["prediction"] for one in found] == reading.predictions.tolist()
    assert [one["confidence"] for one in found] == reading.confidences.tolist()
    lines = called(f"--checkpoint {trained.best} --count 360", data="")[0].splitlines()
    assert lines[1] == f"read by {trained.best}: accuracy {reading.accuracy:.2%} on this split"
    said = [line for line in lines if line.startswith(("read as", "misread as"))]
    wrong = [line.startswith("mis") for line in said]
    assert wrong == (~reading.right).tolist()
    assert said == [
        f"{'misread' if one['prediction'] != one['label'] else 'read'} as {one['prediction']} "
        f"({one['confidence']:.1%})" for one in found
    ]  # fmt: skip


def test_errors_are_the_misread_ones_alone(called: Call, trained: FinishedRun, reading: Evaluation) -> None:
    wrong = (~reading.right).nonzero().flatten().tolist()
    assert len(wrong) == reading.errors > 3
    out, _ = called(f"--checkpoint {trained.best} --errors --count 360 --json", data="")
    assert [one["index"] for one in json.loads(out)["images"]] == wrong
    out, _ = called(f"--checkpoint {trained.best} --errors --count 2 --index 1", data="")
    assert out.startswith(f"digits, test split: misread images 1 to 2 of {len(wrong)}, pixels from 0 to 16\n")
    assert [line for line in out.splitlines() if line.startswith("#")] == [
        f"#{index}: label {load_digits().test.labels[index]}" for index in wrong[1:3]
    ]


def test_a_network_that_misreads_nothing_has_no_errors_to_show(
    called: Call, trained: FinishedRun, reading: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = replace(reading, right=torch.ones(360, dtype=torch.bool))
    monkeypatch.setattr("lean_mnist.training.evaluation.metrics.evaluate", lambda *_: right)
    out, err = called(f"--checkpoint {trained.best} --errors", 2, data="")
    assert out == ""
    assert err == f"error: --errors: {trained.best} misreads none of 360 images (digits, test split)\n"


def test_a_network_for_other_images_is_said(
    called: Call, trained: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_digits()
    smaller = replace(digits, train=replace(digits.train, images=digits.train.images[:, :7, :7]))
    monkeypatch.setattr("lean_mnist.data.datasets.load_digits", lambda: smaller)
    _, err = called(f"--checkpoint {trained.best}", 2)
    assert err.splitlines()[-1] == (
        f"error: {trained.best}: its network takes 64 features and knows 10 classes; digits has 49 and 10"
    )
