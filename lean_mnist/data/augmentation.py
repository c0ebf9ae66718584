"""Random deformations of images, a new one for every image in every epoch: affine maps and elastic distortion.

P. Simard, D. Steinkraus, J. Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis", ICDAR 2003. D. Cireşan et al., "Deep Big Simple Neural Nets Excel on Handwritten Digit Recognition", Neural
Computation 22 (2010), use shift 0, rotation 15, scale 0.15 to 0.2, about 1 pixel of distortion, smoothness 5 to 6.

Shapes: ``m`` images of ``rows x columns``; ``K`` elastic modes. Coordinates are ``(x, y)`` = (column, row) in pixels,
from the centre of the image.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from lean_mnist.data.normalization import check_pixels
from lean_mnist.data.splits import generator_for

CHUNK = 1000  # images deformed at a time: about 20 MB on the way, and no slower than more of them
KEPT_VARIANCE = 0.999  # of the elastic field, along each axis


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the deformation of images; every strength 0, the default, leaves them as they are."""

    shift: float = 0.0  # along each axis, uniform in ±shift pixels
    rotation: float = 0.0  # about the centre, uniform in ±rotation degrees
    scale: float = 0.0  # width and height are multiplied by factors, independent and uniform in 1 ± scale
    elastic: float = 0.0  # standard deviation of each pixel's random displacement along each axis, in pixels
    smoothness: float = 5.0  # standard deviation, in pixels, of the Gaussian that smooths the elastic displacements

    def apply_epoch(self, images: Tensor, seed: int, epoch: int, first: int = 0) -> Tensor:
        """Deform the images of an epoch from number ``first`` on: uint8 (m - first, rows, columns).

        Equal, bit for bit, to the tail of ``apply_epoch`` with ``first = 0``, anywhere: each ``CHUNK`` images have a
        generator of their own, a function of ``(seed, epoch, number of the chunk)``. Raises :class:`ArgumentError` for
        images of another shape or type.
        """
        check_pixels("images", images)
        total, parts = first + len(images), []
        for begin in range(first - first % CHUNK, total, CHUNK):
            end = min(begin + CHUNK, total)
            part = images[max(0, begin - first) : end - first]
            generator = generator_for(seed, f"augmentation, epoch {epoch}", begin // CHUNK)
            parts.append(self._deform(part, end - begin, generator))
        return torch.cat(parts) if parts else images.clone()

    def _deform(self, images: Tensor, drawn: int, generator: torch.Generator) -> Tensor:
        """Draw deformations for ``drawn`` images, and deform ``images`` by the last of them."""
        rows, columns = images.shape[1:]
        maps = affine_maps(
            shift=_uniform(drawn, 2, self.shift, generator),
            rotation=_uniform(drawn, 1, math.radians(self.rotation), generator)[:, 0],
            scale=1 + _uniform(drawn, 2, self.scale, generator),
        )
        functions = _affine_functions(rows, columns)
        if self.elastic:
            modes = elastic_modes(rows, columns, self.smoothness)
            amplitudes = self.elastic * torch.randn(drawn, 2, len(modes), generator=generator)
            maps, functions = torch.cat([maps, amplitudes], 2), torch.cat([functions, modes])
        # The same product of matrices whichever images are asked for: in another shape it would round differently.
        sources = (maps.to(images.device) @ functions.to(images.device)).view(drawn, 2, rows, columns)
        return resample(images, sources[drawn - len(images) :])


def affine_maps(*, shift: Tensor, rotation: Tensor, scale: Tensor) -> Tensor:
    """Affine maps (m, 2, 3) from a pixel of the deformed image to its place ``(x, y)`` in the given one.

    The image is moved by ``shift`` (m, 2) pixels, and then, about its centre, turned by ``rotation`` (m,) radians from
    the x- to the y-axis (clockwise as it is drawn), and multiplied in width and height by ``scale`` (m, 2)::

        source(x, y) = R(-rotation) · (x / scale_x, y / scale_y) - shift

    The columns of a map belong to the functions ``1``, ``x`` and ``y``.
    """
    cos, sin = rotation.cos(), rotation.sin()
    width, height = 1 / scale[:, 0], 1 / scale[:, 1]
    along_x = torch.stack([-shift[:, 0], cos * width, sin * height], 1)
    along_y = torch.stack([-shift[:, 1], -sin * width, cos * height], 1)
    return torch.stack([along_x, along_y], 1)


@functools.lru_cache(maxsize=8)
def elastic_modes(rows: int, columns: int, smoothness: float) -> Tensor:
    """Functions (K, rows * columns) whose sum with standard normal amplitudes is an elastic displacement field.

    Simard's field, white noise smoothed by a Gaussian, is a stationary Gaussian field with the correlation
    ``exp(-d² / (4 smoothness²))`` at distance d, a product over the two axes. Here it has variance 1 and is expanded in
    the eigenvectors of its correlation along each axis (Karhunen-Loève), as many as carry 99.9 % of the variance.
    """
    along_rows, along_columns = _axis_modes(rows, smoothness), _axis_modes(columns, smoothness)
    return torch.einsum("ir,jc->ijrc", along_rows, along_columns).flatten(2).flatten(0, 1).float()


def resample(images: Tensor, sources: Tensor) -> Tensor:
    """Images whose pixels are read at ``sources`` in ``images`` uint8 (m, rows, columns), bilinearly, with 0 outside.

    ``sources`` float32 (m, 2, rows, columns): x and y of each pixel's place, scaled in place. Rounded to the nearest.
    """
    rows, columns = images.shape[1:]
    sources[:, 0] *= 2 / columns  # grid_sample counts from -1 to 1, edge to edge
    sources[:, 1] *= 2 / rows
    values = grid_sample(images.float().unsqueeze(1), sources.permute(0, 2, 3, 1), align_corners=False)
    return values.squeeze(1).add_(0.5).to(torch.uint8)


def _axis_modes(size: int, smoothness: float) -> Tensor:
    place = torch.arange(size, dtype=torch.float64)
    correlation = torch.exp(-((place[:, None] - place) ** 2) / (4 * smoothness**2))
    variances, vectors = torch.linalg.eigh(correlation)
    variances, vectors = variances.flip(0).clamp_min(0), vectors.flip(1)
    kept = int((variances.cumsum(0) < KEPT_VARIANCE * variances.sum()).sum()) + 1
    return (vectors[:, :kept] * variances[:kept].sqrt()).T


@functools.lru_cache(maxsize=8)
def _affine_functions(rows: int, columns: int) -> Tensor:
    """``1``, ``x`` and ``y`` at every pixel, counted from the centre: (3, rows * columns)."""
    y, x = torch.meshgrid(torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y]).flatten(1)


def _uniform(count: int, numbers: int, largest: float, generator: torch.Generator) -> Tensor:
    return largest * (2 * torch.rand(count, numbers, generator=generator) - 1)
