"""Pictures of a network: its first-layer weights, the digits it misreads, and what its confidence is worth."""

from __future__ import annotations

import math

import numpy as np
import torch

from lean_mnist.charts import BLUE, GREY, ORANGE, Axis, Chart, Picture
from lean_mnist.data.datasets import Split
from lean_mnist.nn import MLP
from lean_mnist.training.evaluation.calibration import risk_by_coverage
from lean_mnist.training.evaluation.metrics import Evaluation, clopper_pearson

_LARGEST_GRID = 128  # units shown
_MISREAD = 40  # digits shown
_GAP = 2
_PALE_BLUE = (140, 183, 219)
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
    """How often predictions of a confidence are right, with 95 % intervals; the diagonal is perfect calibration."""
    found = evaluation.calibration
    title = f"reliability: expected calibration error {found.error:.2%} on {evaluation.examples:,} examples"
    chart = Chart(title, Axis("confidence", 0, 1, percent=True), Axis("accuracy", 0, 1, percent=True))
    bins = [(index, *counts) for index, counts in enumerate(zip(*(of.tolist() for of in found), strict=True))]
    filled, width = [(index, n, k, confidence) for index, n, k, confidence in bins if n], 1 / len(bins)
    for index, n, k, _ in filled:
        chart.bar(index * width, (index + 1) * width, k / n, _PALE_BLUE)
    chart.line([(0, 0), (1, 1)], GREY, dashed=True)
    for _, n, k, confidence in filled:
        chart.whisker(confidence, *clopper_pearson(k, n), ORANGE)
    chart.explain(_PALE_BLUE, "accuracy by confidence")
    chart.explain(ORANGE, "95 % interval, at the mean")
    chart.explain(GREY, "perfect")
    return chart.picture()


def risk_coverage_curve(evaluation: Evaluation) -> Picture:
    """The error rate among the most confident predictions, by the share of examples that is answered."""
    coverage, risk = risk_by_coverage(evaluation.confidences, evaluation.right)
    whole = 1 - evaluation.accuracy
    title = f"selective classification: {evaluation.errors} errors in {evaluation.examples:,} if all are answered"
    # The first few may have any risk; the axis is for the rest.
    highest = max(1.1 * float(risk[len(risk) // 100 :].max()), 1e-3)
    x = Axis("coverage: share of examples answered, most confident first", 0, 1, percent=True)
    chart = Chart(title, x, Axis("risk: errors among those answered", 0, highest, percent=True))
    chart.line([(0, whole), (1, whole)], GREY, dashed=True)
    shown = torch.linspace(0, len(risk) - 1, min(len(risk), _POINTS)).long()
    chart.line(list(zip(coverage[shown].tolist(), risk[shown].tolist(), strict=True)), BLUE)
    chart.explain(BLUE, "most confident first")
    chart.explain(GREY, "all answered, or some chosen at random")
    return chart.picture()


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
