"""Gradient correctness, operation by operation, for every size: LEAN_mnist's ``Verification/GradientCorrectness``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import sympy

from lean_mnist.chainrule import activations, dense, losses, mlp
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.indexed import (
    ANY_ACTIVATION,
    IndexedArray,
    any_labels,
    gradient,
    identity,
    inner,
    row,
    variable,
)
from lean_mnist.verification.model import Obligation
from lean_mnist.verification.proofs import prove_equal, prove_zero
from lean_mnist.verification.sums import size_symbol

B, D, H, H2, C, M, N = (size_symbol(name) for name in ("B", "D", "H", "H2", "C", "m", "n"))
SYMBOLIC = (rests_on.SYMPY, rests_on.SUMS, rests_on.REALS)
LEAN = "LEAN_mnist"
OURS = "not in LEAN_mnist"


class Gradients(NamedTuple):
    """What ``dense_backward`` gives, all three parts of it."""

    x: IndexedArray
    weight: IndexedArray
    bias: IndexedArray


def backward(tape: dense.DenseTape, d_z: IndexedArray) -> Gradients:
    """``dense_backward`` asked for every gradient."""
    found = dense.dense_backward(tape, d_z)
    assert None not in (found.x_BD, found.weight_HD, found.bias_H)
    return Gradients(*found)  # type: ignore[arg-type]  # none of them is None


# The derivative each activation should have, by SymPy from its own forward; only its values are stated here.
VALUES = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + sympy.exp(-z)),
    "tanh": sympy.tanh,
    "gelu": lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
}


def _smooth(name: str) -> str:
    """The forward is the function of that name, and the backward its derivative times the upstream gradient."""
    z, g = variable("z", N), variable("g", N)
    activation = activations.activation_named(name)
    h, saved = activation.forward(z)
    prove_equal(f"{name}(z)", h, z.map(VALUES[name]))
    prove_equal(f"the VJP of {name}", activation.backward(saved, g), gradient(inner(h, g), z))
    return "forward is the definition; backward is SymPy's derivative of forward"


def _kinked(name: str, slope: sympy.Rational) -> str:
    positive, negative = sympy.Symbol("p", positive=True), sympy.Symbol("n", negative=True)
    g = np.array([sympy.Symbol(f"g{i}", real=True) for i in range(3)], dtype=object)
    z = np.array([positive, negative, sympy.Integer(0)], dtype=object)
    activation = activations.activation_named(name)
    h, saved = activation.forward(z)
    found = activation.backward(saved, g)
    for what, one, other in (
        (f"{name}(z) for z > 0", h[0], positive),
        (f"{name}(z) for z < 0", h[1], slope * negative),
        (f"{name}(0)", h[2], 0),
        (f"the VJP of {name} for z > 0", found[0], g[0] * sympy.diff(h[0], positive)),
        (f"the VJP of {name} for z < 0", found[1], g[1] * sympy.diff(h[1], negative)),
        (f"the VJP of {name} at 0, by convention", found[2], slope * g[2]),
    ):
        prove_zero(what, one, other)
    return f"z > 0, z < 0 and z = 0 are all the cases there are; at 0 the slope is taken as {slope}"


def matvec_by_vector() -> str:
    a, v, g = variable("A", M, N), variable("v", N), variable("g", M)
    z, tape = dense.dense_forward(row(v), a)
    found = backward(tape, row(g)).x
    prove_equal("the VJP in v", found, row(gradient(inner(z, row(g)), v)))
    prove_equal("Aᵀg", found, row(g) @ a)
    return "dense_forward and dense_backward with a batch of one and no bias"


def matvec_by_matrix() -> str:
    a, x, g = variable("A", M, N), variable("x", N), variable("g", M)
    z, tape = dense.dense_forward(row(x), a)
    found = backward(tape, row(g)).weight
    prove_equal("the VJP in A", found, gradient(inner(z, row(g)), a))
    prove_equal("g xᵀ", found, IndexedArray((M, N), lambda i, j: g.at(i) * x.at(j)))
    return "dense_forward and dense_backward with a batch of one and no bias"


def vadd() -> str:
    v, b, g = variable("v", N), variable("b", N), variable("g", N)
    z, tape = dense.dense_forward(row(v), identity(N), b)
    prove_equal("v + b", z, row(v + b))
    found = backward(tape, row(g))
    prove_equal("the VJP in v, which is g", found.x, row(g))
    prove_equal("the VJP in b, which is g", found.bias, g)
    prove_equal("SymPy's derivative in v", row(gradient(inner(z, row(g)), v)), row(g))
    return "the dense layer whose weight is the unit matrix and whose bias is b"


def smul() -> str:
    c, v, g = sympy.Symbol("c", real=True), variable("v", N), variable("g", N)
    z, tape = dense.dense_forward(row(v), identity(N) * c)
    prove_equal("c v", z, row(v * c))
    found = backward(tape, row(g)).x
    prove_equal("the VJP, which is c g", found, row(g * c))
    prove_equal("SymPy's derivative", row(gradient(inner(z, row(g)), v)), row(g * c))
    return "the dense layer whose weight is c I"


def _dense() -> str:
    x, weight, bias, g = variable("x", B, D), variable("W", H, D), variable("b", H), variable("g", B, H)
    z, tape = dense.dense_forward(x, weight, bias)
    found, objective = backward(tape, g), inner(z, g)
    for name, one, of in (("x", found.x, x), ("W", found.weight, weight), ("b", found.bias, bias)):
        prove_equal(f"the VJP in {name}", one, gradient(objective, of))
    return "the three gradients of dense_backward"


def _chain_rule() -> str:
    x, g = variable("x", B, D), variable("g", B, C)
    layers = symbolic_layers(D, H, H2, C)
    s, tape = mlp.mlp_forward(x, layers, ANY_ACTIVATION)
    whole = mlp.mlp_backward(tape, layers, ANY_ACTIVATION, g)
    # f is the first layer and its activation, g∘ what follows: the VJP of g∘f must be that of g, then that of f.
    z, f_tape = dense.dense_forward(x, *layers[0])
    h, saved = ANY_ACTIVATION.forward(z)
    _, g_tape = mlp.mlp_forward(h, layers[1:], ANY_ACTIVATION)
    d_h = mlp.mlp_backward(g_tape, layers[1:], ANY_ACTIVATION, g).x_BD
    first = backward(f_tape, ANY_ACTIVATION.backward(saved, d_h))
    prove_equal("the VJP of g∘f in x", whole.x_BD, first.x)
    prove_equal("the VJP of g∘f in f's weight", whole.layers[0][0], first.weight)
    prove_equal("the VJP of g∘f in f's bias", whole.layers[0][1], first.bias)
    prove_equal("SymPy's derivative of the composition", whole.x_BD, gradient(inner(s, g), x))
    return "f: dense and any activation; g: dense, any activation, dense; mlp_backward is the one VJP after the other"


def _layer() -> str:
    x, weight, bias, g = variable("x", B, D), variable("W", H, D), variable("b", H), variable("g", B, H)
    z, tape = dense.dense_forward(x, weight, bias)
    h, saved = ANY_ACTIVATION.forward(z)
    found, objective = backward(tape, ANY_ACTIVATION.backward(saved, g)), inner(h, g)
    for name, one, of in (("W", found.weight, weight), ("b", found.bias, bias), ("x", found.x, x)):
        prove_equal(f"the VJP in {name}", one, gradient(objective, of))
    return "a batch of any size through dense and an activation of which only σ and σ' are known"


def _cross_entropy(smoothing: float, penalty: float) -> str:
    s, labels, g = variable("s", B, C), any_labels(B, C), variable("g", B)
    loss = losses.softmax_cross_entropy(smoothing, penalty)
    loss_B, tape = loss.forward(s, labels)
    epsilon, weight = (sympy.Rational(repr(value)) for value in (smoothing, penalty))
    one_hot = IndexedArray((B, C), lambda b, c: sympy.KroneckerDelta(c, labels.at(b)))
    target = one_hot * (1 - epsilon) + IndexedArray((B, C), lambda b, c: epsilon / C)
    p, _ = losses.softmax_forward(s)
    found = loss.backward(tape, g)
    prove_equal("SymPy's derivative of the loss", found, gradient(inner(loss_B, g), s))
    scaled = IndexedArray((B, C), lambda b, c: (p.at(b, c) - target.at(b, c) + weight * s.at(b, c)) * g.at(b))
    prove_equal("p − q + λs", found, scaled)
    # The shift (the largest logit, on tensors) counted as a constant; it may, because the loss does not depend on it.
    shift = variable("m", B, sympy.Integer(1))
    zero = IndexedArray(shift.shape, lambda *_: sympy.Integer(0))
    prove_equal("the loss's derivative by its shift", gradient(inner(loss_B, g), shift), zero)
    return "any labels, any upstream gradient, and any shift of the logits in place of the largest"


def _softmax() -> str:
    s, g = variable("s", B, C), variable("g", B, C)
    p, saved = losses.softmax_forward(s)
    prove_equal("the VJP of softmax", losses.softmax_backward(saved, g), gradient(inner(p, g), s))
    prove_equal("Σ p", p.sum(1), IndexedArray((B,), lambda b: sympy.Integer(1)))
    return "and the probabilities of a row sum to 1"


def _squared_error() -> str:
    s, labels, g = variable("s", B, C), any_labels(B, C), variable("g", B)
    loss = losses.squared_error()
    loss_B, tape = loss.forward(s, labels)
    prove_equal("the VJP of the squared error", loss.backward(tape, g), gradient(inner(loss_B, g), s))
    return "any labels and any upstream gradient"


def _mean() -> str:
    loss_B, d_mean = variable("l", B), sympy.Symbol("g", real=True)
    expected = gradient(losses.mean_forward(loss_B).at() * d_mean, loss_B)
    prove_equal("the VJP of the mean", losses.mean_backward(loss_B, d_mean), expected)
    return "mean_backward gives every example 1/B of the upstream gradient"


def symbolic_layers(*sizes: sympy.Expr) -> list[mlp.Layer]:
    """Layers of variables for the given sizes."""
    return [
        (variable(f"W{n}", after, before), variable(f"b{n}", after))
        for n, (before, after) in enumerate(itertools.pairwise(sizes))
    ]


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""

    def proved(name: str, statement: str, source: str, scope: str, run: Callable[[], str], *more: str) -> Obligation:
        return Obligation(f"gradient.{name}", statement, source, "symbolic", scope, (*SYMBOLIC, *more), run)

    every_z, every_n, every_layer = "for every real z", "for all m, n", "for all B, D, H"
    return [
        proved("identity", "d id = 1", "deriv_id'", every_z, lambda: _smooth("identity")),
        proved(
            "relu", "ReLU'(z) = 1{z > 0} for z ≠ 0; ours is 0 at 0", "relu_gradient_almost_everywhere",
            every_z, lambda: _kinked("relu", sympy.Integer(0)),
        ),
        proved(
            "leaky-relu", "LeakyReLU'(z) = 1 for z > 0, 0.01 for z < 0; ours is 0.01 at 0", OURS,
            every_z, lambda: _kinked("leaky-relu", sympy.Rational(1, 100)),
        ),
        proved("sigmoid", "σ' = σ (1 − σ)", "sigmoid_gradient_correct", every_z, lambda: _smooth("sigmoid")),
        proved("tanh", "tanh' = 1 − tanh²", f"{LEAN}: Gradient correctness 3", every_z, lambda: _smooth("tanh")),
        proved("gelu", "(z Φ(z))' = Φ(z) + z φ(z)", OURS, every_z, lambda: _smooth("gelu")),
        proved(
            "matvec-vector", "the VJP of v ↦ Av is Aᵀg", "matvec_gradient_wrt_vector", every_n, matvec_by_vector
        ),
        proved("matvec-matrix", "the VJP of A ↦ Ax is g xᵀ", "matvec_gradient_wrt_matrix", every_n, matvec_by_matrix),
        proved("vadd", "D(v + b) = I", "vadd_gradient_correct", "for all n", vadd),
        proved("smul", "D(c v) = c I", "smul_gradient_correct", "for all n", smul),
        proved(
            "chain-rule", "D(g∘f) = Dg · Df", "chain_rule_preserves_correctness",
            "for all B, D, H, H2, C and any differentiable activation", _chain_rule, rests_on.PAIRS,
        ),
        proved(
            "dense", "the VJP of xWᵀ + b is (gW, gᵀx, Σ_B g)", f"{LEAN}: Gradient correctness 9", every_layer, _dense
        ),
        proved(
            "layer", "the VJP of σ(Wx + b) in W, b and x", "layer_composition_gradient_correct",
            f"{every_layer} and any differentiable σ", _layer, rests_on.PAIRS,
        ),
        proved(
            "cross-entropy", "∇ of softmax cross-entropy is p − onehot(y)", "cross_entropy_softmax_gradient_correct",
            "for all B, C", lambda: _cross_entropy(0.0, 0.0),
        ),
        proved(
            "cross-entropy-options", "with smoothing ε and penalty λ it is p − q + λs", "regularizedCrossEntropyLoss",
            "for all B, C, with ε = 1/10, λ = 1/4", lambda: _cross_entropy(0.1, 0.25),
        ),
        proved("softmax", "the VJP of softmax is p ⊙ (g − Σ p g)", OURS, "for all B, C", _softmax),
        proved("squared-error", "∇ of ½‖s − onehot(y)‖² is s − onehot(y)", OURS, "for all B, C", _squared_error),
        proved("mean", "the gradient of a batch mean is 1/B an example", "batchCrossEntropyLoss", "for all B", _mean),
    ]  # fmt: skip
