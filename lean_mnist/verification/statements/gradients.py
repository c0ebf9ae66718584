"""Gradient correctness, operation by operation, for every size: LEAN_mnist's ``Verification/GradientCorrectness``."""

from collections.abc import Callable
from functools import partial

import numpy as np
import sympy

from lean_mnist.chainrule import activations, losses, mlp
from lean_mnist.chainrule.dense import dense_backward, dense_forward
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.indexed import (
    ANY_ACTIVATION,
    IndexedArray,
    any_labels,
    column,
    constant,
    gradient,
    inner,
    variable,
)
from lean_mnist.verification.methods.networks import H2, B, C, D, H, N, named_gradients, symbolic_layers
from lean_mnist.verification.methods.proofs import prove_equal, prove_vjp, prove_zero
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Statements
from lean_mnist.verification.statements.linear_algebra import matvec, smul, vadd

LEAN, OURS = "LEAN_mnist", "not in LEAN_mnist"
OBLIGATIONS = proved = Statements("gradient", "Gradient correctness")
add = OBLIGATIONS.add


def _smooth(value: Callable[[Expr], Expr], name: str) -> str:
    """The forward is ``value``, and the backward SymPy's derivative of it times the upstream gradient."""
    activation, z, g = activations.activation_named(name), variable("z", N), variable("g", N)
    h, saved = activation.forward(z)
    prove_equal(f"{name}(z)", h, z.map(value))
    prove_vjp(h, g, [(z, activation.backward(saved, g))])
    return "forward is the definition; backward is SymPy's derivative of forward"


def _kinked(slope: Expr, name: str) -> str:
    """The forward is ``z`` above 0 and ``slope · z`` below; the backward takes the ``slope`` at 0, too."""
    activation = activations.activation_named(name)
    positive, negative = sympy.Symbol("p", positive=True), sympy.Symbol("n", negative=True)
    g = np.array([sympy.Symbol(f"g{i}", real=True) for i in range(3)], dtype=object)
    h, saved = activation.forward(np.array([positive, negative, sympy.Integer(0)], dtype=object))
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


SMOOTH = ("sigmoid", "tanh", "gelu", "silu")
FORMULAS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "relu": (
        "ReLU'(z) = 1{z > 0} for z ≠ 0; ours is 0 at 0",
        "relu_gradient_almost_everywhere",
        partial(_kinked, sympy.Integer(0)),
    ),
    "leaky-relu": (
        "LeakyReLU'(z) = 1 for z > 0, 0.01 for z < 0; ours is 0.01 at 0",
        OURS,
        partial(_kinked, sympy.Rational(1, 100)),
    ),
    "sigmoid": ("σ' = σ (1 − σ)", "sigmoid_gradient_correct", partial(_smooth, lambda z: 1 / (1 + sympy.exp(-z)))),
    "tanh": ("tanh' = 1 − tanh²", f"{LEAN}: Gradient correctness 3", partial(_smooth, sympy.tanh)),
    "gelu": ("(z Φ(z))' = Φ(z) + z φ(z)", OURS, partial(_smooth, lambda z: z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2)),
    "silu": ("(z σ(z))' = σ(z) (1 + z (1 − σ(z)))", OURS, partial(_smooth, lambda z: z / (1 + sympy.exp(-z)))),
    "identity": ("d id = 1", "deriv_id'", partial(_smooth, lambda z: z)),
}
for _name in activations.ACTIVATIONS:
    _statement, _source, _check = FORMULAS[_name]
    add(_name, _statement, _source, "for every real z", partial(_check, _name))
add("matvec-vector", "the VJP of v ↦ Av is Aᵀg", "matvec_gradient_wrt_vector", "for all m, n", partial(matvec, "v"))
add("matvec-matrix", "the VJP of A ↦ Ax is g xᵀ", "matvec_gradient_wrt_matrix", "for all m, n", partial(matvec, "A"))
add("vadd", "D(v + b) = I", "vadd_gradient_correct", "for all n", vadd)
add("smul", "D(c v) = c I", "smul_gradient_correct", "for all n", smul)


@proved(
    "chain_rule_preserves_correctness",
    "for all B, D, H, H2, C and any differentiable activation",
    rests_on=rests_on.ANY,
)
def chain_rule() -> str:
    """D(g∘f) = Dg · Df."""
    x, g = variable("x", B, D), variable("g", B, C)
    layers = symbolic_layers(D, H, H2, C)
    s, tape = mlp.mlp_forward(x, layers, ANY_ACTIVATION)
    whole = mlp.mlp_backward(tape, layers, ANY_ACTIVATION, g)
    # f is the first layer and its activation, g∘ what follows: the VJP of g∘f must be that of g, then that of f.
    z, f_tape = dense_forward(x, *layers[0])
    h, saved = ANY_ACTIVATION.forward(z)
    _, g_tape = mlp.mlp_forward(h, layers[1:], ANY_ACTIVATION)
    d_h = mlp.mlp_backward(g_tape, layers[1:], ANY_ACTIVATION, g).x_BD
    first = dense_backward(f_tape, ANY_ACTIVATION.backward(saved, d_h))
    of_f = mlp.MLPGradients(first.x_BD, (first[1:],))
    for (name, _, found), (_, _, one_after_the_other) in zip(
        named_gradients(x, layers, whole), named_gradients(x, layers[:1], of_f), strict=False
    ):
        prove_equal(f"the VJP of g∘f in {name}", found, one_after_the_other)
    prove_vjp(s, g, [(x, whole.x_BD)])
    return "f: dense and any activation; g: dense, any activation, dense; mlp_backward is the one VJP after the other"


@proved(f"{LEAN}: Gradient correctness 9", "for all B, D, H")
def dense() -> str:
    """the VJP of xWᵀ + b is (gW, gᵀx, Σ_B g)."""
    x, weight, bias, g = variable("x", B, D), variable("W", H, D), variable("b", H), variable("g", B, H)
    z, tape = dense_forward(x, weight, bias)
    prove_vjp(z, g, zip((x, weight, bias), dense_backward(tape, g), strict=True))
    return "the three gradients of dense_backward"


@proved("layer_composition_gradient_correct", "for all B, D, H and any differentiable σ", rests_on=rests_on.ANY)
def layer() -> str:
    """the VJP of σ(Wx + b) in W, b and x."""
    x, weight, bias, g = variable("x", B, D), variable("W", H, D), variable("b", H), variable("g", B, H)
    z, tape = dense_forward(x, weight, bias)
    h, saved = ANY_ACTIVATION.forward(z)
    found = dense_backward(tape, ANY_ACTIVATION.backward(saved, g))
    prove_vjp(h, g, zip((x, weight, bias), found, strict=True))
    return "a batch of any size through dense and an activation of which only σ and σ' are known"


def _cross_entropy(smoothing: float, penalty: float) -> str:
    s, labels, g = variable("s", B, C), any_labels(B, C), variable("g", B)
    loss = losses.softmax_cross_entropy(smoothing, penalty)
    loss_B, tape = loss.forward(s, labels)
    epsilon, weight = (sympy.Rational(repr(value)) for value in (smoothing, penalty))
    one_hot = IndexedArray((B, C), lambda b, c: sympy.KroneckerDelta(c, labels.at(b)))
    target = one_hot * (1 - epsilon) + epsilon / C
    p, _ = losses.softmax_forward(s)
    found = loss.backward(tape, g)
    prove_vjp(loss_B, g, [(s, found)])
    prove_equal("p − q + λs", found, (p - target + s * weight) * column(g))
    # The shift (the largest logit, on tensors) counted as a constant; it may, because the loss does not depend on it.
    shift = variable("m", B, sympy.Integer(1))
    prove_equal("the loss's derivative by its shift", gradient(inner(loss_B, g), shift), constant(0, *shift.shape))
    return "any labels, any upstream gradient, and any shift of the logits in place of the largest"


add(
    "cross-entropy",
    "∇ of softmax cross-entropy is p − onehot(y)",
    "cross_entropy_softmax_gradient_correct",
    "for all B, C",
    partial(_cross_entropy, 0.0, 0.0),
)
add(
    "cross-entropy-options",
    "with smoothing ε and penalty λ it is p − q + λs",
    "regularizedCrossEntropyLoss",
    "for all B, C, with ε = 1/10, λ = 1/4",
    partial(_cross_entropy, 0.1, 0.25),
)


@proved(OURS, "for all B, C")
def softmax() -> str:
    """the VJP of softmax is p ⊙ (g − Σ p g)."""
    s, g = variable("s", B, C), variable("g", B, C)
    p, saved = losses.softmax_forward(s)
    prove_vjp(p, g, [(s, losses.softmax_backward(saved, g))])
    prove_equal("Σ p", p.sum(1), constant(1, B))
    return "and the probabilities of a row sum to 1"


@proved(OURS, "for all B, C")
def squared_error() -> str:
    """∇ of ½‖s − onehot(y)‖² is s − onehot(y)."""
    s, labels, g = variable("s", B, C), any_labels(B, C), variable("g", B)
    loss = losses.squared_error()
    loss_B, tape = loss.forward(s, labels)
    prove_vjp(loss_B, g, [(s, loss.backward(tape, g))])
    return "any labels and any upstream gradient"


@proved("batchCrossEntropyLoss", "for all B")
def mean() -> str:
    """the gradient of a batch mean is 1/B an example."""
    loss_B, d_mean = variable("l", B), variable("g")
    prove_vjp(losses.mean_forward(loss_B), d_mean, [(loss_B, losses.mean_backward(loss_B, d_mean.at()))])
    return "mean_backward gives every example 1/B of the upstream gradient"
