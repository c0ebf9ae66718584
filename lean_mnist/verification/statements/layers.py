"""Properties of layers and of stacks of layers, for every size: LEAN_mnist's ``Layer/Properties``."""

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import sympy
import torch

from lean_mnist.chainrule import dense, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.nn import MLP
from lean_mnist.nn.step import StepTape
from lean_mnist.verification.methods.indexed import variable
from lean_mnist.verification.methods.networks import H2, B, C, D, H, symbolic_layers
from lean_mnist.verification.methods.proofs import prove_equal
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Method, Refuted, Statements

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


def _dimensions(stacks: Iterable[tuple[int, ...]], batches: Iterable[int]) -> str:
    for sizes, batch, bias in itertools.product(stacks, batches, (True, False)):
        model = MLP(sizes, bias=bias)
        x, labels = torch.ones(batch, sizes[0], requires_grad=True), torch.zeros(batch, dtype=torch.int64)
        s, tape = model(x), StepTape(labels)
        s.backward(torch.ones(batch, sizes[-1]))
        _, found = model.loss_and_gradients(x.detach(), labels, tape=tape)
        shapes: list[tuple[str, Any, tuple[int, ...]]] = [
            ("the output", s, (batch, sizes[-1])),
            ("the gradient of x", x.grad, (batch, sizes[0])),
        ]
        for n, pair in enumerate(model.parameter_pairs()):
            shapes += [(f"the input of layer {n}", tape.inputs[n], (batch, sizes[n]))]
            for part, parameter, g in zip(("weight", "bias"), pair, found[n], strict=True):
                if parameter is not None:
                    shapes += [
                        (f"the gradient of layers[{n}].{part}", of, parameter.shape) for of in (parameter.grad, g)
                    ]
        for what, array, shape in shapes:
            if array is None or tuple(array.shape) != tuple(shape):
                actual = None if array is None else tuple(array.shape)
                raise Refuted(
                    f"{what} has the wrong shape", f"{actual} instead of {tuple(shape)} with {sizes}, B = {batch}"
                )
    return "the output, the input of every layer in between, and gradients, which have the shapes of their variables"


WIDTHS = range(1, 5)
ONE_LAYER = list(itertools.product(WIDTHS, repeat=2))
STACKS = [*itertools.product(WIDTHS, repeat=3), *itertools.product(range(1, 4), repeat=4), (3, 1, 2, 4, 2, 2, 5)]


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
checked = partial(add, method=Method.FLOATS)
_SIZES = f"sizes from 1 to {max(WIDTHS)}, with and without biases"
checked(
    "forward-dimension",
    "D features in, H units out",
    "forward_dimension_typesafe",
    f"on {2 * len(ONE_LAYER)} layers and one example, {_SIZES}",
    partial(_dimensions, ONE_LAYER, (1,)),
)
checked(
    "batch-dimension",
    "B rows in, B rows out",
    "forwardBatch_dimension_typesafe",
    f"on {2 * len(ONE_LAYER)} layers, {_SIZES}, B from 0 to 3",
    partial(_dimensions, ONE_LAYER, range(4)),
)
checked(
    "composition-dimension",
    "layers that fit compose to D features in, C classes out",
    "composition_dimension_typesafe",
    f"on {2 * len(STACKS)} stacks of 2 to 6 layers, {_SIZES}",
    partial(_dimensions, STACKS, (2,)),
)
