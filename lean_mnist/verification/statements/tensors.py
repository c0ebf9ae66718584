"""From formulas to tensors: the primitives that PyTorch provides mean what the formulas mean.

The functions of ``chainrule`` run here twice on the same numbers: on tensors, and either on fractions, where whole
numbers let both be compared with ``==``, or on SymPy numbers of 60 digits.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.chainrule import losses
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.nn import functional
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.methods.numeric import normal, passes_gradcheck, worst_ulps
from lean_mnist.verification.model import Method, Refuted, Statements
from lean_mnist.verification.statements.gradients import OURS

OBLIGATIONS = checked = Statements("tensors", "From formulas to tensors", method=Method.FLOATS)
DIGITS = (rests_on.MPMATH, rests_on.TORCH, rests_on.CASES)
POINTS = [
    *(sign * x for sign in (1.0, -1.0)
      for x in (1e-30, 1e-20, 1e-8, 1e-5, 2e-4, 8e-4, 3e-3, 0.03, 0.1, 0.5, 1.0, 2.0, 3.7, 6.0, 9.0, 20.0, 40.0)),
    0.0,
    *map(random.Random(0).gauss, [0.0] * 40, [4.0] * 40),
]  # fmt: skip
DTYPES = (torch.float64, torch.float32, torch.bfloat16)  # in which a network is trained
ELEMENTARY, ELEMENTARY_ULPS, ACTIVATION_ULPS, LOSS_ULPS = ("exp", "tanh", "sigmoid", "erf", "log"), 4.0, 8.0, 8.0


def _primitive(name: str, x: Any) -> Any:
    return getattr(primitives(x), name)(x)


def _labels_for(s: Any, labels: list[int]) -> Any:
    return torch.tensor(labels) if isinstance(s, torch.Tensor) else np.array(labels)


@checked(OURS, f"on {len(POINTS)} points each, from −40 to 40, in float64 and float32", rests_on=DIGITS)
def elementary() -> str:
    """exp, log, tanh, sigmoid and erf of tensors are within 4 ulp."""
    largest = dict.fromkeys(ELEMENTARY, 0.0)
    for name, dtype in itertools.product(ELEMENTARY, DTYPES[:2]):
        points = [p for p in POINTS if p > 0 or name != "log"]
        error = worst_ulps(name, partial(_primitive, name), points, lambda x, exact: abs(exact), ELEMENTARY_ULPS, dtype)
        largest[name] = max(largest[name], error)
    return "largest error, units in the last place: " + ", ".join(f"{n} {e:.2f}" for n, e in largest.items())


@checked(
    OURS,
    f"on {len(POINTS)} points, from −40 to 40, in float64, float32 and bfloat16, to {ACTIVATION_ULPS:.0f} ulp of "
    "max(|σ|, |z|) or max(1, |z|), and ReLU and the identity without any error",
    rests_on=DIGITS,
)
def activations() -> str:
    """each activation and its derivative, on tensors, are the formulas."""
    largest = 0.0
    parts: dict[str, tuple[Callable[[Activation, Any], Any], float]] = {
        "value": (lambda activation, z: activation.forward(z)[0], 0.0),
        "derivative": (lambda activation, z: activation.backward(activation.forward(z)[1], z * 0 + 3), 1.0),
    }
    for activation, (part, (function, least)), dtype in itertools.product(ACTIVATIONS.values(), parts.items(), DTYPES):
        reference = REFERENCE_ACTIVATIONS[activation.name]
        smooth = reference.below_kink is None
        # GELU's tail is a difference of numbers near |z|, and rounding is relative to them.
        scale = partial(_size, least if smooth else 0.0, 1.0 if smooth else 0.0)
        allowed = 0.0 if reference.exact else ACTIVATION_ULPS
        what = f"the {part} of {activation.name}"
        largest = max(largest, worst_ulps(what, partial(function, activation), POINTS, scale, allowed, dtype))
    return f"largest error {largest:.2f} units in the last place"


def _size(least: float, share: float, z: float, exact: float) -> float:
    return max(least, abs(exact), share * abs(z))


CROSS_ENTROPY_LOGITS = [
    *((61.0, -29.0, -57.0), (2000.0, 0.0, 0.0), (-2000.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1e-300, 0.0, -1e-300)),
    *((700.0, 699.0, -700.0), (36.0, 0.0, -36.0), (1e6, -1e6, 0.0)),
]
_gauss = random.Random(1).gauss
LOSS_ROWS = [*CROSS_ENTROPY_LOGITS, *(tuple(_gauss(0, 6) for _ in range(3)) for _ in range(20))]


@checked(
    OURS,
    f"on {3 * len(LOSS_ROWS)} rows, logits up to 1e6, in float64 and float32, to {LOSS_ULPS:.0f} ulp of the largest "
    "logit",
    rests_on=DIGITS,
)
def loss() -> str:
    """cross-entropy and its gradient, on tensors, are the formulas."""
    cross_entropy, largest = losses.softmax_cross_entropy(), 0.0

    def value(labels: list[int], s: Any) -> Any:
        return cross_entropy.forward(s, _labels_for(s, labels))[0]

    def gradient(labels: list[int], s: Any) -> Any:
        loss_B, tape = cross_entropy.forward(s, _labels_for(s, labels))
        return cross_entropy.backward(tape, loss_B * 0 + 1)

    for label, part, dtype in itertools.product(range(3), (value, gradient), DTYPES[:2]):
        function = partial(part, [label] * len(LOSS_ROWS))
        what, scale = f"the {part.__name__} with label {label}", lambda row, exact: max(1.0, *map(abs, row))
        largest = max(largest, worst_ulps(what, function, LOSS_ROWS, scale, LOSS_ULPS, dtype))  # a difference of logits
    return f"largest error {largest:.2f} units in the last place of the largest logit, (2000, 0, 0) among the cases"


BOUND_SCALES, BOUND_CLASSES, BOUND_ROWS = (0.0, 1e-6, 1.0, 30.0, 1e4), (1, 2, 10), 500
BOUND_CASES = len(DTYPES) * len(BOUND_SCALES) * len(BOUND_CLASSES) * BOUND_ROWS + len(CROSS_ENTROPY_LOGITS) * 3


def _bound_batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for dtype, scale, classes in itertools.product(DTYPES, BOUND_SCALES, BOUND_CLASSES):
        s = scale * normal(generator, BOUND_ROWS, classes)
        yield s.to(dtype), torch.randint(classes, (BOUND_ROWS,), generator=generator)
    for label in range(3):
        s = torch.tensor(CROSS_ENTROPY_LOGITS, dtype=torch.float64)
        yield s, torch.full((len(s),), label)


@checked(
    "loss_nonneg, loss_lower_bound",
    f"on {BOUND_CASES:,} rows in float64, float32 and bfloat16, logits up to about 4e4 and 1e6",
)
def loss_bounds() -> str:
    """loss ≥ 0, |∂loss/∂s_k| ≤ 1, Σ_k ∂loss/∂s_k = 0, ‖∇loss‖ ≤ √2 in floating point."""
    loss = losses.softmax_cross_entropy()
    for s, labels in _bound_batches():
        loss_B, tape = loss.forward(s, labels)
        d_s = loss.backward(tape, torch.ones(len(s), dtype=s.dtype))
        unit = torch.finfo(s.dtype).eps
        sums, norms = d_s.double().sum(1).abs(), d_s.double().norm(dim=1)
        for what, good in (
            ("loss ≥ 0", loss_B >= 0),
            ("|∂loss/∂s_k| ≤ 1", (d_s.abs() <= 1).all(1)),
            ("Σ_k ∂loss/∂s_k = 0 up to rounding", sums <= 2 * unit * s.shape[1]),
            ("‖∇loss‖ ≤ √2 up to rounding", norms <= math.sqrt(2) * (1 + unit)),
        ):
            if not good.all():
                at = int((~good).nonzero()[0, 0])
                raise Refuted(f"{what} fails in {s.dtype}", f"logits {s[at].tolist()}, label {int(labels[at])}")
    return "loss ≥ 0 and every component in [−1, 1] without any tolerance; sum and norm up to rounding"


def _nodes() -> dict[str, tuple[Callable[..., torch.Tensor], list[torch.Tensor]]]:
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([0, 2, 1, 1])
    away = torch.tensor([[-2.0, -0.3, 0.2], [0.7, 1.5, -1.0]], dtype=torch.float64).requires_grad_()

    def inputs(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
        return [normal(generator, *shape).requires_grad_() for shape in shapes]

    return {
        "dense": (functional.dense, inputs((4, 3), (5, 3), (5,))),
        "dense without a bias": (functional.dense, inputs((4, 3), (5, 3))),
        "softmax": (functional.softmax, inputs((4, 3))),
        "cross-entropy": (lambda s: functional.cross_entropy(s, labels, reduction="none"), inputs((4, 3))),
        "mlp": (
            lambda x, w, b, v, c: functional.mlp(x, [(w, b), (v, c)], "gelu"),
            inputs((4, 3), (5, 3), (5,), (2, 5), (2,)),
        ),
        **{name: (partial(functional.activate, activation=name), [away]) for name in ACTIVATIONS},
    }


@checked(OURS, f"on {len(_nodes())} nodes of 6 to 25 numbers", rests_on=(rests_on.GRADCHECK, rests_on.TORCH))
def gradcheck() -> str:
    """every autograd node's backward is the derivative of its forward."""
    for name, (function, inputs) in _nodes().items():
        passes_gradcheck(name, function, inputs)
    return "every entry of every Jacobian"
