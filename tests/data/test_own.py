"""Own data: folders of images by class, ``.npz`` and IDX files of any size and number of classes, and bad ones."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.names import dataset_name
from lean_mnist.data.official import Origin
from lean_mnist.errors import ConfigError, DataError
from lean_mnist.training.config import Config
from tests.support.idx_files import write_idx

SHAPE = (20, 14)
Counts = Mapping[str, int]


def images_of(m: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (m, *shape), dtype=np.uint8)


def write_classes(root: Path, counts: Counts, *, seed: int = 0, end: str = ".png") -> np.ndarray:
    """Images of each class in a folder of its name; returned in that order."""
    images = images_of(sum(counts.values()), seed=seed)
    index = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(images[index]).save(root / name / f"{number:03}{end}")
            index += 1
    return images


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(f"{path}{os.sep if path.is_dir() else ''}", says=False, **options)


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    root = tmp_path / "My Shapes"
    train = write_classes(root / "train", {"circle": 4, "ring": 2, "square": 3})
    test = write_classes(root / "test", {"circle": 1, "square": 2}, seed=1)
    (root / "README.txt").write_text("not a class")
    (root / "train" / ".DS_Store").write_text("not an image")
    found = load(root)
    assert (found.name, found.classes, found.image_shape, found.maximum) == ("my-shapes", 3, SHAPE, 255)
    assert found.class_names == ("circle", "ring", "square")
    assert np.array_equal(found.train.images.numpy(), train)
    assert found.train.labels.tolist() == [0] * 4 + [1] * 2 + [2] * 3
    assert np.array_equal(found.test.images.numpy(), test)
    assert found.test.labels.tolist() == [0, 2, 2]
    assert found.origin is Origin.UNKNOWN
    assert found.doubt() == f"Data set 'my-shapes' from {root}: own data; nobody vouches for where it comes from"


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_classes(tmp_path / name, {"a": 5, "b": 5})
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert one.name != two.name
    assert one.fingerprint() == two.fingerprint()
    Image.fromarray(images_of(1, seed=9)[0]).save(tmp_path / "two" / "a" / "000.png")
    assert load(tmp_path / "two").fingerprint() != one.fingerprint()


def test_one_split_is_cut_the_same_way_every_time_and_by_class(tmp_path: Path) -> None:
    images = write_classes(tmp_path / "d", {"2": 10, "10": 3, "1": 1})
    found = load(tmp_path / "d")
    assert found.class_names == ("1", "2", "10")  # numbers by their size
    assert torch.bincount(found.test.labels).tolist() == [0, 2, 1]
    assert torch.bincount(found.train.labels).tolist() == [1, 8, 2]
    whole = {image.tobytes() for image in images}
    parts = [{image.tobytes() for image in split.images.numpy()} for split in (found.train, found.test)]
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]
    assert load(tmp_path / "d").fingerprint() == found.fingerprint()


def test_arrays_as_keras_writes_them(tmp_path: Path) -> None:
    x, y = images_of(9), np.arange(9).astype(np.uint8) % 3
    np.savez_compressed(tmp_path / "a.npz", x_train=x[:6], y_train=y[:6], x_test=x[6:], y_test=y[6:, None])
    found = load(tmp_path / "a.npz")
    assert found.name == "a"
    assert found.class_names == ("0", "1", "2")
    assert np.array_equal(found.train.images.numpy(), x[:6])
    assert found.test.labels.tolist() == y[6:].tolist()
    names = np.array(["no", "perhaps", "yes"])
    np.savez(tmp_path / "b.npz", x=x.astype(np.float64), y=y, class_names=names)
    assert load(tmp_path / "b.npz").class_names == ("no", "perhaps", "yes")
    np.savez(tmp_path / "c.npz", x=x[..., None], y=names[y])
    assert load(tmp_path / "c.npz").fingerprint() == load(tmp_path / "b.npz").fingerprint()
    np.savez(tmp_path / "rows.npz", x=x.reshape(9, -1), y=y)
    assert load(tmp_path / "rows.npz").image_shape == (1, 280)


def test_colour_needs_to_be_said(tmp_path: Path) -> None:
    x, y = images_of(6, (*SHAPE, 3)), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    for label in range(2):
        (tmp_path / "d" / "xy"[label]).mkdir(parents=True)
        for index in range(label, 6, 2):
            Image.fromarray(x[index]).save(tmp_path / "d" / "xy"[label] / f"{index}.png")
    for path in (tmp_path / "a.npz", tmp_path / "d"):
        with pytest.raises(DataError, match="in colour, expected grey pixels; --grey converts them"):
            load(path)
    arrays, folder = (load(path, grey=True).train.images.int() for path in (tmp_path / "a.npz", tmp_path / "d"))
    pillow = torch.stack([torch.from_numpy(np.array(Image.fromarray(image).convert("L"))) for image in x]).int()
    assert {tuple(image.flatten().tolist()) for image in arrays} <= {tuple(i.flatten().tolist()) for i in pillow}
    assert {tuple(image.flatten().tolist()) for image in folder} <= {tuple(i.flatten().tolist()) for i in pillow}


def test_idx_files_of_another_size(tmp_path: Path) -> None:
    for kind, m in (("train", 8), ("t10k", 4)):
        write_idx(tmp_path / f"{kind}-images-idx3-ubyte.gz", images_of(m))
        write_idx(tmp_path / f"{kind}-labels-idx1-ubyte", (np.arange(m) % 4).astype(np.uint8))
    found = load(tmp_path)
    assert (found.classes, found.image_shape, len(found.train), len(found.test)) == (4, SHAPE, 8, 4)


@pytest.mark.parametrize(
    ("path", "name"),
    [("data/My Shapes/", "my-shapes"), ("x/mnist", "own-mnist"), ("/", "own"), ("./Ünï.npz", "n"), ("mnist", "mnist")],
)
def test_the_name_is_one_that_a_certificate_may_have(path: str, name: str) -> None:
    assert dataset_name(path) == name


def folder_with(*paths: str, text: bool = False) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                (root / path).mkdir(exist_ok=True)
            elif path.endswith(".png"):
                Image.fromarray(images_of(1)[0]).save(root / path)
            else:
                (root / path).write_text("text")
        return root

    return make


def arrays_with(**arrays: Any) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        np.savez(root / "a.npz", **arrays)
        return root / "a.npz"

    return make


def another_size(root: Path) -> Path:
    folder_with("a/1.png", "b/1.png")(root)
    Image.fromarray(images_of(1, (14, 20))[0]).save(root / "b" / "2.png")
    return root


def linked(root: Path) -> Path:
    folder_with("a/1.png", "b/1.png")(root)
    (root / "b" / "2.png").symlink_to("/etc/passwd")
    return root


def linked_class(root: Path) -> Path:
    folder_with("a/1.png", "b/1.png")(root)
    (root / "c").symlink_to("/etc")
    return root


X, Y = images_of(4), np.array([0, 1, 0, 1])
BAD: list[tuple[Callable[[Path], Path], str]] = [
    (lambda root: root / "none", "not found, expected a folder of images by class"),
    (folder_with("x.txt"), "found no folder in it"),
    (folder_with("a/1.png"), "1 class, expected 2 to 1,000"),
    (folder_with("a/1.png", "b/1.png", "b/x.txt"), "expected images alone in the folder of a class"),
    (folder_with("a/1.png", "b/1.png", "b/2.png/"), "expected images alone in the folder of a class"),
    (folder_with("a/1.png", "b/1.png"), "no class has two examples"),
    (folder_with("a/", "b/"), "no images (.png, .jpg, .jpeg), expected at least 1"),
    (folder_with("a/1.png", "a/2.png", "b/1.png", "c/"), "c: no images (.png, .jpg, .jpeg), expected at least 1"),
    (folder_with("a/1.png", "b/1.png", "__MACOSX/._1.png"), "__MACOSX: no images (.png, .jpg, .jpeg), expected"),
    (folder_with("train/a/1.png"), "test: not found, expected it beside its companion"),
    (folder_with("train/a/1.png", "val/a/1.png"), "test: not found, expected it beside its companion"),
    (folder_with("train/a/1.png", "val/a/1.png", "test/a/1.png"), "val: would not be read, expected train and test"),
    (folder_with("train/a/1.png", "cat/1.png", "test/a/1.png"), "cat: would not be read, expected train and test"),
    (
        folder_with("train/a/1.png", "train/b/1.png", "train/c/", "test/c/1.png"),
        "c: no images (.png, .jpg, .jpeg), expected at least 1",
    ),
    (
        folder_with("train/a/1.png", "train/b/1.png", "test/c/1.png"),
        "c: a class that is not in train, expected those that are there",
    ),
    (folder_with(*(f"{n}/" for n in range(1001))), "1,001 classes, expected 2 to 1,000"),
    (folder_with("a/1.png", "b\x1b[31m/1.png"), r"a class called 'b\x1b[31m', expected 1 to 100 printable"),
    (another_size, "14x20 pixels, expected 20x14, as the first image has"),
    (linked, "2.png: a symbolic link, expected files and folders themselves"),
    (linked_class, "c: a symbolic link, expected files and folders themselves"),
    (folder_with("train-images-idx3-ubyte"), "train-labels-idx1-ubyte: missing (neither it nor its .gz is there)"),
    (arrays_with(z=X), "x: expected an array of that name, found z"),
    (arrays_with(x=X), "y: expected an array of that name, found x"),
    (arrays_with(x=X, y=Y[:3]), "x holds 4 images and y 3 labels, expected equally many"),
    (arrays_with(x=X / 255, y=Y), "x: holds float64 from 0"),
    (arrays_with(x=(X > 127) / 1, y=Y), "x: holds float64 from 0 to 1, expected whole numbers from 0 to 255"),
    (arrays_with(x=X > 127, y=Y), "x: holds bool, expected whole numbers from 0 to 255"),
    (arrays_with(x=X * np.nan, y=Y), "x: holds float64, NaN or infinities among them, expected whole numbers"),
    (arrays_with(x=X.astype(int) - 1, y=Y), "x: holds int64 from -1 to 254, expected whole numbers from 0 to 255"),
    (arrays_with(x=X.astype(str), y=Y), "x: holds <U3, expected whole numbers from 0 to 255"),
    (arrays_with(x=X.astype(object), y=Y), "x: holds objects, of which nothing is run, expected plain numbers"),
    (arrays_with(x=X[0, 0], y=Y), "x: has shape (14,), expected (examples, rows, columns)"),
    (arrays_with(x=X, y=Y - 1), "y: a label of -1, expected 0 to 999"),
    (arrays_with(x=X, y=Y * 1000), "y: a label of 1000, expected 0 to 999"),
    (arrays_with(x=X, y=Y * 0), "1 class, expected 2 to 1,000"),
    (arrays_with(x=X, y=Y / 1), "y: float64 of shape (4,), expected one whole number or text an example"),
    (arrays_with(x=X, y=Y, class_names=np.array(["a"])), "class_names: 1 texts, expected 2 different names or more"),
    (arrays_with(x=X, y=Y, class_names=np.array(["a", "a"])), "class_names: 2 texts, expected 2 different names"),
    (arrays_with(x=X, y=np.array(["a", "b\n", "a", "a"])), "labels: a class called 'b\\n', expected 1 to 100"),
    (arrays_with(x_train=X, y_train=Y, x_test=X, y_test=Y * 2), "tests class '2', of which there is nothing to learn"),
    (
        arrays_with(x_train=X, y_train=np.array(list("abab")), x_test=X, y_test=np.array(list("abca"))),
        "tests class 'c', of which there is nothing to learn",
    ),
    (
        arrays_with(x_train=X, y_train=Y, x_test=X, y_test=np.array(list("abab"))),
        "labels in words, expected them in each",
    ),
    (
        arrays_with(x_train=X, y_train=np.array(list("abab")), x_test=X, y_test=Y),
        "labels in words, expected them in each",
    ),
    (arrays_with(x=X, y=np.array(list("abab")), class_names=np.array(["a", "b"])), "and no class_names beside"),
    (
        arrays_with(x_train=X, y_train=Y, x_test=X[:, :3], y_test=Y),
        "x_test has images of 3x14 pixels, expected 20x14",
    ),
]


@pytest.mark.parametrize(("make", "expected"), BAD, ids=range(len(BAD)))
def test_what_is_no_data_set_is_one_line(make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    path = make(root)
    with pytest.raises(DataError, match=re.escape(expected)) as caught:
        load_dataset(str(path), says=False)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(root))


def test_a_class_without_examples_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, arrays, expected in (
        ("a", {"x": images_of(9), "y": np.arange(9) % 3}, None),
        ("b", {"x": images_of(9), "y": 1 + np.arange(9) % 3}, "nothing to learn from of '0'; nothing to test of '0'"),
        ("c", {"x": images_of(9), "y": np.array([0, *[9] * 8])}, "nothing to test of '0', '1', '2' and 6 more"),
        ("d", {"x": images_of(5), "y": np.array(list("uvvvv"))}, "nothing to test of 'u'"),
    ):
        np.savez(tmp_path / f"{file}.npz", **arrays)  # type: ignore[arg-type]
        load_dataset(str(tmp_path / f"{file}.npz"))
        lines = capsys.readouterr().err.splitlines()[1:]
        assert len(lines) == (expected is not None), lines
        assert expected is None or lines[0].startswith(f"Data set '{file}' has ")
        assert expected is None or lines[0].endswith(expected)


def test_test_images_that_are_learned_from_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = images_of(9), np.arange(9) % 3
    for x_test, expected in ((images_of(3, seed=1), 1), (np.concatenate([x[:2], images_of(1, seed=1)]), 2)):
        np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x_test, y_test=y[:3])
        load_dataset(str(tmp_path / "a.npz"))
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == expected
    assert lines[1] == "Data set 'a': 2 of its 3 test images are also among those to learn from"


def test_a_folder_named_without_a_slash_is_said_to_need_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "shapes", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path)
    expected = r"dataset: shapes is a folder, expected own data with a slash: \./shapes$"
    with pytest.raises(ConfigError, match=f"^{expected}"):
        load_dataset("shapes")
    with pytest.raises(ConfigError, match=f"^--{expected}"):
        Config(dataset="shapes")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "d", {"a": 2, "b": 2})
    scandir = os.scandir

    def forbidden(path: Any) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DataError, match=f"^{tmp_path}/d/b: expected to read it, found: Permission denied$"):
        load(tmp_path / "d")
