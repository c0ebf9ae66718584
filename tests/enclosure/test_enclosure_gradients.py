"""The gradients that train, against the enclosure of the exact ones; and the bounds, against the truth."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lean_mnist import MLP
from lean_mnist.chainrule import mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.enclosure.ball import Ball
from lean_mnist.enclosure.enclose import (
    Enclosure,
    bound_gradient,
    enclose_gradients,
    enclose_model_gradients,
)
from lean_mnist.errors import ArgumentError
from tests.support.enclosure_rational import fractions_of_tensor, numbers_in, random_ball, tame_ball

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LIMIT = 2e-6  # a little more than what float32's rounding is seen to do to these gradients early in training


def step(
    sizes: Sequence[int] = (784, 128, 10),
    batch: int = 128,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **options: Any,
) -> tuple[MLP, Tensor, Tensor]:
    """A model with its gradients in place, and the batch they are of."""
    model = MLP(sizes, dtype=dtype, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, sizes[0], generator=generator).to(dtype)
    labels = torch.randint(0, sizes[-1], (batch,), generator=generator)
    model.loss(x, labels).backward()
    return model, x, labels


def largest_radius(enclosure: Enclosure) -> float:
    """The largest relative radius of a gradient: how sharp the enclosure is."""
    return max(float(ball.rad.norm() / ball.mid.norm()) for ball in enclosure.gradients.values())


def least_error(computed: Tensor, ball: Ball) -> float:
    """The largest error that is certain, up to rounding, whatever of the ball is exact."""
    return float(((computed.double() - ball.mid).abs() - ball.rad).amax())


def gradients_of(model: MLP) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def arb_gradients(model: MLP, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """The exact gradient of a ReLU network at 200 bits, by matrices of Arb: not the chain rule's code."""
    from flint import arb, arb_mat, ctx

    ctx.prec = 200

    def matrix(tensor: Any) -> Any:
        return arb_mat(tensor.shape[0], tensor.shape[1], [arb(v) for v in tensor.detach().double().flatten().tolist()])

    layers = [(matrix(w), [] if b is None else b.detach().double().tolist()) for w, b in model.weights_and_biases()]
    inputs, masks = [matrix(x)], []
    for index, (w, b) in enumerate(layers):
        z = inputs[-1] * w.transpose()
        z = arb_mat([[value + bias for value, bias in zip(row, b, strict=True)] for row in z.table()])
        if index < len(layers) - 1:
            masks.append([[bool(value > 0) for value in row] for row in z.table()])
            assert all(value > 0 or value < 0 for value in z.entries())
            z = arb_mat([[max(value, arb(0)) if value > 0 else arb(0) for value in row] for row in z.table()])
        inputs.append(z)
    rows = []
    for row, label in zip(inputs.pop().table(), labels.tolist(), strict=True):
        e = [value.exp() for value in row]
        total = sum(e, arb(0))
        rows.append([(v / total - (1 if c == label else 0)) / len(labels) for c, v in enumerate(e)])
    d_z, found = arb_mat(rows), {}
    for index in reversed(range(len(layers))):
        found[f"layers.{index}.weight"] = (d_z.transpose() * inputs[index]).entries()
        found[f"layers.{index}.bias"] = [sum(column, arb(0)) for column in d_z.transpose().table()]
        if index:
            d_h, mask = (d_z * layers[index][0]).table(), masks[index - 1]
            d_z = arb_mat([[value if on else arb(0) for value, on in zip(*pair, strict=True)]
                           for pair in zip(d_h, mask, strict=True)])  # fmt: skip
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_full_size_batch_is_contained_and_its_bounds_hold(dtype: torch.dtype) -> None:
    pytest.importorskip("flint")
    from flint import arb

    model, x, labels = step(batch=64, dtype=dtype)
    enclosure, truth = enclose_model_gradients(model, x, labels), arb_gradients(model, x, labels)
    assert largest_radius(enclosure) < 1e-11
    for name, computed in gradients_of(model).items():
        ball = enclosure.gradients[name]
        bound = bound_gradient(name, computed, ball)
        numbers = zip(
            ball.mid.flatten().tolist(), ball.rad.flatten().tolist(), computed.double().flatten().tolist(), truth[name],
            strict=True,
        )  # fmt: skip
        largest, squares, size = arb(0), arb(0), arb(0)
        for mid, rad, value, exact in numbers:
            assert abs(exact - mid) <= arb(rad), name
            largest = largest.max(abs(exact - value))
            squares, size = squares + (exact - value) ** 2, size + exact**2
        assert largest <= bound.largest, name
        assert (squares / size).sqrt() <= bound.relative, name
        if dtype != torch.float64:  # whose own rounding is hardly more than the enclosure's
            assert bound.largest <= 1.1 * largest, name
            assert bound.relative <= 1.1 * (squares / size).sqrt(), name


@pytest.mark.parametrize("sizes", [(784, 128, 10), (784, 512, 256, 128, 10), (784, 4096, 10)], ids=str)
def test_the_bound_is_hardly_more_than_the_error(sizes: Sequence[int]) -> None:
    model, x, labels = step(sizes)
    enclosure = enclose_model_gradients(model, x, labels)
    assert largest_radius(enclosure) <= 1e-9
    assert bound_gradient("loss", model.loss(x, labels), enclosure.loss).largest < 1e-5
    gradients = gradients_of(model)
    for bound in enclosure.bounds(gradients):
        assert bound.relative <= LIMIT, str(bound)
        assert bound.largest < 1.1 * least_error(gradients[bound.name], enclosure.gradients[bound.name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_the_trainer_are_near_in_every_precision(dtype: torch.dtype, activation: str) -> None:
    options = {"label_smoothing": 0.1, "logit_penalty": 0.01}
    model, x, labels = step((20, 16, 12, 5), 32, dtype, 1, activation=activation, **options)
    enclosure = enclose_model_gradients(model, x, labels)
    # The kinks of bfloat16 flip, which is an error like any other; float64's own rounding is inside.
    limit = {torch.float64: 1e-12, torch.float32: LIMIT, torch.bfloat16: 0.2}[dtype]
    for bound in enclosure.bounds(gradients_of(model)):
        assert bound.relative <= limit, str(bound)


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"])
@pytest.mark.parametrize(("factor", "caught"), [(1 + 1e-5, True), (-1.0, True), (1 + 1e-7, False)])
def test_a_gradient_off_by_a_hundred_thousandth_is_seen_to_be_off(name: str, factor: float, caught: bool) -> None:
    model, x, labels = step()
    enclosure = enclose_model_gradients(model, x, labels)
    gradient = gradients_of(model)[name]
    bound = bound_gradient(name, (gradient.double() * factor).float(), enclosure.gradients[name])
    assert (bound.relative > LIMIT) is caught
    assert name in str(bound)


def test_one_wrong_element_is_seen() -> None:
    model, x, labels = step()
    enclosure = enclose_model_gradients(model, x, labels)
    gradient = gradients_of(model)["layers.0.weight"].clone()
    gradient[7, 300] += 1e-3 * gradient[7].norm()
    bound = bound_gradient("layers.0.weight", gradient, enclosure.gradients["layers.0.weight"])
    assert bound.relative > LIMIT


def test_a_step_that_rounding_put_on_the_other_side_is_compared_on_its_own_side() -> None:
    # z = 1 + 2⁻³⁰ − 1 > 0, which float32 sees as 0 if it adds in this order
    layers = [(torch.tensor([[1.0, 2.0**-30, -1.0]]), None), (torch.tensor([[1.0], [2.0]]), None)]
    x, labels = torch.ones(1, 3), torch.tensor([1])
    other_side = [torch.tensor([[False]])]
    proper = enclose_gradients(layers, x, labels)
    stepped = enclose_gradients(layers, x, labels, sides=other_side)
    assert proper.gradients["layers.0.weight"].mid.abs().max() > 0.1
    assert stepped.gradients["layers.0.weight"].is_zero.all()
    # A unit that is clearly on one side keeps it, whatever the step says.
    x = torch.tensor([[1.0, 1.0, 0.5]])
    assert not enclose_gradients(layers, x, labels, sides=other_side).gradients["layers.0.weight"].is_zero.all()
    for wrong in ([], [torch.zeros(1, 1)], [torch.tensor([True])]):
        with pytest.raises(ArgumentError, match="sides"):
            enclose_gradients(layers, x, labels, sides=wrong)


def test_with_the_sides_of_a_real_step_nothing_else_changes() -> None:
    model, x, labels = step((784, 64, 32, 10))
    with torch.no_grad():
        _, tape = mlp.mlp_forward(x, model.weights_and_biases(), ACTIVATIONS["relu"])
    enclosure = enclose_model_gradients(model, x, labels, sides=[h > 0 for h in tape.saved])
    assert all(bound.relative <= LIMIT for bound in enclosure.bounds(gradients_of(model)))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_a_batch_without_a_gradient_is_never_found_fine(bad: float, activation: str, where: str) -> None:
    model, x, labels = step((6, 5, 4, 3), 7, activation=activation)
    gradients = gradients_of(model)
    if where == "x":
        x[2, 3] = bad
    else:
        with torch.no_grad():
            model.weights_and_biases()[0][0][1, 2] = bad
    for bound in enclose_model_gradients(model, x, labels).bounds(gradients):
        assert bound.largest == math.inf
        assert not bound.relative <= 1e30


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_computed_number_that_is_not_real_is_infinitely_far(bad: float) -> None:
    bound = bound_gradient("g", torch.tensor([1.0, bad]), Ball.exact(torch.ones(2)))
    assert bound == ("g", math.inf, math.inf)
    unknown = Ball(torch.zeros(1, dtype=torch.float64), torch.full((1,), math.inf, dtype=torch.float64))
    assert bound_gradient("g", torch.tensor([bad]), unknown).largest == math.inf


@pytest.mark.parametrize("seed", range(150))
def test_bounds_hold_for_any_numbers_inside(seed: int) -> None:
    rng = random.Random(seed)
    ball = (tame_ball if seed % 3 else random_ball)(rng, rng.randint(1, 5), rng.randint(1, 5))
    exact = numbers_in(rng, ball)
    computed = torch.tensor([rng.choice([float(v), float(v) * (1 + 1e-9), 0.0, 1.0]) for v in exact.flat]).double()
    computed = computed.reshape(ball.shape).nan_to_num()
    bound = bound_gradient("g", computed, ball)
    errors = np.abs(fractions_of_tensor(computed) - exact).ravel()
    if bound.largest < math.inf:
        assert max(errors) <= Fraction(bound.largest)
    squares = sum(exact.ravel() ** 2)
    if squares > 0 and bound.relative < math.inf:
        assert sum(errors**2) / squares <= Fraction(bound.relative) ** 2


def test_zero_against_zero_is_exactly_right() -> None:
    zero = torch.zeros(2, 3)
    assert bound_gradient("g", zero, Ball.exact(zero)) == ("g", 0, 0)
    assert bound_gradient("g", zero + 1e-30, Ball.exact(zero)).relative == math.inf
    assert bound_gradient("g", torch.zeros(0), Ball.exact(torch.zeros(0))).relative == 0


def test_an_empty_batch_has_an_unknown_loss_and_gradients_of_zero() -> None:
    model = MLP((4, 3, 2))
    enclosure = enclose_model_gradients(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert enclosure.loss.rad == math.inf
    assert all(ball.is_zero.all() for ball in enclosure.gradients.values())


def test_bad_arguments_are_named() -> None:
    model, x, labels = step((6, 5, 3), 7)
    enclosure = enclose_model_gradients(model, x, labels)
    gradients = gradients_of(model)
    with pytest.raises(ArgumentError, match=r"layers\.0\.bias"):
        enclosure.bounds({name: g for name, g in gradients.items() if name != "layers.0.bias"})
    with pytest.raises(ArgumentError, match=r"layers\.0\.weight: expected shape \(5, 6\)"):
        enclosure.bounds({**gradients, "layers.0.weight": x})
    with pytest.raises(ArgumentError, match="floating"):
        bound_gradient("g", labels, Ball.exact(torch.zeros(7)))
    with pytest.raises(ArgumentError, match="features"):
        enclose_model_gradients(model, x[:, 1:], labels)


def test_flushed_subnormals_are_refused() -> None:
    model, x, labels = step((6, 5, 3), 7)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormal numbers")
    try:
        with pytest.raises(ArgumentError, match="gradual underflow"):
            enclose_model_gradients(model, x, labels)
    finally:
        torch.set_flush_denormal(False)
