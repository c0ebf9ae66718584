"""What was proved of formulas, on tensors: the primitives that PyTorch provides mean what the formulas mean.

The functions of ``chainrule`` run here twice on the same numbers: on tensors, and either on fractions, where whole
numbers let both be compared with ``==``, or on SymPy numbers of 60 digits.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

from lean_mnist.chainrule import activations, losses, mlp
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.nn import functional
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.exact import Network
from lean_mnist.verification.gradients import OURS
from lean_mnist.verification.model import Obligation, Refuted
from lean_mnist.verification.network import GRADCHECK_OPTIONS

DIGITS = 60
TINY = 2.2250738585072014e-308  # the smallest normal float64
POINTS = [
    *(sign * x for x in (1e-300, 1e-20, 1e-8, 0.1, 0.5, 1.0, 2.0, 3.7, 6.0, 9.0, 20.0, 40.0) for sign in (1.0, -1.0)),
    0.0,
]
RANDOM_POINTS = 100


def _points() -> list[float]:
    rng = random.Random(0)
    return [*POINTS, *(rng.gauss(0, 4) for _ in range(RANDOM_POINTS))]


def _precise(values: Any) -> np.ndarray:
    """The same numbers, exactly, as SymPy numbers of many digits, on which the chain rule's formulas can run."""
    array = np.asarray(values, dtype=object)
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        result[index] = sympy.Float(float(array[index]), DIGITS)
    return result


def _ulps(found: float, exact: Any, scale: float) -> float:
    """The error of ``found`` in units of rounding of numbers of size ``scale``."""
    unit = math.ulp(max(scale, TINY))
    return float(abs(sympy.Float(found, DIGITS) - sympy.N(exact, DIGITS)) / unit)


ELEMENTARY = ("exp", "tanh", "sigmoid", "erf", "log")
ELEMENTARY_ULPS = 4.0


def _elementary() -> str:
    largest = {}
    for name in ELEMENTARY:
        points = [p for p in _points() if p > 0] if name == "log" else _points()
        x = torch.tensor(points, dtype=torch.float64)
        found = getattr(primitives(x), name)(x)
        precise = _precise(points)
        exact = getattr(primitives(precise), name)(precise)
        errors = [_ulps(f, e, abs(float(e))) for f, e in zip(found.tolist(), exact, strict=True)]
        worst = max(range(len(errors)), key=errors.__getitem__)
        if not errors[worst] <= ELEMENTARY_ULPS:
            raise Refuted(f"{name} is off", f"{name}({points[worst]!r}) by {errors[worst]:.1f} units")
        largest[name] = errors[worst]
    return "largest error, units in the last place: " + ", ".join(f"{n} {e:.2f}" for n, e in largest.items())


ACTIVATION_ULPS = 8.0


def _activations() -> str:
    points, largest = _points(), 0.0
    x, precise = torch.tensor(points, dtype=torch.float64), _precise(points)
    for name, activation in activations.ACTIVATIONS.items():
        h, saved = activation.forward(x)
        exact_h, exact_saved = activation.forward(precise)
        d = activation.backward(saved, torch.full_like(x, 3.0))
        exact_d = activation.backward(exact_saved, _precise([3.0] * len(points)))
        for what, found, exact in (("value", h, exact_h), ("derivative", d, exact_d)):
            for point, one, other in zip(points, found.tolist(), exact, strict=True):
                # GELU's tail is a difference of numbers near |z|, and rounding is relative to them.
                error = _ulps(one, other, max(abs(float(other)), 1.0, abs(point)))
                largest = max(largest, error)
                if not error <= ACTIVATION_ULPS:
                    raise Refuted(f"the {what} of {name} is off", f"at {point!r}: {one!r} instead of {float(other)!r}")
    return f"largest error {largest:.2f} units in the last place of max(1, |z|)"


CROSS_ENTROPY_LOGITS = [
    (61.0, -29.0, -57.0), (2000.0, 0.0, 0.0), (-2000.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1e-300, 0.0, -1e-300),
    (700.0, 699.0, -700.0), (36.0, 0.0, -36.0), (1e6, -1e6, 0.0),
]  # fmt: skip
RANDOM_ROWS = 40
LOSS_ULPS = 8.0


def _logits() -> list[tuple[float, ...]]:
    rng = random.Random(1)
    return [*CROSS_ENTROPY_LOGITS, *(tuple(rng.gauss(0, 6) for _ in range(3)) for _ in range(RANDOM_ROWS))]


def _loss() -> str:
    loss, largest = losses.softmax_cross_entropy(), 0.0
    for row, label in itertools.product(_logits(), range(3)):
        s = torch.tensor([row], dtype=torch.float64)
        loss_B, tape = loss.forward(s, torch.tensor([label]))
        d_s = loss.backward(tape, torch.ones(1, dtype=torch.float64))
        with np.errstate(all="ignore"):  # NumPy looks at flags that mpmath's own arithmetic may leave set
            exact_loss, exact_tape = loss.forward(_precise([row]), np.array([label]))
            exact_d = loss.backward(exact_tape, _precise([1.0]))
        scale = max(1.0, max(map(abs, row)))  # the loss is a difference of logits
        pairs = [("loss", loss_B.item(), exact_loss[0], scale)]
        pairs += [("gradient", f, e, scale) for f, e in zip(d_s[0].tolist(), exact_d[0], strict=True)]
        for what, found, exact, size in pairs:
            error = _ulps(found, exact, size)
            largest = max(largest, error)
            if not error <= LOSS_ULPS:
                raise Refuted(f"the {what} is off", f"{found!r} instead of {float(exact)!r} at {row}, label {label}")
    return f"largest error {largest:.2f} units in the last place of the largest logit, (2000, 0, 0) among the cases"


BOUND_DTYPES = (torch.float64, torch.float32, torch.bfloat16)
BOUND_SCALES, BOUND_CLASSES, BOUND_ROWS = (0.0, 1e-6, 1.0, 30.0, 1e4), (1, 2, 10), 500
BOUND_CASES = len(BOUND_DTYPES) * len(BOUND_SCALES) * len(BOUND_CLASSES) * BOUND_ROWS + len(CROSS_ENTROPY_LOGITS) * 3


def _bound_batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for dtype, scale, classes in itertools.product(BOUND_DTYPES, BOUND_SCALES, BOUND_CLASSES):
        s = scale * torch.randn(BOUND_ROWS, classes, generator=generator, dtype=torch.float64)
        yield s.to(dtype), torch.randint(classes, (BOUND_ROWS,), generator=generator)
    for label in range(3):
        s = torch.tensor(CROSS_ENTROPY_LOGITS, dtype=torch.float64)
        yield s, torch.full((len(s),), label)


def _bounds() -> str:
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


WHOLE_NUMBERS = [
    (sizes, activation, dtype, seed)
    for sizes in ((3, 4, 2), (5, 4, 3, 3))
    for activation in ("relu", "identity")
    for dtype in (torch.float64, torch.float32)
    for seed in range(5)
]


def _whole_numbers() -> str:
    for sizes, name, dtype, seed in WHOLE_NUMBERS:
        network = Network.random(seed, sizes, name, 4)
        for array in (network.x, network.upstream, *(p for layer in network.layers for p in layer)):
            for index in np.ndindex(array.shape):  # −2 … 2, with 0, so that units stand on their kink, too
                array[index] = Fraction(math.floor(array[index]))
        tensors = [(_tensor(weight, dtype), _tensor(bias, dtype)) for weight, bias in network.layers]
        activation, loss = activations.activation_named(name), losses.squared_error()
        x, labels = _tensor(network.x, dtype), torch.from_numpy(network.labels)
        loss_B, tape = mlp.mlp_loss_forward(x, labels, tensors, activation, loss)
        upstream = _tensor(network.upstream, dtype)
        found = mlp.mlp_loss_backward(tape, tensors, activation, loss, upstream)
        exact_loss, _ = mlp.mlp_loss_forward(network.x, network.labels, network.layers, activation, loss)
        pairs = [("loss", loss_B, exact_loss)]
        flat = [found.x_BD, *(gradient for layer in found.layers for gradient in layer)]
        pairs += [(what, one, other) for one, (what, _, other) in zip(flat, network.gradients(), strict=True)]
        for what, one, other in pairs:
            if one.tolist() != other.astype(float).tolist():
                raise Refuted(f"{what} on tensors is not that on fractions", f"{sizes}, {name}, {dtype}, seed {seed}")
    return "forward and every gradient, equal with =="


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(array.astype(float), dtype=dtype)


def _gradcheck_cases() -> dict[str, tuple[Callable[..., torch.Tensor], list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    labels = torch.tensor([0, 2, 1, 1])
    away = torch.tensor([[-2.0, -0.3, 0.2], [0.7, 1.5, -1.0]], dtype=torch.float64).requires_grad_()
    cases: dict[str, tuple[Callable[..., torch.Tensor], list[torch.Tensor]]] = {
        "dense": (functional.dense, [normal(4, 3), normal(5, 3), normal(5)]),
        "dense without a bias": (functional.dense, [normal(4, 3), normal(5, 3)]),
        "softmax": (functional.softmax, [normal(4, 3)]),
        "cross-entropy": (lambda s: functional.cross_entropy(s, labels, reduction="none"), [normal(4, 3)]),
        "mlp": (
            lambda x, w, b, v, c: functional.mlp(x, [(w, b), (v, c)], "gelu"),
            [normal(4, 3), normal(5, 3), normal(5), normal(2, 5), normal(2)],
        ),
    }
    for name in activations.ACTIVATIONS:
        cases[name] = (lambda z, name=name: functional.activate(z, name), [away])
    return cases


def _gradcheck() -> str:
    for name, (function, inputs) in _gradcheck_cases().items():
        try:
            gradcheck(function, inputs, **GRADCHECK_OPTIONS)
        except GradcheckError as error:
            raise Refuted("gradcheck failed", f"{name}: {' '.join(str(error).split())}") from None
    return "every entry of every Jacobian"


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    points = len(POINTS) + RANDOM_POINTS
    rests = (rests_on.MPMATH, rests_on.TORCH, rests_on.CASES)
    return [
        Obligation(
            "tensors.elementary", f"exp, log, tanh, sigmoid and erf are within {ELEMENTARY_ULPS:.0f} ulp in float64",
            OURS, "property test", f"on {points} points each, from −40 to 40", rests, _elementary,
        ),
        Obligation(
            "tensors.activations", "each activation and its derivative, on float64 tensors, are the formulas", OURS,
            "property test", f"on {points} points, from −40 to 40, to {ACTIVATION_ULPS:.0f} ulp of max(1, |z|)", rests,
            _activations,
        ),
        Obligation(
            "tensors.loss", "cross-entropy and its gradient, on float64 tensors, are the formulas", OURS,
            "property test",
            f"on {3 * (RANDOM_ROWS + len(CROSS_ENTROPY_LOGITS))} rows, logits up to 1e6, to {LOSS_ULPS:.0f} ulp "
            "of the largest logit", rests, _loss,
        ),
        Obligation(
            "tensors.loss-bounds", "loss ≥ 0, |∂loss/∂s_k| ≤ 1, Σ_k ∂loss/∂s_k = 0, ‖∇loss‖ ≤ √2 in floating point",
            "loss_nonneg, loss_lower_bound", "property test",
            f"on {BOUND_CASES:,} rows in float64, float32 and bfloat16, logits up to about 4e4 and 1e6",
            (rests_on.TORCH, rests_on.CASES), _bounds,
        ),
        Obligation(
            "tensors.whole-numbers", "a network's loss and gradients on tensors are those on fractions", OURS,
            "exact rational", f"on {len(WHOLE_NUMBERS)} networks of whole numbers, float64 and float32",
            (rests_on.FRACTIONS, rests_on.IEEE, rests_on.CASES), _whole_numbers,
        ),
        Obligation(
            "tensors.gradcheck", "every autograd node's backward is the derivative of its forward", OURS, "gradcheck",
            f"on {len(_gradcheck_cases())} nodes of 6 to 25 numbers", (rests_on.GRADCHECK, rests_on.TORCH), _gradcheck,
        ),
    ]  # fmt: skip
