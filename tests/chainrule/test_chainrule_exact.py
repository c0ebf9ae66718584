"""The chain rule on fractions: its gradients equal, with ``==``, exact ones found without any chain rule.

The oracle evaluates the network with nested lists and central differences. A network of ReLU, leaky ReLU or identity
units is affine in any *one* of its parameters and inputs as long as no unit crosses its kink, so its squared error is a
parabola in that number, and the central difference of a parabola is its derivative, for any step. The oracle halves the
step until the signs of all pre-activations agree at both ends (each is affine in between, so they agree throughout).
"""

import copy
import random
from fractions import Fraction
from itertools import pairwise
from numbers import Rational
from typing import Any

import numpy as np
import pytest

from lean_mnist.chainrule import losses
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation, identity_backward, relu_forward
from lean_mnist.chainrule.dense import dense_backward, dense_forward
from lean_mnist.chainrule.mlp import mlp_forward, mlp_loss_backward, mlp_loss_forward
from lean_mnist.errors import ArgumentError
from tests.support.chainrule_arrays import fractions_of, random_fractions, random_layers
from tests.support.planting import Plant

SCALARS: dict[str, Any] = {
    "relu": lambda z: z if z > 0 else Fraction(0),
    "leaky-relu": lambda z: z if z > 0 else z / 100,
    "identity": lambda z: z,
}


def plain_loss(x: Any, labels: Any, layers: Any, name: str, weights: Any) -> Any:
    """Σ_B weight_B · ½‖s − onehot(y)‖², and the signs of all pre-activations below the logits."""
    total, signs = Fraction(0), []
    for row, label, weight in zip(x, labels, weights, strict=True):
        h = list(row)
        for index, (matrix, bias) in enumerate(layers):
            z = [sum(a * b for a, b in zip(line, h, strict=True)) for line in matrix]
            if bias is not None:
                z = [a + b for a, b in zip(z, bias, strict=True)]
            if index < len(layers) - 1:
                signs += [(a > 0) - (a < 0) for a in z]
                h = [SCALARS[name](a) for a in z]
        total += weight * sum((s - (c == label)) ** 2 for c, s in enumerate(z)) / 2
    return total, signs


def exact_derivative(x: Any, labels: Any, layers: Any, name: str, weights: Any, container: Any, index: Any) -> Any:
    """d loss / d container[index]; ``container`` is ``x``, a weight or a bias, and is left as it was."""
    value, step = container[index], Fraction(1, 8)
    _, here = plain_loss(x, labels, layers, name, weights)
    assert 0 not in here, "the example sits on a kink: choose another seed"
    try:
        for _ in range(60):
            container[index] = value + step
            above, signs_above = plain_loss(x, labels, layers, name, weights)
            container[index] = value - step
            below, signs_below = plain_loss(x, labels, layers, name, weights)
            if signs_above == signs_below == here:
                return (above - below) / (2 * step)
            step /= 2
    finally:
        container[index] = value
    raise AssertionError("no step avoids the kinks")


def disagreements(x: Any, labels: Any, layers: Any, activation: Activation, weights: Any) -> Any:
    """Names of all entries at which ``mlp_loss_backward`` differs from the oracle, and the number compared."""
    loss = losses.squared_error()
    _, tape = mlp_loss_forward(x, labels, layers, activation, loss)
    gradients: Any = mlp_loss_backward(tape, layers, activation, loss, weights)
    pairs = [("x", x, gradients.x_BD)]
    for number, ((weight, bias), (d_weight, d_bias)) in enumerate(zip(layers, gradients.layers, strict=True)):
        pairs.append((f"W{number}", weight, d_weight))
        if bias is None:
            assert d_bias is None
        else:
            pairs.append((f"b{number}", bias, d_bias))
    different, compared = [], 0
    for name, container, gradient in pairs:
        assert gradient.shape == container.shape, name
        for index in np.ndindex(container.shape):
            assert isinstance(gradient[index], Rational), f"{name}{index} is a {type(gradient[index]).__name__}"
            expected = exact_derivative(x, labels, layers, activation.name, weights, container, index)
            compared += 1
            if gradient[index] != expected:
                different.append(f"{name}{index}: {gradient[index]} instead of {expected}")
    return different, compared


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize(
    ("sizes", "bias", "batch", "seed"),
    [((3, 4, 2), True, 3, 1), ((3, 4, 3, 2), True, 2, 5), ((3, 4, 2), False, 1, 4), ((3, 2), True, 2, 2)],
    ids=["3-4-2", "3-4-3-2", "3-4-2 without biases, one example", "3-2"],
)
def test_every_gradient_of_a_network_is_exact(
    name: str, sizes: tuple[int, ...], bias: bool, batch: int, seed: int
) -> None:
    rng = random.Random(seed)
    x, layers = random_fractions(rng, batch, sizes[0]), random_layers(rng, sizes, bias)
    labels = np.array([rng.randrange(sizes[-1]) for _ in range(batch)])
    upstream = random_fractions(rng, batch)
    different, compared = disagreements(x, labels, layers, ACTIVATIONS[name], upstream)
    assert different == []
    parameters = sum((before + bias) * after for before, after in pairwise(sizes))
    assert compared == batch * sizes[0] + parameters


def test_the_examples_switch_units_off() -> None:
    """Without a negative pre-activation, the exact test could not tell ReLU from the identity."""
    for seed, sizes, batch in ((1, (3, 4, 2), 3), (5, (3, 4, 3, 2), 2)):
        rng = random.Random(seed)
        x, layers = random_fractions(rng, batch, sizes[0]), random_layers(rng, sizes)
        _, tape = mlp_forward(x, layers, ACTIVATIONS["relu"])
        for h in tape.saved:
            assert 0 < sum(value == 0 for value in h.flat) < h.size


@pytest.mark.parametrize("mistake", ["mask dropped", "scaled by 1.001", "bias gradient of one example"])
def test_the_exact_check_finds_a_wrong_backward(mistake: Any, plant: Plant) -> None:
    rng = random.Random(5)
    sizes, activation = (3, 4, 3, 2), ACTIVATIONS["relu"]
    x, layers, labels = random_fractions(rng, 2, 3), random_layers(rng, sizes), np.array([0, 1])
    if mistake == "mask dropped":
        activation = Activation("relu", relu_forward, identity_backward)
    else:

        def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> Any:
            right: Any = dense_backward(tape, d_z, needs)
            if mistake == "scaled by 1.001":
                return right._replace(weight_HD=right.weight_HD * Fraction(1001, 1000))
            return right._replace(bias_H=d_z[0] * 1)

        plant("chainrule.dense.dense_backward", wrong)
    different, _ = disagreements(x, labels, layers, activation, random_fractions(rng, 2))
    assert different != []


def test_the_kink_conventions_hold_in_exact_arithmetic() -> None:
    z, d_h = fractions_of([[-1, 0, 1]]), fractions_of([["5/7", "5/7", "5/7"]])
    h, saved = ACTIVATIONS["relu"].forward(z)
    assert h.tolist() == [[0, 0, 1]]
    assert ACTIVATIONS["relu"].backward(saved, d_h).tolist() == [[0, 0, Fraction(5, 7)]]
    h, saved = ACTIVATIONS["leaky-relu"].forward(z)
    assert h.tolist() == [[Fraction(-1, 100), 0, 1]], "0.01 means 1/100, not the binary number nearest to it"
    assert ACTIVATIONS["leaky-relu"].backward(saved, d_h).tolist() == [[Fraction(1, 140)] * 2 + [Fraction(5, 7)]]


def test_neither_inputs_nor_upstream_gradients_change() -> None:
    rng = random.Random(5)
    x, layers, upstream = random_fractions(rng, 2, 3), random_layers(rng, (3, 4, 2)), random_fractions(rng, 2)
    before = copy.deepcopy((x.tolist(), [(w.tolist(), b.tolist()) for w, b in layers], upstream.tolist()))
    loss, activation = losses.squared_error(), ACTIVATIONS["relu"]
    _, tape = mlp_loss_forward(x, np.array([1, 0]), layers, activation, loss)
    mlp_loss_backward(tape, layers, activation, loss, upstream)
    assert (x.tolist(), [(w.tolist(), b.tolist()) for w, b in layers], upstream.tolist()) == before


def test_mean_of_a_batch_and_its_gradient() -> None:
    loss_B = fractions_of(["1/2", "1/3", "1/7"])
    assert losses.mean_forward(loss_B) == Fraction(41, 126)
    assert losses.mean_backward(loss_B, Fraction(2)).tolist() == [Fraction(2, 3)] * 3


def test_mean_backward_stays_exact_for_an_integer_upstream_gradient() -> None:
    gradient = losses.mean_backward(fractions_of(["1/2", "1/3", "1/7"]), 1)
    assert [type(value) for value in gradient] == [Fraction] * 3
    assert gradient.tolist() == [Fraction(1, 3)] * 3


def test_integers_count_as_fractions() -> None:
    x, weight = np.array([[1, -2], [3, 4]], dtype=object), np.array([[2, 1], [-1, 1]], dtype=object)
    loss, activation, labels = losses.squared_error(), ACTIVATIONS["leaky-relu"], np.array([0, 1])
    loss_B, tape = mlp_loss_forward(x, labels, [(weight, None), (weight, None)], activation, loss)
    gradients: Any = mlp_loss_backward(
        tape, [(weight, None), (weight, None)], activation, loss, np.array([1, 1], object)
    )
    # By hand for the first example: z = (0, -3), h = (0, -3/100), s = (-3/100, -3/100), residual (-103/100, -3/100).
    assert loss_B[0] == (Fraction(103, 100) ** 2 + Fraction(3, 100) ** 2) / 2
    assert all(isinstance(value, Rational) for value in (*gradients.x_BD.flat, *gradients.layers[0][0].flat))


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_preserves_affine_combinations(seed: int) -> None:
    """With α + β = 1, layer(αx + βy) = α layer(x) + β layer(y), for one layer and a stack of them, exactly."""
    rng = random.Random(seed)
    x, y, alpha = random_fractions(rng, 2, 3), random_fractions(rng, 2, 3), Fraction(rng.randint(-9, 9), 7)
    for sizes in ((3, 4), (3, 4, 2)):
        layers = random_layers(rng, sizes)

        def network(batch: int, layers: Any = layers) -> Any:
            return mlp_forward(batch, layers, ACTIVATIONS["identity"])[0]

        mixed = network(alpha * x + (1 - alpha) * y)
        assert (mixed == alpha * network(x) + (1 - alpha) * network(y)).all()


def test_dense_is_linear_without_a_bias() -> None:
    rng = random.Random(7)
    x, y, weight = random_fractions(rng, 2, 3), random_fractions(rng, 2, 3), random_fractions(rng, 4, 3)
    a, b = Fraction(3, 5), Fraction(-7, 4)
    combined = dense_forward(a * x + b * y, weight)[0]
    assert (combined == a * dense_forward(x, weight)[0] + b * dense_forward(y, weight)[0]).all()


def test_dense_backward_is_the_adjoint_of_its_forward() -> None:
    """⟨g, D dense(dx, dW, db)⟩ = ⟨dx, dx'⟩ + ⟨dW, dW'⟩ + ⟨db, db'⟩ for any direction: the VJP, exactly."""
    rng = random.Random(8)
    x, weight, bias = random_fractions(rng, 2, 3), random_fractions(rng, 4, 3), random_fractions(rng, 4)
    dx, dw, db, g = (random_fractions(rng, *shape) for shape in ((2, 3), (4, 3), (4,), (2, 4)))
    _, tape = dense_forward(x, weight, bias)
    gradients = dense_backward(tape, g)
    forward_mode = dx @ weight.T + x @ dw.T + db
    adjoint = (gradients.x_BD * dx).sum() + (gradients.weight_HD * dw).sum() + (gradients.bias_H * db).sum()
    assert (g * forward_mode).sum() == adjoint


TRANSCENDENTAL: dict[str, Any] = {
    "sigmoid": lambda x: ACTIVATIONS["sigmoid"].forward(x),
    "tanh": lambda x: ACTIVATIONS["tanh"].forward(x),
    "gelu": lambda x: ACTIVATIONS["gelu"].forward(x),
    "gelu backward": lambda x: ACTIVATIONS["gelu"].backward(x, x),
    "softmax": losses.softmax_forward,
    "cross-entropy": lambda x: losses.softmax_cross_entropy().forward(x, np.array([0, 1])),
}


@pytest.mark.parametrize("operation", TRANSCENDENTAL)
def test_what_is_not_rational_refuses_fractions_in_one_line(operation: Any) -> None:
    x = random_fractions(random.Random(9), 2, 3)
    with pytest.raises(ArgumentError, match="is not rational, so fractions cannot hold it: use ReLU") as caught:
        TRANSCENDENTAL[operation](x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label: Any) -> None:
    """NumPy's −1 is the last element: a silent wrong value unless it is refused."""
    with pytest.raises((ArgumentError, IndexError)):
        losses.squared_error().forward(random_fractions(random.Random(10), 2, 3), np.array([0, label]))
