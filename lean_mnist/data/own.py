"""Own data: a folder of images by class, a ``.npz`` as Keras writes it, or a folder of four IDX files.

Where only one split is there, a fifth of each class is cut from it to test, by a constant seed: the test split is the
same for every run. Shapes: ``m`` examples; an image is ``rows x columns``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.examples import Dataset, Split
from lean_mnist.data.idx import MOST_LABELS, read_examples
from lean_mnist.data.names import dataset_name
from lean_mnist.data.official import LAYOUTS, locate
from lean_mnist.data.splits import cut_test
from lean_mnist.errors import DataError
from lean_mnist.reading.images import SUFFIXES, read_image
from lean_mnist.reading.npy import LARGEST_ARRAY, Arrays, opened_npz
from lean_mnist.reading.text import printable, shown

MOST_CLASSES = 1000
MOST_FEATURES = 1 << 24
_LONGEST_NAME = 100
_SPLITS = {"train", "test", "val", "valid", "validation"}  # folders of these names alone are no classes
_IDX_FILES = LAYOUTS["mnist"].files
_EXPECTED = (
    "a folder of images by class (CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png), a folder with "
    f"{_IDX_FILES[0]}[.gz] and its three companions, or a .npz with x_train, y_train, x_test, y_test"
)
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Examples = tuple[Images, Labels]


def load_own(path: str, *, grey: bool = False) -> Dataset:
    """The data at ``path``: uint8 images of any one size, and 2 to 1,000 classes; raises :class:`DataError`.

    With ``grey`` colours are converted, without it they are refused.
    """
    place = Path(os.path.expanduser(path))
    try:
        if "\0" in path or not place.exists():
            raise DataError(f"{shown(place)}: not found, expected {_EXPECTED}")
        if place.suffix == ".npz":
            train, test, names = _of_arrays(place, grey)
        elif not place.is_dir():
            raise DataError(f"{shown(place)}: expected {_EXPECTED}, found a file of another name")
        elif (paths := locate(place, _IDX_FILES)) is not None:
            train, test, names = _of_idx_files(paths)
        else:
            train, test, names = _of_images(place, grey)
    except OSError as error:
        raise DataError(f"{shown(error.filename or place)}: expected to read it, found: {error.strerror}") from None
    learned = Split.of(*train)
    learned, held = cut_test(learned) if test is None else (learned, Split.of(*test))
    if not len(held):
        raise DataError(f"{shown(place)}: no class has two examples, so that none can be cut off to test")
    if unknown := sorted(set(held.labels.unique().tolist()) - set(learned.labels.unique().tolist())):
        raise DataError(f"{shown(place)}: tests class {names[unknown[0]]!r}, of which there is nothing to learn from")
    return Dataset(dataset_name(path), learned, held, len(names), 255, shown(place), tuple(names), path)


def _require_classes(count: int, where: str) -> None:
    if not 2 <= count <= MOST_CLASSES:
        raise DataError(f"{where}: {count:,} class{'' if count == 1 else 'es'}, expected 2 to {MOST_CLASSES:,}")


def _of_idx_files(paths: list[Path]) -> tuple[Examples, Examples, list[str]]:
    train = read_examples(paths[0], paths[1], None, MOST_CLASSES)
    rows, columns = train[0].shape[1:]
    test = read_examples(paths[2], paths[3], (rows, columns), MOST_CLASSES)
    classes = 1 + max(int(labels.max()) for _, labels in (train, test))
    _require_classes(classes, shown(paths[0].parent))
    return train, test, [str(label) for label in range(classes)]


def _of_arrays(path: Path, grey: bool) -> tuple[Examples, Examples | None, list[str]]:
    """From the arrays x_train, y_train, x_test, y_test, or x and y; ``class_names`` names the classes."""
    with opened_npz(path) as arrays:
        prefixes = [("x_train", "y_train"), ("x_test", "y_test")] if "x_train" in arrays.names else [("x", "y")]
        found = [(_images(arrays, x, path, grey), _labels(arrays, y, path)) for x, y in prefixes]
        names = arrays.read("class_names") if "class_names" in arrays.names else None
    for (x, y), (images, labels) in zip(prefixes, found, strict=True):
        if len(images) != len(labels):
            counts = f"{x} holds {len(images):,} images and {y} {len(labels):,} labels"
            raise DataError(f"{shown(path)}: {counts}, expected equally many")
        if images.shape[1:] != found[0][0].shape[1:]:
            sides = ("x".join(map(str, shape[1:])) for shape in (images.shape, found[0][0].shape))
            raise DataError(f"{shown(path)}: {x} has images of {' pixels, expected '.join(sides)}")
    in_words = [labels.dtype.kind == "U" for _, labels in found]
    if any(in_words):  # the names themselves
        if not all(in_words) or names is not None:
            raise DataError(f"{shown(path)}: labels in words, expected them in each split, and no class_names beside")
        known = _in_order({text for _, labels in found for text in _texts(labels, "labels", path)})
        number = {name: index for index, name in enumerate(known)}
        found = [(x, np.array([number[text] for text in _texts(y, "labels", path)])) for x, y in found]
    else:
        highest = max(int(labels.max()) for _, labels in found)
        known = [str(label) for label in range(highest + 1)]
        if names is not None:
            given = _texts(names, "class_names", path) if names.ndim == 1 and names.dtype.kind == "U" else []
            if len(given) < len(known) or len(set(given)) != len(given):
                wanted = f"{len(known)} different names or more, as labels go up to {highest}"
                raise DataError(f"{shown(path)}: class_names: {len(given)} texts, expected {wanted}")
            known = given
    _require_classes(len(known), shown(path))
    return found[0], found[1] if len(found) > 1 else None, known


def whole_pixels(array: npt.NDArray[Any], where: str) -> Images:
    """An array as uint8, which it has to fit without rounding; raises :class:`DataError`."""
    if array.dtype == np.uint8:
        return array
    fits = array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    low, high = (array.min(), array.max()) if fits and array.size else (0, 0)
    # Floats of 0 and 1 alone are taken for black and white as fractions of white, which 0 and 255 would be here.
    is_share = array.dtype.kind == "f" and (high == 1 or not (array == np.floor(array)).all())
    if not fits or low < 0 or high > 255 or is_share:
        found = f"{array.dtype} from {low:g} to {high:g}" if fits else f"{array.dtype}, NaN or infinities among them"
        found = found if array.dtype.kind in "iuf" else str(array.dtype)
        raise DataError(f"{where}: holds {found}, expected whole numbers from 0 to 255, best as uint8")
    return array.astype(np.uint8)


def _images(arrays: Arrays, name: str, path: Path, grey: bool) -> Images:
    where = f"{shown(path)}: {name}"
    images = as_images(whole_pixels(arrays.read(name), where), where, grey=grey)
    if images.ndim == 2:  # rows of numbers: images of one row
        images = images[:, None, :]
    if images.ndim != 3 or 0 in images.shape or images[0].size > MOST_FEATURES or len(images) > MOST_LABELS:
        expected = f"(examples, rows, columns) of at most {MOST_LABELS:,} examples of at most {MOST_FEATURES:,} pixels"
        raise DataError(f"{where}: has shape {printable(images.shape, 60)}, expected {expected}")
    return images


def as_images(array: Images, where: str, *, grey: bool) -> Images:
    """Images without a last axis of one channel; of three, converted as Pillow does where ``grey`` says so."""
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        return array
    if array.shape[3] == 1 or (array == array[..., :1]).all():
        return array[..., 0]
    if not grey:
        raise DataError(f"{where}: is in colour, expected grey pixels; --grey converts them")
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)  # of ITU-R 601-2, in 65536ths
    chunks = [(part @ weights + 32768 >> 16).astype(np.uint8) for part in np.array_split(array, -(-len(array) // 1000))]
    return np.concatenate(chunks)


def _labels(arrays: Arrays, name: str, path: Path) -> npt.NDArray[Any]:
    labels = arrays.read(name)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        found = f"{labels.dtype} of shape {printable(labels.shape, 60)}"
        raise DataError(f"{shown(path)}: {name}: {found}, expected one whole number or text an example")
    if labels.dtype.kind == "U":
        return labels
    for label in (int(labels.min()), int(labels.max())) if len(labels) else ():
        if not 0 <= label < MOST_CLASSES:
            raise DataError(f"{shown(path)}: {name}: a label of {label}, expected 0 to {MOST_CLASSES - 1}")
    return labels.astype(np.int64)


def _texts(array: npt.NDArray[Any], what: str, path: Path) -> list[str]:
    return _checked_names(array.tolist(), f"{shown(path)}: {what}")


def _checked_names(names: list[str], where: str) -> list[str]:
    for name in names:
        if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
            found = printable(repr(name), 60)
            raise DataError(f"{where}: a class called {found}, expected 1 to {_LONGEST_NAME} printable characters")
    return names


def _in_order(names: set[str]) -> list[str]:
    """Numbers by their size, and everything else by the alphabet."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _of_images(folder: Path, grey: bool) -> tuple[Examples, Examples | None, list[str]]:
    """From ``train/CLASS/*`` and ``test/CLASS/*``, or from ``CLASS/*`` alone."""
    inside = {entry.name for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)}
    is_split = {"train", "test"} <= inside or (bool(inside & {"train", "test"}) and inside <= _SPLITS)
    if missing := sorted({"train", "test"} - inside) if is_split else []:
        raise DataError(f"{shown(folder / missing[0])}: not found, expected it beside its companion")
    if others := sorted(inside - {"train", "test"}) if is_split else []:
        cut = "train and test alone beside each other; what validates is cut from train"
        raise DataError(f"{shown(folder / others[0])}: would not be read, expected {cut}")
    roots = [folder / "train", folder / "test"] if is_split else [folder]
    classes = [{e.name: e.path for e in _entries(root) if e.is_dir(follow_symlinks=False)} for root in roots]
    names = _in_order(set(classes[0]))
    if not names:
        raise DataError(f"{shown(folder)}: expected {_EXPECTED}, found no folder in it")
    _checked_names(names, shown(folder))
    if more := sorted(set(classes[-1]) - set(names)):
        raise DataError(f"{shown(classes[-1][more[0]])}: a class that is not in train, expected those that are there")
    _require_classes(len(names), shown(folder))
    splits: list[Examples] = []
    for of_class in classes:
        images: list[Images] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            for path in _image_files(of_class[name]) if name in of_class else ():
                images.append(read_image(path, grey=grey))
                labels.append(label)
                first = splits[0][0][0] if splits else images[0]
                if images[-1].shape != first.shape:
                    sides = ("x".join(map(str, image.shape)) for image in (images[-1], first))
                    raise DataError(f"{shown(path)}: {' pixels, expected '.join(sides)}, as the first image has")
                if len(labels) > MOST_LABELS or len(labels) * first.size > LARGEST_ARRAY:
                    most = f"{MOST_LABELS:,} images and {LARGEST_ARRAY:,} pixels"
                    raise DataError(f"{shown(folder)}: more than {most}, expected at most that")
            if not splits and (not labels or labels[-1] != label):
                raise DataError(f"{shown(of_class[name])}: no images ({', '.join(SUFFIXES)}), expected at least 1")
        if not images:
            raise DataError(f"{shown(roots[-1])}: no images ({', '.join(SUFFIXES)}), expected at least 1")
        splits.append((np.stack(images), np.array(labels, dtype=np.int64)))
    return splits[0], splits[1] if len(splits) > 1 else None, names


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """Entries of a folder, by name, without hidden files; raises :class:`DataError` for a symbolic link."""
    with os.scandir(folder) as scanned:
        entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda each: each.name)
    for entry in entries:
        if entry.is_symlink():
            raise DataError(f"{shown(entry.path)}: a symbolic link, expected files and folders themselves")
    return entries


def _image_files(folder: str) -> Iterator[str]:
    for entry in _entries(Path(folder)):
        if not entry.name.lower().endswith(SUFFIXES) or not entry.is_file(follow_symlinks=False):
            expected = f"images alone in the folder of a class ({', '.join(SUFFIXES)})"
            raise DataError(f"{shown(entry.path)}: expected {expected}")
        yield entry.path
