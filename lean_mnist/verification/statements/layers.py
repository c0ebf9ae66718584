"""Properties of layers and of stacks of layers, for every size: LEAN_mnist's ``Layer/Properties``."""

from functools import partial
from typing import Any

import sympy

from lean_mnist.chainrule import dense, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.verification.methods.indexed import ANY_ACTIVATION, variable
from lean_mnist.verification.methods.networks import H2, B, C, D, H, named_gradients, symbolic_layers
from lean_mnist.verification.methods.proofs import prove_equal
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Refuted, Statements

ALPHA, BETA = sympy.symbols("alpha beta", real=True)


def _linear(with_bias: bool) -> str:
    x, y, weight = variable("x", B, D), variable("y", B, D), variable("W", H, D)
    bias = variable("b", H) if with_bias else None
    mixed, _ = dense.dense_forward(x * ALPHA + y * BETA, weight, bias)
    expected = dense.dense_forward(x, weight)[0] * ALPHA + dense.dense_forward(y, weight)[0] * BETA
    prove_equal("W(αx + βy)", mixed, expected if bias is None else expected + bias)
    return "dense_forward with a bias against itself without one" if with_bias else "dense_forward without a bias"


def _specification() -> str:
    x, weight, bias = variable("x", B, D), variable("W", H, D), variable("b", H)
    prove_equal("Wx + b", dense.dense_forward(x, weight, bias)[0], x @ weight.T + bias)
    return "entry by entry Σ_d W_hd x_bd + b_h"


def _affine_combinations(*stacks: tuple[Expr, ...]) -> str:
    x, y = variable("x", B, D), variable("y", B, D)
    for sizes in stacks:
        layers = symbolic_layers(*sizes)
        mixed, fx, fy = (
            mlp.mlp_forward(at, layers, ACTIVATIONS["identity"])[0] for at in (x * ALPHA + y * (1 - ALPHA), x, y)
        )
        prove_equal("f(αx + (1 − α)y)", mixed, fx * ALPHA + fy * (1 - ALPHA))
    return "mlp_forward with the identity activation, β = 1 − α"


def _identity_is_linear() -> str:
    x, layers = variable("x", B, D), symbolic_layers(D, H, C)
    found, _ = mlp.mlp_forward(x, layers, ACTIVATIONS["identity"])
    inside, _ = dense.dense_forward(x, *layers[0])
    prove_equal("the network", found, dense.dense_forward(inside, *layers[1])[0])
    prove_equal("the layer", ACTIVATIONS["identity"].forward(inside)[0], inside)
    return "one layer, and a stack of two"


def _dimensions(batch: Expr, *stacks: tuple[Expr, ...]) -> str:
    for sizes in stacks:
        x, layers = variable("x", batch, sizes[0]), symbolic_layers(*sizes)
        s, tape = mlp.mlp_forward(x, layers, ANY_ACTIVATION)
        gradients = mlp.mlp_backward(tape, layers, ANY_ACTIVATION, variable("g", batch, sizes[-1]))
        shapes: list[tuple[str, Any, tuple[Expr, ...]]] = [("the output", s, (batch, sizes[-1]))]
        shapes += [(f"the gradient of {name}", d, of.shape) for name, of, d in named_gradients(x, layers, gradients)]
        shapes += [(f"the input of layer {n}", tape.inputs[n], (batch, sizes[n])) for n in range(len(layers))]
        for what, array, shape in shapes:
            if tuple(array.shape) != tuple(shape):
                raise Refuted(f"{what} has the wrong shape", f"{array.shape} instead of {shape}")
    return "the output, the input of every layer in between, and gradients, which have the shapes of their variables"


_LAYER, _STACKS = "for all B, D, H", "for all B, D, H, H2, C and stacks of"
OBLIGATIONS = Statements("layer", "Layer properties")
add = OBLIGATIONS.add
add("affine", "W(αx + βy) + b = αWx + βWy + b", "forwardLinear_is_affine", _LAYER, partial(_linear, True))
add("matvec-linear", "W(αx + βy) = αWx + βWy", "matvec_is_linear", _LAYER, partial(_linear, False))
add("specification", "a dense layer is Wx + b", "forwardLinear_spec", _LAYER, _specification)
add(
    "affine-combination",
    "α + β = 1 ⟹ f(αx + βy) = αf(x) + βf(y), one layer",
    "layer_preserves_affine_combination",
    _LAYER,
    partial(_affine_combinations, (D, H)),
)
add(
    "affine-combination-stack",
    "the same for a stack of layers",
    "stackLinear_preserves_affine_combination",
    f"{_STACKS} 2 and 3",
    partial(_affine_combinations, (D, H, C), (D, H, H2, C)),
)
add(
    "identity-activation",
    "with σ = id a layer is Wx + b, and a network its layers one after another",
    "forward_with_id_eq_forwardLinear",
    "for all B, D, H, C",
    _identity_is_linear,
)
add(
    "forward-dimension",
    "D features in, H units out",
    "forward_dimension_typesafe",
    "for all D, H",
    partial(_dimensions, sympy.Integer(1), (D, H)),
)
add(
    "batch-dimension",
    "B rows in, B rows out",
    "forwardBatch_dimension_typesafe",
    _LAYER,
    partial(_dimensions, B, (D, H)),
)
add(
    "composition-dimension",
    "layers that fit compose to D features in, C classes out",
    "composition_dimension_typesafe",
    f"{_STACKS} 1 to 3",
    partial(_dimensions, B, (D, C), (D, H, C), (D, H, H2, C)),
)
