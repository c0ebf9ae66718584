"""Pictures of a network: its first-layer weights, and the digits it misreads."""

from __future__ import annotations

import math

import numpy as np
import torch

from lean_mnist.data.datasets import Split
from lean_mnist.nn import MLP
from lean_mnist.training.metrics import Evaluation

_LARGEST_GRID = 128  # units shown
_MISREAD = 40  # digits shown
_GAP = 2


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
    tiles = []
    for index in wrong:
        grey = split.images[index].cpu().double().mul(255 / maximum).round().to(torch.uint8).numpy()
        digit = _enlarge(255 - np.repeat(grey[:, :, None], 3, axis=2), max(1, 84 // grey.shape[0]))
        caption = Image.new("RGB", (digit.shape[1], 20), "white")
        text = f"{labels[index]} as {evaluation.predictions[index]}"
        ImageDraw.Draw(caption).text((caption.width // 2, 9), text, "black", ImageFont.load_default(15), "mm")
        tiles.append(np.concatenate([digit, np.asarray(caption)]))
    return _grid(tiles)


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
