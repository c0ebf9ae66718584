"""Gradients of a whole network in all parameters, established in four ways; order of the central difference."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import sympy
import torch

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS, NetworkLoss, reference_gradients
from lean_mnist.chainrule import activations, losses, mlp
from lean_mnist.nn import MLP, functional, parameters
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.indexed import (
    ANY_ACTIVATION,
    IndexedArray,
    any_labels,
    constant,
    gradient,
    inner,
    variable,
)
from lean_mnist.verification.methods.networks import (
    H2,
    B,
    C,
    D,
    H,
    N,
    RationalNetwork,
    derivatives_by_differences,
    named_gradients,
    symbolic_layers,
)
from lean_mnist.verification.methods.numeric import normal, passes_gradcheck
from lean_mnist.verification.methods.proofs import prove_equal, prove_zero
from lean_mnist.verification.methods.sums import Expr
from lean_mnist.verification.model import Method, Refuted
from lean_mnist.verification.statements.gradients import OBLIGATIONS, OURS, SMOOTH

SOURCE = "network_gradient_correct"
DEPTHS = (1, 2, 3)


def _of_depth(depth: int) -> str:
    """Prove every gradient of the mean cross-entropy of an MLP with ``depth`` dense layers."""
    x, labels = variable("x", B, D), any_labels(B, C)
    layers, loss = symbolic_layers(D, *(H, H2)[: depth - 1], C), losses.softmax_cross_entropy()
    loss_B, tape = mlp.mlp_loss_forward(x, labels, layers, ANY_ACTIVATION, loss)
    objective, upstream = losses.mean_forward(loss_B).at(), losses.mean_backward(loss_B, sympy.Integer(1))
    gradients = mlp.mlp_loss_backward(tape, layers, ANY_ACTIVATION, loss, upstream)
    for name, of, found in named_gradients(x, layers, gradients):
        prove_equal(f"the gradient of {name}", found, gradient(objective, of))
    return f"all {2 * depth} parameters and the input, any labels"


@OBLIGATIONS(
    SOURCE,
    f"for all B, D, H, H2, C, depths {DEPTHS[0]} to {DEPTHS[-1]} and any differentiable activation, with cross-entropy",
    rests_on=rests_on.ANY,
)
def network() -> str:
    """mlp_loss_backward gives ∇ of the mean loss in x and every weight and bias."""
    return "; ".join(f"depth {depth}: {_of_depth(depth)}" for depth in DEPTHS)


EXACT = [  # sizes, activation, batch, biases, seed
    *(((3, 4, 2), name, 3, True, 1) for name in ("relu", "leaky-relu", "identity")),
    *(((3, 4, 3, 2), name, 2, True, 5) for name in ("relu", "leaky-relu", "identity")),
    ((3, 4, 2), "relu", 1, False, 4),
    ((2, 3, 3, 3, 2), "relu", 2, True, 9),
    ((3, 2), "relu", 2, True, 2),
    ((2, 2, 2, 2, 2, 2), "relu", 2, True, 3),
    ((2, 2, 1, 2, 2, 1, 2), "leaky-relu", 1, False, 3),
]
EXACT_DERIVATIVES = sum(
    batch * sizes[0] + sum((before + bias) * after for before, after in itertools.pairwise(sizes))
    for sizes, _, batch, bias, _ in EXACT
)


@OBLIGATIONS(
    SOURCE,
    f"on {len(EXACT)} networks of 1 to 6 layers, some 1 unit wide, with the squared error, "
    f"{EXACT_DERIVATIVES} derivatives",
    Method.EXACT,
)
def network_exact() -> str:
    """the same with ReLU, leaky ReLU and identity, whose kinks the proof leaves out."""
    switched_off = 0
    for sizes, activation, batch, bias, seed in EXACT:
        example = RationalNetwork.random(seed, sizes, activation, batch, bias)
        switched_off += sum(sign < 0 for sign in example.loss_and_signs()[1])
        for name, container, found in example.loss_and_gradients()[1]:
            expected = derivatives_by_differences(example, container)
            for index in np.ndindex(expected.shape):
                if found.shape != expected.shape or found[index] != expected[index]:
                    place = f"{'-'.join(map(str, sizes))} {activation}, seed {seed}, {name}{list(index)}"
                    raise Refuted("a gradient is wrong", f"{found[index]} instead of {expected[index]} at {place}")
    assert switched_off, "without a negative pre-activation, ReLU cannot be told from the identity"
    return f"equal with ==; {switched_off} units stood below their kink"


GRADCHECK_BATCH = 4
GRADCHECKED = (  # sizes, biases, smoothing and penalty
    ((5, 4, 3, 3), True, (0.0, 0.0)),
    ((5, 4, 3, 3), True, (0.1, 0.3)),
    ((4, 3, 3, 2, 3, 1, 3), False, (0.1, 0.0)),
)


@OBLIGATIONS(
    SOURCE,
    f"on {len(GRADCHECKED)} networks of 3 and 6 layers, batch {GRADCHECK_BATCH}, for {len(activations.ACTIVATIONS)} "
    "activations, with and without biases, smoothing and penalty",
    Method.FLOATS,
    rests_on=(rests_on.GRADCHECK, rests_on.TORCH),
)
def network_gradcheck() -> str:
    """the same on float64 tensors, through the autograd node that trains."""
    for name, (sizes, bias, options) in itertools.product(activations.ACTIVATIONS, GRADCHECKED):
        x, layers, labels = _away_from_kinks(name, sizes, bias)
        loss = losses.softmax_cross_entropy(*options)

        def batch_loss(x: torch.Tensor, *flat: torch.Tensor) -> torch.Tensor:
            pairs = list(itertools.zip_longest(flat[: len(layers)], flat[len(layers) :]))  # noqa: B023  # called at once
            return 0.7 * functional.mlp_loss(x, labels, pairs, name, loss)  # noqa: B023

        weights, biases = zip(*layers, strict=True)
        inputs = [x, *weights, *(b for b in biases if b is not None)]
        passes_gradcheck(name, batch_loss, [t.requires_grad_() for t in inputs])
    return "the node the trainer differentiates, network and loss in one, with an upstream gradient of 0.7"


def _away_from_kinks(
    activation: str, sizes: Sequence[int], bias: bool
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor | None]], torch.Tensor]:
    """Input, layers and labels for which no hidden pre-activation is within 1e-3 of 0, by trying seeds in turn."""
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        layers = [
            (normal(generator, after, before), normal(generator, after) if bias else None)
            for before, after in itertools.pairwise(sizes)
        ]
        h = x = normal(generator, GRADCHECK_BATCH, sizes[0])
        closest = math.inf
        for weight, shift in layers[:-1]:
            z = torch.nn.functional.linear(h, weight, shift)
            closest = min(closest, float(z.abs().min()))
            h = functional.activate(z, activation)
        if closest > 1e-3 or REFERENCE_ACTIVATIONS[activation].below_kink is None:
            return x, layers, torch.arange(GRADCHECK_BATCH) % sizes[-1]
    raise AssertionError


FULL_SEEDS, FULL_BATCH, FULL_TOLERANCE = range(4), 64, 1e-12


@OBLIGATIONS(
    SOURCE,
    f"on {len(FULL_SEEDS)} seeds, batch {FULL_BATCH}, float64, to {FULL_TOLERANCE:.0e} relative",
    Method.FLOATS,
    rests_on=(rests_on.AUTOGRAD, rests_on.CASES, rests_on.TORCH),
)
def network_full_size() -> str:
    """the same at 784-128-10 with ReLU, against autograd of another forward."""
    largest = 0.0
    for seed in FULL_SEEDS:
        model = MLP((784, 128, 10), seed=seed, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        for _, bias in model.weights_and_biases():  # they start at zero, where leaving one out cannot show
            assert bias is not None
            torch.nn.init.normal_(bias, generator=generator)
        x = torch.rand(FULL_BATCH, 784, generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (FULL_BATCH,), generator=generator)
        model.loss(x, labels).backward()
        exact = reference_gradients(NetworkLoss("relu"), model.weights_and_biases(), x, labels, dtype=torch.float64)
        for (name, parameter), expected in zip(model.named_parameters(), exact.gradients, strict=True):
            assert parameter.grad is not None
            error = float((parameter.grad - expected).norm() / expected.norm())
            if not error <= FULL_TOLERANCE:
                raise Refuted("a gradient differs from the reference", f"{name}, seed {seed}: relative {error:.1e}")
            largest = max(largest, error)
    return f"largest relative difference {largest:.1e}, allowed {FULL_TOLERANCE:.0e}"


_T = sympy.Symbol("t", real=True)


class _Line(NamedTuple):
    """A function on the line through any point along ``v``, and the slope that our backward gives there, at ``t``."""

    name: str
    value: Callable[[Expr], Expr]
    slope: Callable[[Expr], Expr]


def _activation_on_line(name: str, v: IndexedArray) -> _Line:
    activation, z = activations.activation_named(name), variable("z", N)
    place = z.indices()

    def slope(t: Expr) -> Expr:
        return activation.backward(activation.forward(z + v * t)[1], v).at(*place)

    return _Line(name, lambda t: activation.forward(z + v * t)[0].at(*place), slope)


def _loss_on_line() -> _Line:
    s, labels, g, v = variable("s", B, C), any_labels(B, C), variable("g", B), variable("v", B, C)
    loss = losses.softmax_cross_entropy()

    def slope(t: Expr) -> Expr:
        return inner(loss.backward(loss.forward(s + v * t, labels)[1], g), v)

    return _Line("cross-entropy", lambda t: inner(loss.forward(s + v * t, labels)[0], g), slope)


@OBLIGATIONS(
    "gradient_matches_finite_difference",
    f"for {', '.join(SMOOTH)} and cross-entropy, for all B, C, along any direction; the theorems are about one number "
    "and direction 1, and about one example's logits",
)
def central_difference() -> str:
    """the central difference tends to the gradient that our backward gives."""
    for name, value, slope in (*(_activation_on_line(name, variable("v", N)) for name in SMOOTH), _loss_on_line()):
        limit = sympy.diff((value(_T) - value(-_T)) / 2, _T).subs(_T, 0)
        prove_zero(f"{name}: the limit of the central difference", limit, slope(sympy.Integer(0)))
    return "the derivative of (F(t) − F(−t)) / 2 at t = 0 is ⟨backward, v⟩"


@OBLIGATIONS(
    "gradient_matches_finite_difference",
    f"for all z of {', '.join(SMOOTH)} in direction 1, and for all logits of one example of cross-entropy, along any "
    "direction",
    Method.DERIVED,
    rests_on=(*rests_on.SYMBOLIC, rests_on.CALCULUS),
)
def central_difference_order() -> str:
    """the central difference differs from the derivative by O(t²)."""
    for name, value, slope in (*(_activation_on_line(name, constant(1, N)) for name in SMOOTH), _loss_on_line()):
        prove_zero(f"{name}: the slope along the line", sympy.diff(value(_T), _T), slope(_T))
    return (
        "F' is ⟨backward, v⟩ at every t; by Taylor's theorem, as F‴ is continuous, the error is at most t²/6 · max |F‴|"
    )


ORDER_NETWORKS = 8


@OBLIGATIONS(OURS, f"on {ORDER_NETWORKS} tanh networks 5-4-3, along random directions (measured order)", Method.FLOATS)
def central_difference_network() -> str:
    """the central difference of a whole network's loss has an error of order 2.

    The error of the central difference along a random direction, at steps 2^-4 and 2^-5: their ratio is about 4.
    """
    orders = [_order(seed) for seed in range(ORDER_NETWORKS)]
    for seed, order in enumerate(orders):
        if not abs(order - 2) < 0.05:
            raise Refuted("the error does not shrink with order 2", f"order {order:.3f}, seed {seed}")
    return f"measured order {min(orders):.3f} to {max(orders):.3f}"


def _order(seed: int) -> float:
    model = MLP((5, 4, 3), "tanh", seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x, labels, start = normal(generator, 6, 5), torch.arange(6) % 3, parameters.flatten_parameters(model)
    direction = normal(generator, *start.shape)
    direction /= direction.norm()
    model.loss(x, labels).backward()
    slope = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]) @ direction

    def along(t: float) -> torch.Tensor:
        parameters.unflatten_parameters(start + t * direction, model)
        return model.loss(x, labels).detach()

    error = [float(abs((along(t) - along(-t)) / (2 * t) - slope)) for t in (2**-4, 2**-5)]
    return math.log2(error[0] / error[1])
