"""Records to look at, of a network and its evaluation: pictures by NumPy and Pillow alone, curves, the embedding."""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn import MLP
from lean_mnist.reading.text import printable
from lean_mnist.rendering.pixels import in_grey
from lean_mnist.training.evaluation.metrics import Evaluation, last_hidden, precision_recall
from lean_mnist.training.sinks.records import Embedding, Points, PrecisionRecall, Record
from lean_mnist.training.sinks.records import Image as Drawn

Picture = npt.NDArray[np.uint8]  # (height, width, 3)

_LARGEST_GRID = 128  # units shown
_DIGITS = 40  # digits shown
_GAP = 2
_CELL, _MARGIN, _MOST_CLASSES = 48, 56, 30
_MOST_CURVES = 50
_MOST_POINTS, _MOST_NUMBERS, _LEAST_POINTS = 1000, 256_000, 10
_INK, _BLUE, _RED = (40, 40, 40), np.array([66, 133, 190]), np.array([214, 69, 65])


def final_drawings(
    step: int, model: MLP, normalization: Normalization, dataset: Dataset, found: Evaluation
) -> Iterator[Record]:
    """Drawings of ``found``, the evaluation of ``model`` on the test split, with probabilities."""
    test, maximum = dataset.test, dataset.maximum
    drawn = {
        "first_layer_weights": first_layer_weights(model, dataset.image_shape),
        "confusion": confusion_matrix(found),
        "misread": misread_digits(test, found, maximum),
        "least_certain": least_certain_digits(test, found, maximum),
    }
    for name, picture in drawn.items():
        if picture is not None:
            yield Drawn(step, f"picture/{name}", picture)
    assert found.probabilities is not None
    for number, of_class in enumerate(found.probabilities.T[:_MOST_CURVES]):
        curve = precision_recall(of_class, test.labels.cpu() == number)
        yield PrecisionRecall(step, f"precision_recall/{number}", curve)
    count = min(_MOST_POINTS, _MOST_NUMBERS // model.sizes[-2], len(test))
    if count >= _LEAST_POINTS:
        vectors = last_hidden(model, test.images[:count], normalization).numpy()
        names = [printable(name, 40) for name in dataset.class_names]
        true, called = ([names[k] for k in of[:count].tolist()] for of in (test.labels, found.predictions))
        labels = {
            "label": [a if a == b else f"{a} called {b}" for a, b in zip(true, called, strict=True)],
            "true": true,
            "called": called,
            "confidence": [f"{confidence:.4f}" for confidence in found.confidences[:count].tolist()],
        }
        sprites = in_grey(test.images[:count].cpu().numpy(), maximum, inverted=True)
        yield Embedding(step, "last_hidden_layer", Points(vectors, sprites, labels))


def first_layer_weights(model: MLP, shape: tuple[int, int]) -> Picture:
    """Each hidden unit's weights as a picture of ``shape``, in a grid: red pulls it up, blue down, white is zero.

    Every unit has a scale of its own, so that what it looks for shows whatever its size.
    """
    weights = model.weights_and_biases()[0][0].detach()[:_LARGEST_GRID].cpu().double()
    relative = (weights / weights.abs().amax(1, keepdim=True).clamp_min(1e-30)).view(-1, *shape)
    fade = 1 - relative.abs()
    red, blue = torch.where(relative > 0, 1.0, fade), torch.where(relative < 0, 1.0, fade)
    colours = (torch.stack([red, fade, blue], dim=-1) * 255).round().to(torch.uint8).numpy()
    return _grid([_enlarge(tile, 56) for tile in colours])


def misread_digits(split: Split, evaluation: Evaluation, maximum: int) -> Picture | None:
    """The misread digits of which it was surest, each with "true as predicted" and confidence; ``None`` without any."""
    return _captioned(split, evaluation, evaluation.misread, maximum)


def least_certain_digits(split: Split, evaluation: Evaluation, maximum: int) -> Picture | None:
    """The digits of the least confidence, right or wrong, each with "true as predicted" and confidence."""
    return _captioned(split, evaluation, evaluation.confidences.argsort(stable=True), maximum)


def _captioned(split: Split, evaluation: Evaluation, chosen: Tensor, maximum: int) -> Picture | None:
    tiles = []
    for index in chosen[:_DIGITS].tolist():
        sprite = in_grey(split.images[index].cpu().numpy(), maximum, inverted=True)
        digit = _enlarge(np.repeat(sprite[:, :, None], 3, axis=2), 84)
        label, predicted = int(split.labels[index]), int(evaluation.predictions[index])
        lines = f"{label} as {predicted}", f"{100 * float(evaluation.confidences[index]):.4g} %"
        caption = _caption(digit.shape[1], lines, "black" if label == predicted else "#b3261e")
        tiles.append(np.concatenate([digit, caption]))
    return _grid(tiles) if tiles else None


def confusion_matrix(evaluation: Evaluation) -> Picture | None:
    """Counts of each class (rows) by what it was called (columns): right ones blue, errors red; of 30 classes at most.

    The darker an error, the larger its share of the errors.
    """
    from PIL import Image, ImageDraw

    confusion = evaluation.confusion.numpy().astype(float)
    classes = len(confusion)
    if classes > _MOST_CLASSES:
        return None
    errors = confusion - np.diag(np.diag(confusion))
    shade = np.sqrt(errors / max(1.0, errors.max())) * 0.9
    right = np.diag(confusion) / np.maximum(1, confusion.sum(1)) * 0.75
    colours = 255 - shade[..., None] * (255 - _RED) - np.diag(right)[..., None] * (255 - _BLUE)
    cells = np.kron(colours.round(), np.ones((_CELL, _CELL, 1))).astype(np.uint8)
    cells[::_CELL] = cells[:, ::_CELL] = 225
    side = classes * _CELL
    picture = Image.new("RGB", (side + _MARGIN + _GAP, side + _MARGIN + _GAP), "white")
    picture.paste(Image.fromarray(cells), (_MARGIN, _MARGIN))
    draw, font = ImageDraw.Draw(picture), _font(15)
    draw.text((_MARGIN + side / 2, 14), "called", _INK, font, "mm")
    draw.text((4, _MARGIN / 2 + 10), "true", _INK, font, "lm")
    for i in range(classes):
        middle = _MARGIN + _CELL * (i + 0.5)
        draw.text((middle, 40), str(i), _INK, font, "mm")
        draw.text((40, middle), str(i), _INK, font, "mm")
        for j in range(classes):
            text, at = f"{confusion[i, j]:.0f}", (_MARGIN + _CELL * (j + 0.5), middle)
            if confusion[i, j]:
                draw.text(at, text, "white" if shade[i, j] > 0.6 else _INK, _font(15 if len(text) < 5 else 12), "mm")
    return np.asarray(picture)


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _caption(width: int, lines: Iterable[str], colour: str) -> Picture:
    from PIL import Image, ImageDraw

    caption = Image.new("RGB", (width, 38), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(caption).text((width // 2, 10 + 17 * number), line, colour, _font(15), "mm")
    return np.asarray(caption)


def _enlarge(tile: np.ndarray, size: int) -> np.ndarray:
    """Repeat the pixels of a picture so often that it is about ``size`` high."""
    factor = max(1, size // tile.shape[0])
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


def _grid(tiles: list[np.ndarray]) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(tiles) * 1.6))  # wider than high, as screens are
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles[0].shape[:2]
    grid = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 210, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top = _GAP + number // columns * (height + _GAP)
        left = _GAP + number % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = tile
    return grid
