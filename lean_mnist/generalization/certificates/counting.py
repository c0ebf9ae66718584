"""Count errors so that the count holds for every evaluation that rounds no worse than stated, in any order of sums.

The exact logits ``z`` are computed in float64; around each stands a bound ``e`` on what rounding can do, by norms: the
first recursion at the top of :mod:`lean_mnist.generalization.checker`. It begins with how far the features may be (for
rounding mean and scale, the subtraction, and a division or a multiplication by the reciprocal):
``E = u (2√n |mean| / scale + 5 |x|)``. An example whose label's ``z − e`` is above every other ``z + e`` is right.
Those that this leaves open are bounded again by components, the second recursion there (:func:`gap_bounds`); one that
is not right by either is an error. So "right" is a property of the example and the weights alone, and every
evaluation's own risk is at most the certified one. The checker counts by other means; the factor 1 + 2^−11 on the
bounds here stands between the two with which it finds the fewest and the most errors that a correct count can give.

Shapes: ``B`` batch, ``C`` classes, ``D`` input features, ``H`` units, ``m`` examples.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.errors import CertificateError

Array = npt.NDArray[np.float64]
Layers = Sequence[tuple[Array, Array | None]]
Scaling = tuple[str, float, float]  # of pixels: the normalisation's kind, mean and scale
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

U = 2.0**-24
SLACK = 1 + 2.0**-11
_OVERFLOW = 2.0**90
_CHUNK, _FEW = 2000, 250


@np.errstate(over="ignore", invalid="ignore")  # what is no number is not sure
def count_errors(
    layers: Layers,
    activation: str,
    normalization: Scaling,
    images: Pixels,
    labels: Labels,
    unit: float = U,
    *,
    by_norms: bool = False,
) -> int:
    """The examples that some evaluation may get wrong: wrong ones, and those too near to call.

    ``layers`` are pairs of weight ``(H, D)`` and bias ``(H,)`` or ``None``; ``images`` (m, rows, columns); ``labels``
    (m,); ``unit`` u, an operation's relative error; ``by_norms``: by the first recursion alone, as certificates of
    earlier releases. Raises ``CertificateError``: weights that are not finite, labels outside the classes, sizes that
    do not fit.
    """
    _check(layers, images, labels)
    pixels, errors = images.reshape(len(images), -1), 0
    for start in range(0, len(images), _CHUNK):
        part, label = pixels[start : start + _CHUNK], labels[start : start + _CHUNK]
        z, e = logits_and_bounds(layers, activation, normalization, part, unit)
        rows = np.arange(len(z))
        gap = z[rows, label][:, None] - z
        sure = gap > (e[rows, label][:, None] + e) * SLACK
        sure[rows, label], gap[rows, label] = True, np.inf
        open_ = np.flatnonzero(~sure.all(1) & (gap > 0).all(1) & (not by_norms))
        for at in np.array_split(open_, -(-len(open_) // _FEW)) if len(open_) else ():
            bounds = gap_bounds(layers, activation, normalization, part[at], label[at], unit)
            sure[at] |= gap[at] > bounds * SLACK
        errors += int((~sure.all(1)).sum())
    return errors


def logits_and_bounds(
    layers: Layers, activation: str, normalization: Scaling, pixels: Pixels, u: float = U
) -> tuple[Array, Array]:
    """Logits ``(B, C)`` of ``pixels`` uint8 ``(B, D)``, and for each how far an evaluation's may be from it."""
    h, size, carried = _features(normalization, pixels, u)
    z = e = h
    overflow = np.zeros(len(pixels), dtype=bool)
    for index, (weight, bias) in enumerate(layers):
        n = weight.shape[1]
        b = np.zeros(len(weight)) if bias is None else bias
        norms, reach = _norms(weight), size + carried
        g = (n + 3) * u / (1 - (n + 3) * u)
        fresh = np.outer(g * reach, norms) + g * np.abs(b)
        fresh += 2.0**-149 * (np.sqrt(n) * reach + n + 1)[:, None]
        e = np.outer(carried, norms) + fresh
        z = h @ weight.T + b
        overflow |= ~(e.max(1) < _OVERFLOW)
        if index < len(layers) - 1:
            h, spread, slope, own = _activate(activation, z, e, u)
            size, unit_by_unit = _norms(h), _norms(spread)
            added = _norms(np.minimum(spread, slope * fresh + own))
            stretch = np.inf if index == 0 else slope * _stretch(weight)
            with np.errstate(invalid="ignore"):
                carried = np.fmin(unit_by_unit, stretch * carried + added)
    e[overflow] = np.inf
    return z, e


def gap_bounds(
    layers: Layers, activation: str, normalization: Scaling, pixels: Pixels, labels: Labels, u: float = U
) -> Array:
    """Bounds, for any evaluation, on how far the label's logit minus each other one is from the exact one; ``(B, C)``.

    By components: forward, each unit's bound ``e`` and the rounding ``f`` that its own sum adds; back, the gradient of
    the difference through the units that are on whatever rounding does, along which the ``f`` are summed. Any other
    unit adds its whole spread, and nothing is followed through it.
    """
    h, size, reach = _features(normalization, pixels, u)
    before = np.outer(reach, _norms(layers[0][0]))
    zeros = (h == 0) if normalization[0] != "per-image" and normalization[1] == 0 else np.zeros(h.shape, dtype=bool)
    traced, overflow = [], np.zeros(len(pixels), dtype=bool)
    for index, (weight, bias) in enumerate(layers):
        n, b = weight.shape[1], np.zeros(len(weight)) if bias is None else bias
        z, k = h @ weight.T + b, (n - zeros.sum(1))[:, None]
        g = (k + 1) * u / (1 - (k + 1) * u)
        terms = np.abs(h) @ np.abs(weight).T + np.abs(b) + before
        fresh = u * (k + 3 + 2 * k * g) * (terms + np.abs(z) + before) / 2
        fresh += 2.0**-149 * (np.sqrt(n) * (size + reach) + n + 1)[:, None]
        e = before + fresh
        overflow |= ~(e.max(1) < _OVERFLOW)
        if index == len(layers) - 1:
            break
        slope, certain = _slopes(activation, z, e * SLACK)
        h, spread, _, own = _activate(activation, z, e, u)
        added = np.where(certain, slope * (e if index == 0 else fresh) + own, spread)
        traced.append((np.where(certain, slope, 0.0), added, layers[index + 1][0]))
        size, reach, zeros = _norms(h), _norms(spread), (h == 0) & (spread == 0)
        before = spread @ np.abs(layers[index + 1][0]).T
    # The features' error is in the first layer's e, and where there is no other layer, in the last one's.
    rows, last = np.arange(len(pixels)), e if len(layers) == 1 else fresh
    bounds = last[rows, labels][:, None] + last
    for other in range(bounds.shape[1]):
        gradient = (np.arange(bounds.shape[1]) == labels[:, None]) - 1.0 * (np.arange(bounds.shape[1]) == other)
        for slope, added, weight in reversed(traced):
            gradient = gradient @ weight
            bounds[:, other] += (np.abs(gradient) * added).sum(1)
            gradient *= slope
    bounds[overflow] = np.inf
    return bounds


def _slopes(name: str, z: Array, e: Array) -> tuple[Array | float, npt.NDArray[np.bool_]]:
    """The slope of the activation, and where it is that in every evaluation, whose z may be as far as ``e``."""
    if name == "identity":
        return 1.0, np.ones(z.shape, dtype=bool)
    if name in ("relu", "leaky-relu"):
        return np.where(z > 0, 1.0, 0.01 if name == "leaky-relu" else 0.0), np.abs(z) > e
    return 0.0, np.zeros(z.shape, dtype=bool)


def _features(normalization: Scaling, pixels: Pixels, u: float) -> tuple[Array, Array, Array]:
    """Features ``(B, D)``, their norms ``(B,)``, and how far those of an evaluation may be ``(B,)``."""
    kind, mean, scale = normalization
    values, n = pixels.astype(np.float64), pixels.shape[1]
    if kind != "per-image":
        values -= mean
        values /= scale
        norm = _norms(values)
        return values, norm, u * (2 * np.sqrt(n) * abs(mean) / scale + 5 * norm)
    means = values.sum(1) / n
    deviations = np.sqrt(n * np.square(values).sum(1) - np.square(values.sum(1))) / n
    deviations[deviations == 0] = 1
    x = (values - means[:, None]) / deviations[:, None]
    norm, ratio = _norms(x), means / deviations
    # The deviation is itself a rounded sum: (n + 6)/2 roundings, and those of the differences in it.
    more = np.where(norm > 0, norm * u * (0.55 * (n + 6) + 2 * (ratio + 1)), 0.0)
    return x, norm, u * (2 * np.sqrt(n) * ratio + 5 * norm) + more


def _norms(rows: Array) -> Array:
    """The Euclidean norm of each row, without an array of squares."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def _stretch(weight: Array) -> float:
    """At least the spectral norm: ``√‖W Wᵀ‖_∞``, or with ``Wᵀ W`` where that is smaller in size."""
    square = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    return float(np.sqrt(np.abs(square).sum(1).max()))


def _activate(name: str, z: Array, e: Array, u: float) -> tuple[Array, Array, float, Array | float]:
    """``h = σ(z)``; how far an evaluation's may be where its z may be as far as ``e``; slope and rounding in that."""
    if name == "relu":
        return np.maximum(z, 0), np.maximum(0, np.minimum(e, z + e)), 1.0, 0.0
    if name == "identity":
        return z, e, 1.0, 0.0
    if name == "leaky-relu":
        h = np.where(z > 0, z, 0.01 * z)
        own = 3 * u * (np.abs(h) + e) + 2.0**-149  # 0.01 z may underflow
        return h, e + own, 1.0, own
    if name not in REFERENCE_ACTIVATIONS:
        raise CertificateError(f"activation: {name!r} has no bound on its rounding here, so it cannot be certified")
    smooth, own = REFERENCE_ACTIVATIONS[name], 16 * u * (1 + np.abs(z) + e)
    h = smooth.value(torch.from_numpy(z)).numpy()
    return h, smooth.steepest * e + own, smooth.steepest, own


def _check(layers: Layers, images: Pixels, labels: Labels) -> None:
    for index, (weight, bias) in enumerate(layers):
        for name, values in (("weight", weight), ("bias", bias)):
            if values is not None and not (np.abs(values) < 2.0**60).all():  # false for NaN as well
                where = f"layers.{index}.{name}"
                raise CertificateError(f"{where}: expected finite weights below 2^60, found others or NaN")
    if len(images) == 0:
        raise CertificateError("examples: expected at least 1, found none; no examples say nothing")
    if len(images) != len(labels):
        raise CertificateError(f"labels: expected {len(images)}, one an image, found {len(labels)}")
    if images[0].size != layers[0][0].shape[1]:
        raise CertificateError(f"images: expected {layers[0][0].shape[1]} pixels each, found {images[0].size}")
    classes = len(layers[-1][0])
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        at = int(wrong.argmax())
        raise CertificateError(f"labels: {int(labels[at])} at index {at}, expected 0 to {classes - 1}")
