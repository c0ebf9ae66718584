"""Prediction of images that are no data set's: PNG and JPEG files, folders of them, arrays of NumPy."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lean_mnist.data.own import as_images, whole_pixels
from lean_mnist.errors import DataError
from lean_mnist.reading.images import SUFFIXES, read_image
from lean_mnist.reading.npy import opened_npz, read_npy
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.checkpoints import Checkpoint, load_checkpoint
from lean_mnist.training.config.places import checkpoint_path

if TYPE_CHECKING:
    from lean_mnist.predict import PredictArguments

Pixels = npt.NDArray[np.uint8]

MOST_IMAGES = 100_000
_ARRAYS = ("x_test", "x", "images")  # of a .npz with several, the first that is there
_WIDEST = 40  # characters of a file's name
_DARK = 127  # at most this is the mean of the border of white on black
_WHITE_ON_BLACK = ("mnist", "qmnist", "emnist-digits", "kmnist", "fashion-mnist", "digits")


@dataclass(frozen=True)
class Predictions:
    """Probabilities of every image; ``str(predictions)`` is for people."""

    checkpoint: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]  # of the images
    probabilities: tuple[tuple[float, ...], ...]  # of each image, one a class
    notes: tuple[str, ...]
    top: int  # classes shown of each; all in their order if 0

    def ranked(self, index: int) -> list[tuple[int, float]]:
        """Classes of an image and their probabilities, likeliest first; of equal ones the smallest first."""
        return sorted(enumerate(self.probabilities[index]), key=lambda each: -each[1])

    def to_json(self) -> str:
        """One JSON document."""
        images: list[dict[str, Any]] = []
        for index, (name, probabilities) in enumerate(zip(self.names, self.probabilities, strict=True)):
            ranked = [{"class": self.class_names[c], "label": c, "probability": p} for c, p in self.ranked(index)]
            images.append({"image": name, **ranked[0], "top": ranked[: self.top or None]})
            if not self.top:
                images[-1]["probabilities"] = list(probabilities)
        about = {"checkpoint": self.checkpoint, "class_names": self.class_names, "notes": self.notes}
        return json.dumps({**about, "images": images}, indent=2, allow_nan=False)

    def __str__(self) -> str:
        width = min(_WIDEST, max(len(name) for name in self.names))
        lines = []
        for index, name in enumerate(self.names):
            ranked = self.ranked(index)[: self.top] if self.top else list(enumerate(self.probabilities[index]))
            fits = name if len(name) <= width else f"…{name[1 - width :]}"
            first = f"  {self._named(self.ranked(index)[0][0])}  " if not self.top else ""
            lines.append(f"{fits:<{width}}{first}" + "".join(f"  {self._named(c)} {_share(p)}" for c, p in ranked))
        return "\n".join(lines)

    def _named(self, label: int) -> str:
        width = min(20, max(len(name) for name in self.class_names))
        return f"{printable(self.class_names[label], 20):>{width}}"


def _share(probability: float) -> str:
    """A probability in percent; one below 1 never as 100 %."""
    return f"{probability if probability == 1 else min(probability, 0.99999):8.3%}"


def predict(arguments: "PredictArguments") -> Predictions:
    """Predict the images at ``arguments.paths``; raises ``CheckpointError`` or ``DataError``."""
    path = checkpoint_path(arguments.checkpoint)
    checkpoint = load_checkpoint(path)
    names, images, light = list[str](), list[Pixels](), 0
    for name, pixels, is_raw in _all_images(arguments.paths, arguments.grey):
        if len(names) == MOST_IMAGES:
            raise DataError(f"more than {MOST_IMAGES:,} images, expected at most that many at a time")
        fitted = _fitted(name, pixels, is_raw, checkpoint, arguments)
        names.append(printable(name))
        images.append(fitted)
        edge = np.concatenate([fitted[0], fitted[-1], fitted[:, 0], fitted[:, -1]])
        light += bool(edge.mean() > _DARK * checkpoint.maximum / 255)
    if not images:
        raise DataError(f"{shown(arguments.paths[0])}: no image in it, expected at least 1")
    probabilities = checkpoint.probabilities(np.stack(images)).tolist()
    notes = []
    if light and checkpoint.data["name"] in _WHITE_ON_BLACK:
        turn = f"--{'no-' if arguments.invert else ''}invert turns them"
        border = f"light at their border, where {checkpoint.data['name']} is dark"
        notes.append(f"{border}: {light:,} of {len(images):,} images; {turn}")
    top = 0 if arguments.probabilities else arguments.top
    of_each = tuple(names), tuple(map(tuple, probabilities)), tuple(notes)
    return Predictions(str(path), checkpoint.class_names, *of_each, top)


def _all_images(paths: Sequence[str], grey: bool) -> Iterator[tuple[str, Pixels, bool]]:
    """Name and pixels of each image, and whether these are raw, in an array: of the kind that the network has."""
    for path in paths:
        if path.endswith((".npy", ".npz")):
            array = _array(path, grey)
            for index, image in enumerate(array):
                yield f"{path}[{index}]", image, True
        elif os.path.isdir(path):
            for inside in _image_files(path):
                yield inside, read_image(inside, grey=grey), False
        else:
            yield path, read_image(path, grey=grey), False


def _image_files(folder: str) -> Iterator[str]:
    """The images in a folder and those in it, in the order of their names; hidden ones and links are left out."""

    def refuse(error: OSError) -> None:
        raise error

    for inside, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(inside, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and not os.path.islink(path):
                yield path


def _array(path: str, grey: bool) -> Pixels:
    """The images uint8 (m, rows, columns) in a file of NumPy."""
    where = shown(path)
    if path.endswith(".npy"):
        array = read_npy(path)
    else:
        with opened_npz(path) as arrays:
            named = next((name for name in _ARRAYS if name in arrays.names), None)
            if named is None and len(arrays.names) != 1:
                held = printable(", ".join(arrays.names) or "none", 100)
                raise DataError(f"{where}: expected one array, or one called {', '.join(_ARRAYS)}, found {held}")
            array = arrays.read(named or arrays.names[0])
    images = as_images(whole_pixels(array, where), where, grey=grey)
    images = images[None] if images.ndim == 2 else images
    if images.ndim != 3:
        shape = printable(tuple(array.shape), 60)
        raise DataError(f"{where}: has shape {shape}, expected (rows, columns) or (images, rows, columns)")
    return images


def _fitted(name: str, pixels: Pixels, is_raw: bool, checkpoint: Checkpoint, arguments: "PredictArguments") -> Pixels:
    """An image as the network takes it: of its size, polarity and largest pixel value."""
    highest = checkpoint.maximum if is_raw else 255
    if int(pixels.max(initial=0)) > highest:
        expected = f"at most {highest}, as {checkpoint.data['name']}"
        raise DataError(f"{shown(name)}: a pixel of {pixels.max()}, expected {expected}")
    if arguments.invert:
        pixels = highest - pixels
    if pixels.shape != checkpoint.image_shape:
        found, expected = ("x".join(map(str, shape)) for shape in (pixels.shape, checkpoint.image_shape))
        if not arguments.resize or 0 in pixels.shape:
            hint = "" if arguments.resize else "; --resize brings it there"
            raise DataError(f"{shown(name)}: {found} pixels, expected {expected} as the network was trained on{hint}")
        rows, columns = checkpoint.image_shape
        pixels = np.array(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))
    if highest == checkpoint.maximum:
        return pixels
    return np.rint(pixels.astype(np.float64) * (checkpoint.maximum / highest)).astype(np.uint8)
