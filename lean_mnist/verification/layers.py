"""Properties of layers and of stacks of layers, for every size: LEAN_mnist's ``Layer/Properties``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy

from lean_mnist.chainrule import activations, dense, mlp
from lean_mnist.verification.gradients import H2, SYMBOLIC, B, C, D, H, symbolic_layers
from lean_mnist.verification.indexed import ANY_ACTIVATION, IndexedArray, variable
from lean_mnist.verification.model import Obligation, Refuted
from lean_mnist.verification.proofs import prove_equal

ALPHA, BETA = sympy.symbols("alpha beta", real=True)
DEPTHS = (1, 2, 3)


def _inputs() -> tuple[IndexedArray, IndexedArray]:
    return variable("x", B, D), variable("y", B, D)


def _affine() -> str:
    (x, y), weight, bias = _inputs(), variable("W", H, D), variable("b", H)
    mixed, _ = dense.dense_forward(x * ALPHA + y * BETA, weight, bias)
    wx, _ = dense.dense_forward(x, weight)
    wy, _ = dense.dense_forward(y, weight)
    prove_equal("W(αx + βy) + b", mixed, wx * ALPHA + wy * BETA + bias)
    return "dense_forward with a bias against itself without one"


def _linear() -> str:
    (x, y), weight = _inputs(), variable("W", H, D)
    mixed, _ = dense.dense_forward(x * ALPHA + y * BETA, weight)
    wx, _ = dense.dense_forward(x, weight)
    wy, _ = dense.dense_forward(y, weight)
    prove_equal("W(αx + βy)", mixed, wx * ALPHA + wy * BETA)
    return "dense_forward without a bias"


def _specification() -> str:
    x, weight, bias = variable("x", B, D), variable("W", H, D), variable("b", H)
    z, _ = dense.dense_forward(x, weight, bias)
    prove_equal("Wx + b", z, x @ weight.T + bias)
    return "entry by entry Σ_d W_hd x_bd + b_h"


def _affine_combinations(sizes: tuple[sympy.Expr, ...]) -> str:
    (x, y), layers = _inputs(), symbolic_layers(*sizes)
    identity = activations.ACTIVATIONS["identity"]
    mixed, _ = mlp.mlp_forward(x * ALPHA + y * (1 - ALPHA), layers, identity)
    fx, _ = mlp.mlp_forward(x, layers, identity)
    fy, _ = mlp.mlp_forward(y, layers, identity)
    prove_equal("f(αx + (1 − α)y)", mixed, fx * ALPHA + fy * (1 - ALPHA))
    return "mlp_forward with the identity activation, β = 1 − α"


def _identity_is_linear() -> str:
    x, layers = variable("x", B, D), symbolic_layers(D, H, C)
    found, _ = mlp.mlp_forward(x, layers, activations.ACTIVATIONS["identity"])
    inside, _ = dense.dense_forward(x, *layers[0])
    expected, _ = dense.dense_forward(inside, *layers[1])
    prove_equal("the network", found, expected)
    z, _ = activations.ACTIVATIONS["identity"].forward(inside)
    prove_equal("the layer", z, inside)
    return "one layer, and a stack of two"


def _dimensions(sizes: tuple[sympy.Expr, ...], batch: sympy.Expr) -> None:
    x, layers = variable("x", batch, sizes[0]), symbolic_layers(*sizes)
    s, tape = mlp.mlp_forward(x, layers, ANY_ACTIVATION)
    gradients = mlp.mlp_backward(tape, layers, ANY_ACTIVATION, variable("g", batch, sizes[-1]))
    shapes: list[tuple[str, Any, tuple[sympy.Expr, ...]]] = [
        ("the output", s, (batch, sizes[-1])),
        ("the gradient of x", gradients.x_BD, x.shape),
    ]
    for n, ((weight, bias), (d_weight, d_bias)) in enumerate(zip(layers, gradients.layers, strict=True)):
        shapes.append((f"the gradient of layers[{n}].weight", d_weight, weight.shape))
        assert bias is not None
        shapes.append((f"the gradient of layers[{n}].bias", d_bias, bias.shape))
        shapes.append((f"the input of layer {n}", tape.inputs[n], (batch, sizes[n])))
    for what, array, shape in shapes:
        if tuple(array.shape) != tuple(shape):
            raise Refuted(f"{what} has the wrong shape", f"{array.shape} instead of {shape}")


def _forward_dimension() -> str:
    _dimensions((D, H), sympy.Integer(1))
    return "(1, D) to (1, H); gradients have the shapes of what they are gradients of"


def _batch_dimension() -> str:
    _dimensions((D, H), B)
    return "(B, D) to (B, H); gradients have the shapes of what they are gradients of"


def _composition_dimension() -> str:
    for depth in DEPTHS:
        _dimensions((D, *(H, H2)[: depth - 1], C), B)
    return "(B, D) to (B, C), and every layer in between"


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    rules: list[tuple[str, str, str, str, Callable[[], str]]] = [
        ("affine", "W(αx + βy) + b = αWx + βWy + b", "forwardLinear_is_affine", "for all B, D, H", _affine),
        ("matvec-linear", "W(αx + βy) = αWx + βWy", "matvec_is_linear", "for all B, D, H", _linear),
        ("specification", "a dense layer is Wx + b", "forwardLinear_spec", "for all B, D, H", _specification),
        ("affine-combination", "α + β = 1 ⟹ f(αx + βy) = αf(x) + βf(y), one layer",
         "layer_preserves_affine_combination", "for all B, D, H", lambda: _affine_combinations((D, H))),
        ("affine-combination-stack", "the same for a stack of layers", "stackLinear_preserves_affine_combination",
         "for all B, D, H, H2, C and stacks of 2 and 3",
         lambda: _affine_combinations((D, H, C)) and _affine_combinations((D, H, H2, C))),
        ("identity-activation", "with σ = id a layer is Wx + b, and a network its layers one after another",
         "forward_with_id_eq_forwardLinear", "for all B, D, H, C", _identity_is_linear),
        ("forward-dimension", "D features in, H units out", "forward_dimension_typesafe", "for all D, H",
         _forward_dimension),
        ("batch-dimension", "B rows in, B rows out", "forwardBatch_dimension_typesafe", "for all B, D, H",
         _batch_dimension),
        ("composition-dimension", "layers that fit compose to D features in, C classes out",
         "composition_dimension_typesafe", "for all B, D, H, H2, C and stacks of 1 to 3", _composition_dimension),
    ]  # fmt: skip
    return [
        Obligation(f"layer.{name}", statement, source, "symbolic", scope, SYMBOLIC, run)
        for name, statement, source, scope, run in rules
    ]
