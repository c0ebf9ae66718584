"""The machinery of the proofs: it takes only equal steps, proves what is so, and does not prove what is not."""

import random

import pytest
import sympy
from sympy import KroneckerDelta

from lean_mnist.chainrule import dense
from lean_mnist.errors import ArgumentError
from lean_mnist.verification.methods.indexed import (
    ANY_ACTIVATION,
    AnyFunction,
    IndexedArray,
    any_labels,
    gradient,
    identity,
    inner,
    variable,
)
from lean_mnist.verification.methods.networks import RationalNetwork, derivatives_by_differences
from lean_mnist.verification.methods.proofs import Instance, prove_equal, prove_nonnegative, prove_zero
from lean_mnist.verification.methods.sums import Index, normal, simplifies_to_zero, size_symbol, total
from lean_mnist.verification.model import NotEstablished, Refuted

B, D, H = (size_symbol(name) for name in "BDH")


def _random_expression(rng: random.Random, free: list[Index], depth: int) -> sympy.Expr:
    """Sums, products, functions and deltas of indexed variables, over indices of the sizes B, D and H."""
    if depth == 0:
        chosen = rng.choices(free, k=2)
        names = {B: "b", D: "d", H: "h"}
        base = sympy.IndexedBase("".join(names[i.size] for i in chosen), real=True)
        same = [i for i in free if i.size == chosen[0].size]
        return rng.choice([base[tuple(chosen)], KroneckerDelta(chosen[0], rng.choice(same)), sympy.Integer(2)])
    kind = rng.randrange(5)
    if kind <= 1:
        index = Index("k", rng.choice([B, D, H]))
        return total(_random_expression(rng, [*free, index], depth - 1), index)
    one, other = (_random_expression(rng, free, depth - 1) for _ in range(2))
    if kind == 2:
        return one * other
    return one + other if kind == 3 else rng.choice([one**2, sympy.exp(-(one**2)), AnyFunction(one)]) * other


@pytest.mark.parametrize("seed", range(40))
def test_the_normal_form_is_equal_to_what_it_came_from(seed: int) -> None:
    rng = random.Random(seed)
    free = [Index("p", B), Index("q", D), Index("r", H), Index("t", B)]
    expression = _random_expression(rng, free, 5)
    instance = Instance(random.Random(seed + 1000))
    before, after = instance.value(expression), instance.value(normal(expression))
    assert abs(before - after) <= 1e-20 * (1 + abs(before)), f"{expression} to {normal(expression)}"


@pytest.mark.parametrize("seed", range(40))
def test_the_normal_form_is_a_normal_form(seed: int) -> None:
    """Normalised again it stays as it is, and an expression minus itself, its sums renamed, is 0."""
    free = [Index("p", B), Index("q", D), Index("r", H), Index("t", B)]
    once, again = (normal(_random_expression(random.Random(seed), free, 3)) for _ in range(2))
    assert once == again
    assert normal(once) == once


a, v, w = variable("a", B, D), variable("v", D), variable("w", B)
TRUE = {
    "the order of summation": lambda i, k: (total(total(a.at(i, k), k), i), total(total(a.at(i, k), i), k)),
    "a product of sums": lambda i, k: (
        total(total(w.at(i) * v.at(k), k), i),
        total(w.at(i), i) * total(v.at(k), k),
    ),
    "a delta": lambda i, k: (total(KroneckerDelta(k, Index("p", D)), k), sympy.Integer(1)),
    "a sum of ones": lambda i, k: (total(sympy.Integer(1), k), D),
    "a delta under a function": lambda i, k: (
        total(total(KroneckerDelta(i, j := Index("j", B)) * AnyFunction(total(a.at(i, k), k)), j), i),
        total(AnyFunction(total(a.at(i, k), k)), i),
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_what_is_so_is_proved(name: str) -> None:
    one, other = TRUE[name](Index("i", B), Index("k", D))
    prove_zero(name, one, other)


p, q = Index("p", D), Index("q", B)
FALSE = {
    "a delta of another range": lambda i, k: (total(KroneckerDelta(k, Index("p", B)) * v.at(k), k), v.at(p)),
    "a square of a sum": lambda i, k: (total(v.at(k), k) ** 2, total(v.at(k) ** 2, k)),
    "an exponential of a sum": lambda i, k: (sympy.exp(total(v.at(k), k)), total(sympy.exp(v.at(k)), k)),
    "a forgotten factor": lambda i, k: (total(sympy.Integer(1), k), B),
    "another place": lambda i, k: (v.at(p), v.at(Index("p", D))),
    "a transposed place": lambda i, k: (total(a.at(i, p), i), total(a.at(q, k), k)),
    "almost": lambda i, k: (total(v.at(k), k) * sympy.Rational(1000001, 1000000), total(v.at(k), k)),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_is_not_so_is_not_proved(name: str) -> None:
    one, other = FALSE[name](Index("i", B), Index("k", D))
    assert not simplifies_to_zero(normal(one - other))
    with pytest.raises((Refuted, NotEstablished)):
        prove_zero(name, one, other)


def test_a_delta_of_another_range_is_left_alone() -> None:
    """Σ_(k < D) δ_kp v_k is v_p only where p < D, which an index below B need not be."""
    k = Index("k", D)
    expression = total(KroneckerDelta(k, Index("p", B)) * v.at(k), k)
    assert normal(expression).has(KroneckerDelta)


def test_a_refutation_names_sizes_place_and_numbers() -> None:
    x, weight = variable("x", B, D), variable("W", H, D)
    z, _ = dense.dense_forward(x, weight)
    with pytest.raises(Refuted, match=r"z is not what it should be: \S+ instead of \S+ with .*B = \d.* at .*p0 = \d"):
        prove_equal("z", z, z * 2)
    with pytest.raises(Refuted, match="wrong shape"):
        prove_equal("z", z, x)


def test_what_neither_simplifies_nor_differs_is_not_called_proved() -> None:
    x = sympy.Symbol("x", real=True)
    tiny = sympy.Rational(1, 10**60)  # far below what numbers are compared to
    with pytest.raises(NotEstablished, match="no counterexample was found"):
        prove_zero("x", x, x + tiny)


POSITIVE = [
    total(sympy.exp(v.at(Index("k", D))), Index("k", D)),
    (1 - KroneckerDelta(p, Index("o", D))) * v.at(p) ** 2,
    sympy.exp(v.at(p)) / total(sympy.exp(v.at(k := Index("k", D))), k),
]
NOT_POSITIVE = [
    v.at(p), -(v.at(p) ** 2), 1 - sympy.exp(v.at(p)), v.at(p) ** 3, total(v.at(k), k), KroneckerDelta(p, p) - 2,
    sympy.exp(v.at(p)) - sympy.exp(v.at(k)), 2 - v.at(p) ** 2,
]  # fmt: skip


@pytest.mark.parametrize("expression", POSITIVE, ids=str)
def test_sums_of_what_cannot_be_negative(expression: sympy.Expr) -> None:
    prove_nonnegative("it", expression)


@pytest.mark.parametrize("expression", NOT_POSITIVE, ids=str)
def test_what_may_be_negative_is_not_called_nonnegative(expression: sympy.Expr) -> None:
    with pytest.raises(NotEstablished):
        prove_nonnegative("it", expression)


def test_indexed_arrays_broadcast_as_arrays_do() -> None:
    column = IndexedArray((B, 1), lambda b, _: w.at(b))
    i, j = Index("i", B), Index("j", D)
    assert (a + v).at(i, j) == a.at(i, j) + v.at(j)
    assert (a * column).at(i, j) == a.at(i, j) * w.at(i)
    assert (1 - a / 2).at(i, j) == 1 - a.at(i, j) / 2
    assert (2 / a).at(i, j) == 2 / a.at(i, j)
    assert (-a.T).at(j, i) == -a.at(i, j)
    with pytest.raises(AssertionError):
        a + w
    with pytest.raises(AssertionError):
        a @ a
    with pytest.raises(TypeError):
        a + "text"


def test_indexed_arrays_are_refused_beside_another_kind() -> None:
    import numpy as np

    with pytest.raises(ArgumentError, match="expected the kind of array that x is"):
        dense.dense_forward(variable("x", B, D), np.empty((2, 2), dtype=object))


def test_the_unit_matrix_and_labels() -> None:
    i, j = Index("i", B), Index("j", B)
    assert identity(B).at(i, j) == KroneckerDelta(i, j)
    label = any_labels(B, D).at(i)
    k = Index("k", D)
    assert normal(total(KroneckerDelta(k, label) * v.at(k), k)) == v.at(label)


def test_any_activation_is_a_function_and_its_derivative() -> None:
    z, g = variable("z", D), variable("g", D)
    h, saved = ANY_ACTIVATION.forward(z)
    prove_equal("the VJP", ANY_ACTIVATION.backward(saved, g), gradient(inner(h, g), z))


def test_the_exact_differences_refuse_a_kink() -> None:
    network = RationalNetwork.random(1, (2, 3, 2), "relu", 1)
    network.layers[0][0][:] = 0 * network.layers[0][0]
    network.layers[0][1][:] = 0 * network.layers[0][1]
    with pytest.raises(NotEstablished, match="kink"):
        derivatives_by_differences(network, network.x)


def test_the_exact_differences_leave_the_network_as_it_was() -> None:
    network = RationalNetwork.random(1, (2, 3, 2), "relu", 2)
    before = network.x.tolist()
    derivatives_by_differences(network, network.x)
    assert network.x.tolist() == before
