"""Whole networks: the chain rule on balls contains the chain rule on fractions, and on Arb's numbers at 300 bits."""

import itertools
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lean_mnist.chainrule import losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.chainrule.losses import softmax_cross_entropy, squared_error
from lean_mnist.enclosure.enclose import Enclosure, enclose_gradients
from tests.support.enclosure_rational import Tally, fractions_of_tensor, magnitude

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def network(rng: random.Random, dtype: torch.dtype, *, scale: float = 1.0, bias: bool = True) -> Any:
    """Layers, inputs and labels, drawn with many exact zeros and small integers, so that units do stand at the kink."""

    def draw(*shape: int) -> torch.Tensor:
        def one() -> float:
            kind = rng.random()
            return 0.0 if kind < 0.15 else float(rng.randint(-2, 2)) if kind < 0.45 else magnitude(rng, 2) * scale

        return torch.tensor([one() for _ in range(int(np.prod(shape)))], dtype=dtype).reshape(shape)

    sizes = [rng.randint(1, 4) for _ in range(rng.randint(2, 4))]
    layers = [(draw(h, d), draw(h) if bias else None) for d, h in itertools.pairwise(sizes)]
    batch = rng.randint(1, 4)
    labels = torch.tensor([rng.randrange(sizes[-1]) for _ in range(batch)])
    return layers, draw(batch, sizes[0]), labels


def ask_network(
    tally: Tally, name: str, convert: Any, layers: Any, x: Tensor, labels: Tensor, activation: str, loss: Any
) -> Enclosure:
    """Ask containment of loss and gradients; ``convert`` makes the exact kind of array."""
    enclosure = enclose_gradients(layers, x, labels, activation=activation, loss=loss)
    exact_labels = labels.numpy() if convert is fractions_of_tensor else labels
    exact_layers = [(convert(w), None if b is None else convert(b)) for w, b in layers]
    rule = ACTIVATIONS[activation]
    loss_B, tape = mlp.mlp_loss_forward(convert(x), exact_labels, exact_layers, rule, loss)
    d_loss_B = losses.mean_backward(loss_B, Fraction(1) if convert is fractions_of_tensor else convert(torch.ones(())))
    gradients = mlp.mlp_loss_backward(tape, exact_layers, rule, loss, d_loss_B)
    values: Any = getattr(loss_B, "values", loss_B)
    mean = values.sum() / len(x)
    tally.ask(f"{name}: loss", enclosure.loss[None], np.array([mean], dtype=object))
    for (parameter, ball), exact in zip(
        enclosure.gradients.items(), (g for layer in gradients.layers for g in layer if g is not None), strict=True
    ):
        tally.ask(f"{name}: {parameter}", ball, exact)
    return enclosure


@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "identity"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rational_networks(activation: str, dtype: torch.dtype) -> None:
    rng, tally = random.Random(f"{activation} {dtype}"), Tally()
    for _ in range(60):
        layers, x, labels = network(rng, dtype, bias=rng.random() < 0.7)
        ask_network(tally, activation, fractions_of_tensor, layers, x, labels, activation, squared_error())
    assert not tally.escaped, tally.escaped[0]
    assert tally.finite == tally.asked > 700


LOSSES = {
    "cross-entropy": softmax_cross_entropy(),
    "smoothing": softmax_cross_entropy(0.1),
    "penalty": softmax_cross_entropy(0.3, 0.01),
    "squared error": squared_error(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_at_300_bits(activation: str, loss: Any) -> None:
    pytest.importorskip("flint")
    from tests.support.enclosure_arb import ArbArray, ArbTally

    rng, tally = random.Random(f"{activation} {loss}"), ArbTally()
    for round_ in range(15):
        layers, x, labels = network(rng, DTYPES[round_ % 3], bias=rng.random() < 0.7)
        ask_network(tally, activation, ArbArray.of_tensor, layers, x, labels, activation, LOSSES[loss])
    assert not tally.escaped, tally.escaped[0]
    assert tally.finite == tally.asked > 150


# Scale of the logits: late in training (p within 1e-12 of one-hot), and saturated both ways.
EXTREMES = {"late": 28.0, "later": 300.0, "saturated": 1e4, "huge weights": 1e12, "vanishing weights": 1e-38}


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits_at_300_bits(activation: str, extreme: str) -> None:
    pytest.importorskip("flint")
    from tests.support.enclosure_arb import ArbArray, ArbTally

    # Hidden unit c says "class c", and is on or off; the scale says how sure the network is.
    generator, scale, tally = torch.Generator().manual_seed(4), EXTREMES[extreme], ArbTally()
    labels = torch.tensor([0, 1, 2, 3, 0])
    x = torch.eye(4)[labels] + 0.01 * torch.randn(5, 4, generator=generator)
    first = (3 * torch.eye(4) + 0.01 * torch.randn(4, 4, generator=generator), torch.zeros(4))
    second = (scale / 3 * (torch.eye(4) - 0.01 * torch.randn(4, 4, generator=generator)), torch.zeros(4))
    for wrong in (labels, labels.flip(0)):
        ask_network(tally, extreme, ArbArray.of_tensor, [first, second], x, wrong, activation, LOSSES["cross-entropy"])
    assert not tally.escaped, tally.escaped[0]
    assert tally.finite == tally.asked


def test_late_in_training_the_cancelled_gradient_still_has_digits() -> None:
    x, labels = torch.eye(3), torch.arange(3)
    gradient = enclose_gradients([(28 * torch.eye(3), None)], x, labels).gradients["layers.0.weight"]
    assert 1e-13 < float(gradient.mid.abs().max()) < 1e-12
    assert float(gradient.rad.norm() / gradient.mid.norm()) < 0.01


def test_logits_too_large_to_be_told_apart_have_an_infinite_radius_or_contain() -> None:
    pytest.importorskip("flint")
    from tests.support.enclosure_arb import ArbArray, ArbTally

    tally, x = ArbTally(), torch.eye(4) + 0.1
    for scale in (1e20, 1e30, 3e38):
        layers = [(torch.eye(4) * 3, None), (torch.eye(4) * scale, None)]
        ask_network(tally, "huge", ArbArray.of_tensor, layers, x, torch.arange(4), "relu", LOSSES["cross-entropy"])
    assert not tally.escaped, tally.escaped[0]


def test_zero_inputs_stand_exactly_at_the_kink_and_leave_nothing_open() -> None:
    rng = random.Random(0)
    layers, _, labels = network(rng, torch.float32, bias=False)
    zeros = torch.zeros(len(labels), layers[0][0].shape[1])
    for activation in ("relu", "leaky-relu"):
        enclosure = enclose_gradients(layers, zeros, labels, activation=activation)
        assert all(ball.is_zero.all() for ball in enclosure.gradients.values())


def test_a_kink_that_float64_cannot_decide_is_enclosed() -> None:
    # 1/3 − 1/3 in weights that no split makes short: the pre-activation is exactly 0, but only exact arithmetic knows.
    third = torch.tensor(1 / 3, dtype=torch.float64)
    layers = [(torch.stack([third, -third, third])[None] * torch.tensor([[1.0, 1.0, 1e-20]]), None),
              (torch.ones(2, 1, dtype=torch.float64), None)]  # fmt: skip
    x = torch.stack([third, third, third - third])[None]
    tally = Tally()
    found = ask_network(tally, "kink", fractions_of_tensor, layers, x, torch.tensor([0]), "relu", squared_error())
    assert not tally.escaped
    assert (found.gradients["layers.0.weight"].rad > 0.01).any()  # around both sides
