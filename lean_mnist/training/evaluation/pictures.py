"""Pictures of a network: first-layer weights, misread digits, and charts of its calibration."""

from __future__ import annotations

import math

import numpy as np
import torch

from lean_mnist import figures
from lean_mnist.data.datasets import Split
from lean_mnist.figures import Picture
from lean_mnist.nn import MLP
from lean_mnist.training.evaluation.metrics import Evaluation, clopper_pearson, risk_by_coverage

_LARGEST_GRID = 128  # units shown
_MISREAD = 40  # digits shown
_GAP = 2
_POINTS = 600  # of a curve


def first_layer_weights(model: MLP, shape: tuple[int, int]) -> np.ndarray:
    """Each hidden unit's weights as a picture of ``shape``, in a grid: red pulls it up, blue down, white is zero.

    Every unit has a scale of its own, so that what it looks for shows whatever its size. uint8, ``(height, width, 3)``.
    """
    weights = model.weights_and_biases()[0][0].detach().cpu().double()[:_LARGEST_GRID]
    relative = (weights / weights.abs().amax(1, keepdim=True).clamp_min(1e-30)).view(-1, *shape)
    fade = 1 - relative.abs()
    red, blue = torch.where(relative > 0, 1.0, fade), torch.where(relative < 0, 1.0, fade)
    colours = (torch.stack([red, fade, blue], dim=-1) * 255).round().to(torch.uint8).numpy()
    return _grid([_enlarge(tile, 56 // shape[0]) for tile in colours])


def misread_digits(split: Split, evaluation: Evaluation, maximum: int) -> np.ndarray | None:
    """The first misread digits of a split in a grid, each captioned "true as predicted"; ``None`` if there are none."""
    from PIL import Image, ImageDraw, ImageFont

    labels = split.labels.cpu()
    wrong = (labels != evaluation.predictions).nonzero().flatten()[:_MISREAD].tolist()
    if not wrong:
        return None
    tiles, font = [], ImageFont.load_default(15)
    for index in wrong:
        grey = split.images[index].cpu().double().mul(255 / maximum).round().to(torch.uint8).numpy()
        digit = _enlarge(255 - np.repeat(grey[:, :, None], 3, axis=2), max(1, 84 // grey.shape[0]))
        caption = Image.new("RGB", (digit.shape[1], 20), "white")
        text = f"{labels[index]} as {evaluation.predictions[index]}"
        ImageDraw.Draw(caption).text((caption.width // 2, 9), text, "black", font, "mm")
        tiles.append(np.concatenate([digit, np.asarray(caption)]))
    return _grid(tiles)


def reliability_diagram(evaluation: Evaluation) -> Picture:
    """Accuracy by confidence, with 95 % intervals; the diagonal is perfect calibration."""
    found = evaluation.calibration
    title = f"reliability: expected calibration error {found.error:.2%} on {evaluation.examples:,} examples"
    axes = figures.axes(title, "confidence", "accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(figures.percentage)
    bins = len(found.examples)
    filled = [index for index in range(bins) if found.examples[index]]
    examples, correct = ([int(values[index]) for index in filled] for values in (found.examples, found.correct))
    accuracy = np.divide(correct, examples)
    left = np.divide(filled, bins)
    axes.bar(left, accuracy, 0.96 / bins, align="edge", color=figures.PALE_BLUE, label="accuracy by confidence")
    axes.plot([0, 1], [0, 1], "--", color=figures.GREY, label="perfect")
    ends = np.array([clopper_pearson(k, n) for k, n in zip(correct, examples, strict=True)]).reshape(-1, 2)
    lengths, label = np.abs(ends - accuracy[:, None]).T, "95 % interval, at the mean"
    means = [float(found.confidence[index]) for index in filled]
    axes.errorbar(means, accuracy, lengths, fmt="none", ecolor=figures.ORANGE, capsize=3, label=label)
    return figures.picture(axes)


def risk_coverage_curve(evaluation: Evaluation) -> Picture:
    """Error rate among the most confident predictions, by the share of examples that is answered."""
    coverage, risk = risk_by_coverage(evaluation.confidences, evaluation.right)
    whole = 1 - evaluation.accuracy
    title = f"selective classification: {evaluation.errors} errors in {evaluation.examples:,} if all are answered"
    x_label = "coverage: share of examples answered, most confident first"
    axes = figures.axes(title, x_label, "risk: errors among those answered")
    axes.xaxis.set_major_formatter(figures.percentage)
    # The first few may have any risk; the axis is for the rest.
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk[len(risk) // 100 :].max()), 1e-3)))
    axes.plot([0, 1], [whole, whole], "--", color=figures.GREY, label="all answered, or some chosen at random")
    shown = torch.linspace(0, len(risk) - 1, min(len(risk), _POINTS)).long()
    axes.plot(coverage[shown].numpy(), risk[shown].numpy(), color=figures.BLUE, label="most confident first")
    return figures.picture(axes)


def _enlarge(tile: np.ndarray, factor: int) -> np.ndarray:
    factor = max(1, factor)
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
