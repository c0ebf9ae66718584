"""Few-bit weights: the straight-through gradient, grids, quantising a trained network, training a quantised one."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.chainrule.straight_through import quantize_backward, quantize_forward
from lean_mnist.data.datasets import Dataset, load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.imports.certified import exact_layers
from lean_mnist.generalization.quantize import fold_scaling, quantize_layers, quantized_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from lean_mnist.nn import MLP
from lean_mnist.nn.grid import Grid, grid_of
from lean_mnist.nn.quantized import QuantizedMLP, fake_quantize


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits()


def straight_through_error(backward: Any, seed: int) -> float:
    """How far a backward is from autograd's of ``w + stop_gradient(w̃ − w)``; random weights, upstream gradients."""
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for points in (2, 3, 4, 16):
        w = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
        upstream = torch.randn(5, 7, generator=generator, dtype=torch.float64)
        rounded, tape = quantize_forward(w.detach(), -0.6, 1.3 / points, points)
        (expected,) = torch.autograd.grad(w + (rounded - w).detach(), w, upstream)
        worst = max(worst, float((backward(tape, upstream) - expected).abs().max()))
    return worst


def test_straight_through_is_the_derivative_of_the_identity() -> None:
    assert straight_through_error(quantize_backward, 0) == 0


def test_another_derivative_is_caught() -> None:
    assert straight_through_error(lambda tape, d_w: d_w * 1.001, 0) > 1e-3
    assert straight_through_error(lambda tape, d_w: torch.zeros_like(d_w), 0) > 0.1


def test_forward_gives_the_nearest_point() -> None:
    w = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    for points in (2, 4, 5):
        rounded, _ = quantize_forward(w, -1.0, 0.5, points)
        grid = torch.tensor([-1.0 + 0.5 * k for k in range(points)], dtype=torch.float64)
        assert torch.equal((rounded - w).abs(), (grid[:, None] - w).abs().amin(0))
        assert set(rounded.tolist()) == set(grid.tolist())


def test_formula_on_fractions() -> None:
    w = np.array([[Fraction(-9), Fraction(-1, 3)], [Fraction(1, 8), Fraction(5, 2)]], dtype=object)
    shift, scale = Fraction(-1), Fraction(1, 2)
    rounded, tape = quantize_forward(w, shift, scale, 4)
    expected = [[Fraction(-1), Fraction(-1, 2)], [Fraction(0), Fraction(1, 2)]]
    assert rounded.tolist() == expected
    d_w = np.array([[Fraction(2), Fraction(3)], [Fraction(5), Fraction(7)]], dtype=object)
    assert quantize_backward(tape, d_w).tolist() == d_w.tolist()
    as_tensor, _ = quantize_forward(torch.tensor(w.astype(float)), -1.0, 0.5, 4)
    assert as_tensor.tolist() == [[float(v) for v in row] for row in expected]


def test_bad_questions_to_the_formula() -> None:
    w = torch.zeros(2)
    for scale, points, message in ((0.0, 4, "scale: 0.0"), (float("nan"), 4, "scale: nan"), (1.0, 1, "points: 1")):
        with pytest.raises(ArgumentError, match=message):
            quantize_forward(w, 0.0, scale, points)
    _, tape = quantize_forward(w, 0.0, 1.0, 2)
    with pytest.raises(ArgumentError, match="d_w: expected shape"):
        quantize_backward(tape, torch.zeros(1))
    with pytest.raises(ArgumentError, match="floating"):
        fake_quantize(torch.zeros(2, dtype=torch.int64), Grid(np.float16(0), np.float16(1), 2))


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 12, 16])
@pytest.mark.parametrize("rule", ["minimum-maximum", "least-squares", "normal"])
def test_grids(bits: int, rule: str) -> None:
    weights = np.random.default_rng(bits).normal(0.05, 0.2, (30, 40))
    grid = grid_of(weights, bits, rule)
    codes = grid.codes(weights)
    assert grid.points == 2**bits
    assert int(codes.max()) < grid.points
    error = np.abs(grid.values(codes) - weights)
    low, high = grid.values(np.array([0, grid.points - 1], np.uint16))
    inside = (weights >= low) & (weights <= high)
    assert float(error[inside].max()) <= float(grid.scale) / 2 * (1 + 1e-12)
    if rule == "minimum-maximum":
        assert high >= weights.max()
    best = np.square(grid_of(weights, bits).values(grid_of(weights, bits).codes(weights)) - weights).sum()
    assert best <= np.square(error).sum() * (1 + 1e-12)


def test_grid_of_equal_weights_and_bad_ones() -> None:
    grid = grid_of(np.full((2, 2), 0.5), 3)
    assert np.allclose(grid.values(grid.codes(np.full((2, 2), 0.5))), 0.5)
    with pytest.raises(ArgumentError, match="weights: none, infinities or NaN"):
        grid_of(np.array([1.0, np.nan]), 3)
    with pytest.raises(ArgumentError, match="weights: 40000, expected at most 32752"):
        grid_of(np.array([1.0, 40000.0]), 3)
    with pytest.raises(ArgumentError, match=r"rule: expected one of .*, found 'normall' \(did you mean 'normal'"):
        grid_of(np.zeros(3), 3, "normall")
    with pytest.raises(ArgumentError, match="bits: 0"):
        grid_of(np.zeros(3), 0)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> tuple[MLP, Normalization]:
    normalization = Normalization.fit("standard", digits.train.images, digits.maximum)
    model = MLP((64, 16, 10), seed=1)
    x, labels = normalization.apply(digits.train.images), digits.train.labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(x, labels).backward()
        optimizer.step()
    return model, normalization


def rounded_to(model: MLP, normalization: Normalization, bits: int) -> QuantizedNetwork:
    """A network of digits, rounded together with its normalisation."""
    layers = [
        (weight.detach().double().numpy(), None if bias is None else bias.detach().double().numpy())
        for weight, bias in model.weights_and_biases()
    ]
    return quantize_layers(fold_scaling(layers, normalization.mean, normalization.scale, 16), bits, 16)


@pytest.mark.parametrize(("bits", "least"), [(16, 1.0), (8, 0.98), (4, 0.9)])
def test_quantised_after_training(digits: Dataset, trained: tuple[MLP, Normalization], bits: int, least: float) -> None:
    model, normalization = trained
    network = rounded_to(model, normalization, bits)
    assert network.space.sizes == (64, 16, 10)
    labels = IntegerNetwork(network, maximum=16).labels(digits.test.images.numpy())
    own = model(normalization.apply(digits.test.images)).argmax(1).numpy()
    assert (labels == own).mean() >= least
    assert (labels == digits.test.labels.numpy()).mean() > 0.85


def test_what_cannot_be_rounded_is_refused(digits: Dataset) -> None:
    unit = Normalization("unit", 0.0, 16.0)
    model = MLP((64, 4, 10))
    with torch.no_grad():
        model.parameter_pairs()[1][0][0, 0] = float("nan")
    with pytest.raises(ArgumentError, match=r"layers\[1\]: weights: none, infinities or NaN"):
        rounded_to(model, unit, 4)
    with pytest.raises(ArgumentError, match=r"layers\[0\].bias: 70000, expected at most 65504"):
        quantize_layers([(np.ones((2, 3)), np.array([0.0, 70000.0]))], 4)
    with pytest.raises(ArgumentError, match=r"layers\[0\]: weights: none, infinities or NaN"):
        quantize_layers(fold_scaling([(1e300 * np.ones((2, 3)), None)], 0.0, 1e-38), 4)
    mixed = quantize_layers([(np.eye(3), np.ones(3)), (np.eye(3), None)], 4)
    assert mixed.layers[1].bias is not None
    assert not mixed.layers[1].bias.any()
    assert rounded_to(MLP((64, 4, 10), bias=False), unit, 4).layers[0].bias is None


@pytest.mark.parametrize(("bits", "bias"), [(1, True), (2, False), (4, True), (16, True)])
def test_network_that_trains_is_the_one_that_is_written(digits: Dataset, bits: int, bias: bool) -> None:
    model = QuantizedMLP((64, 8, 10), bits=bits, bias=bias, dtype=torch.float64, seed=3)
    network = quantized_network(model, 16)
    for (weight, own_bias), layer in zip(model.weights_and_biases(), exact_layers(network).layers, strict=True):
        assert np.allclose(weight.detach().numpy(), layer[0], rtol=0, atol=1e-12)
        assert (own_bias is None) == (layer[1] is None)
    x = digits.test.images.flatten(1).double() / 16
    logits = model(x)
    labels = IntegerNetwork(network, maximum=16).labels(digits.test.images.numpy())
    gap = logits.topk(2, dim=1).values
    clear = (gap[:, 0] - gap[:, 1] > 1e-9).numpy()
    assert (labels == logits.argmax(1).numpy())[clear].all()
    loss = model.loss(x[:20], digits.test.labels[:20])
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_weights_midway_between_two_points_are_written_as_they_were_rounded() -> None:
    """There, float32 rounds some of them to the other side than float64 does."""
    model = QuantizedMLP((200, 50, 2), bits=3, rule="minimum-maximum", bias=False, seed=0)
    weight, _ = model.parameter_pairs()[0]
    with torch.no_grad():
        grid, ends = model.grids()[0], (weight.argmin(), weight.argmax())
        shift, scale = float(grid.shift), float(grid.scale)
        middle = shift + scale * ((weight.double() - shift).div(scale).floor().clamp(0, 6) + 0.5)
        for end in ends:  # which the grid reaches to, so that it stays as it is
            middle.view(-1)[end] = weight.view(-1)[end]
        weight.copy_(middle * (1 + 3e-8 * torch.randn(middle.shape, generator=torch.Generator().manual_seed(0))))
    rounded = model.weights_and_biases()[0][0].detach().double().numpy()
    grid = model.grids()[0]
    assert not np.array_equal(grid.values(grid.codes(weight.detach().double().numpy())), rounded), "no case is hard"
    assert np.array_equal(exact_layers(quantized_network(model)).layers[0][0], rounded)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "rule"), [(1, "normal"), (3, "normal"), (2, "minimum-maximum"), (2, "least-squares")])
def test_gradient_is_that_of_the_loss_at_the_rounded_weights(digits: Dataset, bits: int, rule: str, bias: bool) -> None:
    model = QuantizedMLP((64, 8, 10), bits=bits, rule=rule, bias=bias, dtype=torch.float64, seed=3)
    x, labels = digits.train.images[:50].flatten(1).double() / 16, digits.train.labels[:50]
    model.loss(x, labels).backward()

    # Autograd on torch's own functions, at the rounded weights taken as given.
    rounded = [tensor for pair in model.weights_and_biases() for tensor in pair if tensor is not None]
    given = [tensor.detach().requires_grad_() for tensor in rounded]
    first, second = (given[:2], given[2:]) if bias else (given[:1], given[1:])
    hidden = torch.relu(torch.nn.functional.linear(x, *first))
    torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, *second), labels).backward()
    for own, reference in zip(model.parameters(), given, strict=True):
        assert own.grad is not None
        assert reference.grad is not None
        assert own.dim() == 1 or not torch.equal(own, reference)
        assert torch.allclose(own.grad, reference.grad, rtol=1e-12, atol=1e-14)


def test_the_audit_of_a_run_accepts_it_and_can_refuse(digits: Dataset) -> None:
    model = QuantizedMLP((64, 8, 10), bits=2, seed=3)
    x, labels = digits.train.images[:64].flatten(1).float() / 16, digits.train.labels[:64]
    loss = model.loss(x, labels)
    loss.backward()
    check = StepAudit(model)
    assert check.check([(x, labels)], loss.detach(), compare_gradients=True, gradcheck=True).passed
    gradient = model.parameter_pairs()[0][0].grad
    assert gradient is not None
    gradient[3, 20] += 0.01
    refused = check.check([(x, labels)], loss.detach(), compare_gradients=True, gradcheck=False)
    assert not refused.passed
    assert "layers.0.weight[3, 20]" in refused.message


def test_impossible_networks() -> None:
    with pytest.raises(ArgumentError, match="bits: 17"):
        QuantizedMLP((4, 2), bits=17)
    with pytest.raises(ArgumentError, match=r"rule: expected one of .*, found 'none'"):
        QuantizedMLP((4, 2), bits=2, rule="none")
