"""The chain rule on SymPy expressions: each backward is the derivative that SymPy finds of the forward."""

from typing import Any

import numpy as np
import pytest
import sympy

from lean_mnist.chainrule import losses
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.chainrule.dense import dense_backward, dense_forward
from lean_mnist.chainrule.mlp import mlp_loss_backward, mlp_loss_forward
from lean_mnist.errors import ArgumentError
from tests.support.activations import SYMPY_ACTIVATIONS


def symbols_of(name: str, *shape: int, **assumptions: Any) -> Any:
    """An object array of fresh symbols ``name_0_0``, … of the given shape."""
    result = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        result[index] = sympy.Symbol("_".join((name, *map(str, index))), real=True, **assumptions)
    return result


def derivatives(expression: Any, symbols: Any) -> Any:
    """SymPy's derivative of one expression by each symbol of an array."""
    result = np.empty(symbols.shape, dtype=object)
    for index in np.ndindex(symbols.shape):
        result[index] = sympy.diff(expression, symbols[index])
    return result


def assert_identical(found: Any, expected: Any, name: str = "") -> None:
    """Every difference simplifies to 0."""
    assert found.shape == expected.shape, name
    for index in np.ndindex(found.shape):
        assert sympy.simplify(found[index] - expected[index]) == 0, f"{name}{index}: {found[index]}, {expected[index]}"


def assert_equal_at(point: Any, found: Any, expected: Any, name: str = "") -> None:
    """Equal to 40 digits at a rational point, evaluated with 60: for expressions too large to simplify."""
    for index in np.ndindex(found.shape):
        one, other = (sympy.sympify(array[index]).evalf(60, subs=point) for array in (found, expected))
        assert abs(one - other) < sympy.Float(10) ** -40, f"{name}{index}: {one}, {other}"


@pytest.mark.parametrize("name", SYMPY_ACTIVATIONS)
def test_smooth_activation(name: str) -> None:
    z, d_h = symbols_of("z", 1, 2), symbols_of("g", 1, 2)
    h, saved = ACTIVATIONS[name].forward(z)
    assert_identical(h, np.vectorize(SYMPY_ACTIVATIONS[name], otypes=[object])(z), "forward")
    expected = np.array([[sympy.diff(h[0, i], z[0, i]) * d_h[0, i] for i in range(2)]], dtype=object)
    assert_identical(ACTIVATIONS[name].backward(saved, d_h), expected, name)


@pytest.mark.parametrize(("name", "slope"), [("relu", sympy.Integer(0)), ("leaky-relu", sympy.Rational(1, 100))])
def test_activation_with_a_kink(name: str, slope: float) -> None:
    """On either side SymPy's derivative; at 0 the convention: the slope from the left."""
    positive, negative = sympy.Symbol("p", positive=True), sympy.Symbol("n", negative=True)
    g = symbols_of("g", 3)
    z = np.array([positive, negative, sympy.Integer(0)], dtype=object)
    h, saved = ACTIVATIONS[name].forward(z)
    assert list(h) == [positive, slope * negative, 0]
    assert_identical(
        ACTIVATIONS[name].backward(saved, g),
        np.array([g[0] * sympy.diff(h[0], positive), g[1] * sympy.diff(h[1], negative), g[2] * slope], dtype=object),
    )


@pytest.mark.parametrize("name", ["relu", "leaky-relu"])
def test_activation_with_a_kink_of_a_symbol_of_unknown_sign(name: str) -> None:
    """The result is piecewise, and its pieces are SymPy's derivative away from 0."""
    z, g = symbols_of("z", 1), symbols_of("g", 1)
    h, saved = ACTIVATIONS[name].forward(z)
    found, expected = ACTIVATIONS[name].backward(saved, g)[0], g[0] * sympy.diff(h[0], z[0])
    for value in (-3, sympy.Rational(-1, 7), sympy.Rational(1, 7), 3):
        assert sympy.simplify((found - expected).subs(z[0], value)) == 0


def test_dense() -> None:
    x, weight, bias, d_z = symbols_of("x", 2, 3), symbols_of("w", 2, 3), symbols_of("b", 2), symbols_of("g", 2, 2)
    z, tape = dense_forward(x, weight, bias)
    gradients, objective = dense_backward(tape, d_z), (z * d_z).sum()
    assert_identical(gradients.x_BD, derivatives(objective, x), "x")
    assert_identical(gradients.weight_HD, derivatives(objective, weight), "weight")
    assert_identical(gradients.bias_H, derivatives(objective, bias), "bias")


def test_softmax() -> None:
    s, d_p = symbols_of("s", 1, 3), symbols_of("g", 1, 3)
    p, saved = losses.softmax_forward(s)
    assert sympy.simplify(p.sum()) == 1
    assert_identical(losses.softmax_backward(saved, d_p), derivatives((p * d_p).sum(), s))


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize(("smoothing", "penalty"), [(0, 0), (0.1, 0), (0, 0.25), (0.1, 0.25), (1, 0)])
def test_softmax_cross_entropy(label: Any, smoothing: float, penalty: float) -> None:
    s, d_loss = symbols_of("s", 1, 3), symbols_of("g", 1)
    loss = losses.softmax_cross_entropy(smoothing, penalty)
    loss_B, tape = loss.forward(s, np.array([label]))
    exact_smoothing, exact_penalty = sympy.Rational(str(smoothing)), sympy.Rational(str(penalty))
    q = [exact_smoothing / 3 + (1 - exact_smoothing) * int(c == label) for c in range(3)]
    log_total = sympy.log(sum(sympy.exp(value) for value in s[0]))
    definition = sum(q[c] * (log_total - s[0, c]) + exact_penalty / 2 * s[0, c] ** 2 for c in range(3))
    assert sympy.simplify(loss_B[0] - definition) == 0, "the forward is not the definition"
    assert_identical(loss.backward(tape, d_loss), derivatives(definition * d_loss[0], s))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label: Any) -> None:
    with pytest.raises((ArgumentError, IndexError)):
        losses.softmax_cross_entropy().forward(symbols_of("s", 1, 3), np.array([label]))


def test_squared_error() -> None:
    s, d_loss = symbols_of("s", 2, 3), symbols_of("g", 2)
    loss = losses.squared_error()
    loss_B, tape = loss.forward(s, np.array([2, 0]))
    assert sympy.expand(loss_B[0] - (s[0, 0] ** 2 + s[0, 1] ** 2 + (s[0, 2] - 1) ** 2) / 2) == 0
    assert_identical(loss.backward(tape, d_loss), derivatives((loss_B * d_loss).sum(), s))


@pytest.mark.parametrize("make_loss", [losses.squared_error, losses.softmax_cross_entropy])
def test_tiny_tanh_network(make_loss: Any) -> None:
    """2-2-2, every weight, bias and input a symbol; compared to 40 digits at a rational point."""
    x, labels, d_loss = symbols_of("x", 1, 2), np.array([1]), symbols_of("g", 1)
    layers = [(symbols_of(f"w{n}", 2, 2), symbols_of(f"b{n}", 2)) for n in range(2)]
    activation, loss = ACTIVATIONS["tanh"], make_loss()
    loss_B, tape = mlp_loss_forward(x, labels, layers, activation, loss)
    gradients = mlp_loss_backward(tape, layers, activation, loss, d_loss)
    variables = [("x", x, gradients.x_BD)]
    for number, (layer, d_layer) in enumerate(zip(layers, gradients.layers, strict=True)):
        variables += [(f"W{number}", layer[0], d_layer[0]), (f"b{number}", layer[1], d_layer[1])]
    symbols = [symbol for _, array, _ in variables for symbol in array.flat] + list(d_loss)
    point = {symbol: sympy.Rational(7 * (-1) ** n * (n + 1), 5 * n + 31) for n, symbol in enumerate(symbols)}
    for name, array, gradient in variables:
        expected = derivatives(loss_B[0] * d_loss[0], array)
        assert_equal_at(point, gradient, expected, name)
        if make_loss is losses.squared_error:
            assert all(sympy.expand(difference) == 0 for difference in (gradient - expected).flat), name


def test_the_symbolic_check_finds_a_wrong_backward() -> None:
    z, g = symbols_of("z", 1), symbols_of("g", 1)
    h, saved = ACTIVATIONS["tanh"].forward(z)
    wrong = ACTIVATIONS["sigmoid"].backward(saved, g)
    with pytest.raises(AssertionError):
        assert_identical(wrong, derivatives(h[0] * g[0], z))
    with pytest.raises(AssertionError):
        assert_equal_at({z[0]: sympy.Rational(1, 3), g[0]: 1}, wrong, derivatives(h[0] * g[0], z))
