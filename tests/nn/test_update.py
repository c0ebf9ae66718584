"""One update: sees what is not finite, clips, sets the rate and moves; one vector or many tensors alike."""

import math
import re

import pytest
import torch

from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.update import SGD, Update, not_finite

FLAT = pytest.mark.parametrize("flat", [True, False])


def made(flat: bool, clip_norm: float | None = None) -> tuple[MLP, Update]:
    """A network with gradients, and what updates it by plain SGD."""
    model = MLP((3, 4, 2), seed=1)
    parameters = FlatParameters(model) if flat else None
    moved = list(model.parameters()) if parameters is None else [parameters.vector]
    update = Update(model, SGD(moved, 9.0, 0.0, False, 0.0), clip_norm, parameters)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)
    return model, update


def vectors(model: MLP) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and gradients, each as a new vector."""
    return (
        torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]),
        torch.cat([p.grad.reshape(-1).clone() for p in model.parameters() if p.grad is not None]),
    )


@FLAT
def test_it_moves_against_the_gradient_by_the_rate(flat: bool) -> None:
    model, update = made(flat)
    before, gradient = vectors(model)
    update.apply(0.5)
    torch.testing.assert_close(vectors(model)[0], before - 0.5 * gradient)


@FLAT
def test_a_long_gradient_is_scaled_down_and_a_short_one_left(flat: bool) -> None:
    for clip_norm, length in ((0.25, 0.25), (1e6, None)):
        model, update = made(flat, clip_norm)
        before, gradient = vectors(model)
        update.apply(1.0)
        moved = float((vectors(model)[0] - before).norm())
        assert moved == pytest.approx(float(gradient.norm()) if length is None else length, rel=1e-5)


@FLAT
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_found_and_named(flat: bool, value: float) -> None:
    for loss, spoilt, message in (
        (value, None, f"step 7: the loss is {value}; the weights are as they were before this step"),
        (1.0, 2, r"step 7: the gradient of layers\.1\.weight is not finite; the weights are as they were"),
    ):
        model, update = made(flat)
        assert update.is_finite(1.0)
        assert not not_finite(model, 1.0, 7)
        if spoilt is not None:
            gradient = list(model.parameters())[spoilt].grad
            assert gradient is not None
            gradient[0, 1] = value
        assert not update.is_finite(loss)
        assert re.match(message, not_finite(model, loss, 7))


@FLAT
def test_finite_gradients_whose_sum_overflows_are_no_fault(flat: bool) -> None:
    model, update = made(flat)
    before, _ = vectors(model)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(3e38)
    assert not update.is_finite(1.0)  # only a first look
    assert not not_finite(model, 1.0, 1)
    update.apply(1e-38)
    torch.testing.assert_close(vectors(model)[0], before - 3.0)
