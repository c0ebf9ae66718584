"""The count: its bounds on rounding hold for float32 in any order, and the checker's integers agree with it."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.counting import _stretch, count_errors, gap_bounds, logits_and_bounds
from lean_mnist.nn import MLP
from tests.support.certificate_cases import CLASSES, decoder_fields, random_data, random_network

CASES = [
    ("relu", (6,), "standard"),
    ("relu", (9, 8, 7), "per-image"),
    ("leaky-relu", (6, 5), "unit"),
    ("identity", (4,), "per-image"),
    ("sigmoid", (6,), "standard"),
    ("tanh", (6, 6), "unit"),
    ("relu", (8, 8, 8, 8), "unit"),
    ("gelu", (6,), "standard"),
]


def arrays(model: MLP) -> list[tuple[np.ndarray, np.ndarray | None]]:
    return [
        (weight.detach().double().numpy(), None if bias is None else bias.detach().double().numpy())
        for weight, bias in model.weights_and_biases()
    ]


def scaling(normalization: Normalization) -> tuple[str, float, float]:
    return normalization.kind, normalization.mean, normalization.scale


@pytest.mark.parametrize(("activation", "hidden", "kind"), CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_float32_stays_within_its_bounds(activation: str, hidden: tuple[int, ...], kind: str, seed: int) -> None:
    """Our own forward pass in float32, and the same sums in other orders."""
    print(f"seed {seed}")
    model, data = random_network(seed, activation, hidden), random_data(seed, 200)
    normalization = Normalization.fit(kind, data.train.images, 255)
    z, e = logits_and_bounds(arrays(model), activation, scaling(normalization), data.test.images.flatten(1).numpy())
    ratio = 0.0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        with torch.no_grad():
            found = model(normalization.apply(data.test.images)).double().numpy()
        ratio = max(ratio, float((np.abs(found - z) / e).max()))
        for (weight, bias), (following, _) in pairwise(model.weights_and_biases()):  # hidden units in another order
            assert bias is not None
            order = torch.randperm(len(weight), generator=generator)
            with torch.no_grad():
                weight.copy_(weight[order])
                bias.copy_(bias[order])
                following.copy_(following[:, order])
    assert 0 < ratio < 1


ORDERS: dict[str, Any] = {
    "as they come": lambda terms: terms,
    "the positive ones first": lambda terms: -np.sort(-terms, axis=-1),
    "the largest first": lambda terms: np.take_along_axis(terms, np.argsort(-np.abs(terms), axis=-1), -1),
    "the smallest first": lambda terms: np.take_along_axis(terms, np.argsort(np.abs(terms), axis=-1), -1),
}


def off_and_bounds(hidden: tuple[int, ...], kind: str, order: str, u: float) -> tuple[np.ndarray, np.ndarray]:
    """How far gaps of logits are from the exact ones where every product and every sum, one term after the other, is
    rounded to float32; and the bounds by components on that for the unit u, infinite for the label itself."""
    model, data = random_network(3, "relu", hidden), random_data(3, 400)
    fitted, layers = scaling(Normalization.fit(kind, data.train.images, 255)), arrays(model)
    pixels, labels = data.test.images.flatten(1).numpy(), data.test.labels.numpy()
    z, _ = logits_and_bounds(layers, "relu", fitted, pixels)
    h = (pixels.astype(np.float32) - np.float32(fitted[1])) / np.float32(fitted[2])
    for index, (weight, bias) in enumerate(layers):
        assert bias is not None
        terms = h[:, None, :] * weight.astype(np.float32)
        biases = np.broadcast_to(bias.astype(np.float32), terms.shape[:2])[..., None]
        sums = np.cumsum(ORDERS[order](np.concatenate([terms, biases], -1)), axis=-1, dtype=np.float32)[..., -1]
        h = np.maximum(sums, 0) if index < len(layers) - 1 else sums
    found, rows = h.astype(np.float64), np.arange(len(labels))
    bounds = gap_bounds(layers, "relu", fitted, pixels, labels, u)
    bounds[rows, labels] = np.inf
    return np.abs((found[rows, labels][:, None] - found) - (z[rows, labels][:, None] - z)), bounds


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("hidden", "kind"), [((), "standard"), ((40,), "unit"), ((40, 40, 40, 40), "standard")])
def test_any_order_of_sums_stays_within_the_bounds_by_components(
    order: str, hidden: tuple[int, ...], kind: str
) -> None:
    off, bounds = off_and_bounds(hidden, kind, order, 2.0**-24)
    assert (off <= bounds).all()
    assert (off / bounds).max() > 1 / 300


def test_a_bound_by_components_that_is_too_small_is_seen() -> None:
    """For a unit a thousandth of float32's the orders of summation leave it."""
    off, bounds = off_and_bounds((40, 40), "standard", "the positive ones first", 2.0**-34)
    assert not (off <= bounds).all()


def test_depth_costs_less_by_components() -> None:
    """At four hidden layers the norms' bound is many times as large."""
    model, data = random_network(3, "relu", (40, 40, 40, 40)), random_data(3, 100)
    fitted, layers = scaling(Normalization.fit("standard", data.train.images, 255)), arrays(model)
    pixels, labels = data.test.images.flatten(1).numpy(), data.test.labels.numpy()
    _, e = logits_and_bounds(layers, "relu", fitted, pixels)
    bounds = gap_bounds(layers, "relu", fitted, pixels, labels)
    assert np.median((e[np.arange(len(labels)), labels][:, None] + e) / bounds) > 10


def test_the_bound_is_not_beyond_all_measure() -> None:
    """It is at most a few hundred times what rounding does: else hardly an example would count as right."""
    model, data = random_network(0), random_data(0, 200)
    normalization = Normalization.fit("standard", data.train.images, 255)
    z, e = logits_and_bounds(arrays(model), "relu", scaling(normalization), data.test.images.flatten(1).numpy())
    with torch.no_grad():
        found = model(normalization.apply(data.test.images)).double().numpy()
    assert (np.abs(found - z) / e).max() > 1 / 300


@pytest.mark.parametrize(("activation", "hidden", "kind"), CASES)
def test_the_checkers_integers_agree(activation: str, hidden: tuple[int, ...], kind: str) -> None:
    """Logits closer than its own small allowance; bounds within the factors between which the maker's stands."""
    model, data = random_network(5, activation, hidden), random_data(5, 60)
    normalization = Normalization.fit(kind, data.train.images, 255)
    layers, pixels = arrays(model), data.test.images.flatten(1).numpy()
    z, e = logits_and_bounds(layers, activation, scaling(normalization), pixels)
    raw = [([tuple(row) for row in w.tolist()], tuple(b.tolist())) for w, b in layers if b is not None]
    decoder = decoder_fields(activation, *scaling(normalization))
    network = checker.Network(raw, decoder)
    coarse = checker.Network(raw, decoder, slot=64)
    for row, (z_row, e_row) in zip(pixels, zip(z, e, strict=True), strict=True):
        own, bounds = network.logits(bytes(row.tolist()))
        assert np.abs(np.array(own) - z_row).max() < 1e-10
        assert (np.array(bounds) >= e_row * (1 - 1e-9)).all()
        assert (np.array(bounds) <= e_row * (1 + 2.0**-13)).all()
        other, wider = coarse.logits(bytes(row.tolist()))
        assert (np.abs(np.array(other) - z_row) <= np.array(wider) - e_row).all()
    labels = data.test.labels
    by_components = gap_bounds(layers, activation, scaling(normalization), pixels, labels.numpy())
    for row, label, expected in zip(pixels, labels.tolist(), by_components, strict=True):
        competitors = [other for other in range(CLASSES) if other != label]
        errors_of_gaps = np.array(network.traced(bytes(row.tolist()), label, competitors))
        assert (errors_of_gaps >= expected[competitors] * (1 - 1e-9)).all()
        assert (errors_of_gaps <= expected[competitors] * (1 + 2.0**-13)).all()
    fewest, most = checker.count(raw, decoder, [bytes(row.tolist()) for row in pixels], bytes(labels.tolist()))
    errors = count_errors(layers, activation, scaling(normalization), data.test.images.numpy(), labels.numpy())
    assert fewest == errors == most


def test_an_example_too_near_to_call_is_an_error() -> None:
    """Two classes whose logits differ by less than float32 can tell, but in exact arithmetic they do differ."""
    weight = np.zeros((CLASSES, 4))
    weight[0], weight[1] = 1.0, 1.0
    images, labels = np.full((1, 2, 2), 200, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    for bias, errors in ((0.0, 1), (1e-7, 1), (1e-3, 0)):
        layers = [(weight, np.array([bias, 0.0, 0.0]))]
        assert count_errors(layers, "relu", ("unit", 0.0, 255.0), images, labels) == errors
        raw: checker.Layers = [([tuple(row) for row in weight.tolist()], (bias, 0.0, 0.0))]
        assert checker.count(raw, decoder_fields("relu"), [bytes([200] * 4)], b"\0") == (errors, errors)


def test_overflow_is_an_error() -> None:
    weight = np.full((2, 4), 2.0**59)
    weight[1] = -weight[1]
    hidden = np.array([[2.0**59, 0.0], [0.0, 1.0]])
    images, labels = np.full((1, 2, 2), 200, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    layers = [(weight, None), (hidden, None)]
    assert count_errors(layers, "relu", ("unit", 0.0, 255.0), images, labels) == 1
    raw: checker.Layers = [([tuple(row) for row in w.tolist()], (0.0, 0.0)) for w, _ in layers]
    assert checker.count(raw, decoder_fields("relu"), [bytes([200] * 4)], b"\0") == (1, 1)


def test_an_image_of_one_colour_and_dead_weights() -> None:
    """Nothing is divided by zero, here or in the checker, and nothing is sure."""
    images, labels = np.zeros((2, 2, 2), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    images[1] = 7
    layers = [(np.zeros((3, 4)), None)]
    assert count_errors(layers, "relu", ("per-image", 0.0, 1.0), images, labels) == 2
    raw: checker.Layers = [([(0.0,) * 4] * 3, (0.0,) * 3)]
    decoder = decoder_fields("relu", "per-image", 0.0, 1.0)
    assert checker.count(raw, decoder, [bytes(4), bytes([7] * 4)], bytes(2)) == (2, 2)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1e-320), (1e308, 1e-300)])
def test_of_features_that_are_no_numbers_nothing_is_sure(mean: float, scale: float) -> None:
    images, labels = np.full((2, 2, 2), 7, dtype=np.uint8), np.zeros(2, dtype=np.int64)
    assert count_errors([(np.ones((3, 4)), None)], "relu", ("standard", mean, scale), images, labels) == 2


def test_what_cannot_be_counted() -> None:
    images, labels = np.zeros((2, 2, 2), dtype=np.uint8), np.array([0, 3])
    good = np.ones((3, 4))
    cases: list[tuple[Any, Any, Any, str]] = [
        ([(np.full((3, 4), np.nan), None)], images, labels, "layers.0.weight: expected finite weights"),
        ([(good, np.array([0, np.inf, 0]))], images, labels, "layers.0.bias: expected finite weights"),
        ([(good, None)], images, labels, "labels: 3 at index 1, expected 0 to 2"),
        ([(good, None)], images, -labels, "labels: -3 at index 1, expected 0 to 2"),
        ([(good, None)], images[:0], labels[:0], "examples: expected at least 1, found none"),
        ([(good, None)], images, labels[:1], "labels: expected 2, one an image, found 1"),
        ([(np.ones((3, 5)), None)], images, labels, "images: expected 5 pixels each, found 4"),
    ]
    for layers, pixels, classes, message in cases:
        with pytest.raises(CertificateError) as caught:
            count_errors(layers, "relu", ("unit", 0.0, 255.0), pixels, classes)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (1, 4), (5, 5)])
def test_the_stretch_is_at_least_the_spectral_norm(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(3).normal(size=shape)
    norm = np.linalg.norm(weight, 2)
    found = checker.spectral([tuple(row) for row in weight.tolist()])
    assert norm <= found <= np.sqrt(min(shape)) * norm * (1 + 1e-5)
    assert _stretch(weight) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("slot", [64, 128])
def test_the_checker_allows_for_its_own_rounding(slot: int) -> None:
    """Against the logits in fractions: what it adds to the bounds on float32 covers its own distance from them."""
    model, data = random_network(7, "relu", (6, 5)), random_data(7, 12)
    mean, scale, pixels = 33.318421, 78.567489, data.test.images.flatten(1).numpy()
    raw = [([tuple(row) for row in w.tolist()], tuple(b.tolist())) for w, b in arrays(model) if b is not None]
    _, e = logits_and_bounds(arrays(model), "relu", ("standard", mean, scale), pixels)
    network = checker.Network(raw, decoder_fields("relu", "standard", mean, scale), slot=slot)
    for row, e_row in zip(pixels.tolist(), e.tolist(), strict=True):
        h = [(pixel - Fraction(mean)) / Fraction(scale) for pixel in row]
        for index, (weights, biases) in enumerate(raw):
            inputs = [max(Fraction(0), value) for value in h] if index else h
            h = [
                sum((Fraction(w) * x for w, x in zip(unit, inputs, strict=True)), Fraction(b))
                for unit, b in zip(weights, biases, strict=True)
            ]
        z, bounds = network.logits(bytes(row))
        for exactly, found, allowed, float32 in zip(h, z, bounds, e_row, strict=True):
            assert abs(Fraction(found) - exactly) <= Fraction(allowed) - Fraction(float32)
