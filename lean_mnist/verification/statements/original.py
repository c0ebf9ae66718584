"""Statements of LEAN_mnist that are false, with counterexamples, and statements that hold trivially.

Its formulas are reproduced here in a few lines because it is they that are refuted; nothing else uses them.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import sympy
import torch

from lean_mnist.chainrule import activations, losses
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.model import Method, NotEstablished, Refuted, Statements, Truth, Vacuous
from lean_mnist.verification.statements.gradients import LEAN

OBLIGATIONS = Statements(
    "original", "False statements of the original", rests_on.LIBM, rests_on.TORCH, method=Method.FLOATS
)
false = partial(OBLIGATIONS, scope="by counterexample", expected=Truth.REFUTED)


def their_log_sum_exp(x: Sequence[float]) -> float:
    """``logSumExp`` of ``VerifiedNN/Loss/CrossEntropy.lean``: it subtracts the mean of the logits, not the largest."""
    mean = sum(x) / len(x)
    return mean + math.log(sum(_exp(value - mean) for value in x))


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:  # Lean's Float.exp gives infinity
        return math.inf


def their_loss(logits: Sequence[float], target: int) -> float:
    """``crossEntropyLoss`` of the same file."""
    return -logits[target] + their_log_sum_exp(logits)


def _our_loss(logits: Sequence[float], target: int) -> float:
    s = torch.tensor([logits], dtype=torch.float64)
    loss_B, _ = losses.softmax_cross_entropy().forward(s, torch.tensor([target]))
    found = loss_B.item()
    if not 0 <= found < math.inf:
        raise NotEstablished(f"our own loss of {tuple(logits)} with target {target} is {found}")
    return found


@false("float_crossEntropy_preserves_nonneg")
def loss_nonnegative() -> str:
    """in floating point, their crossEntropyLoss ≥ 0 (axiom)."""
    logits, target = (61.0, -29.0, -57.0), 0
    theirs, ours = their_loss(logits, target), _our_loss(logits, target)
    if theirs < 0:
        raise Refuted("their loss is negative", f"logits {logits}, target {target}: {theirs:.2g}; ours {ours:.2g}")
    return f"their loss is {theirs}"


@false("logSumExp")
def log_sum_exp_stable() -> str:
    """their logSumExp does not overflow."""
    logits = (2000.0, 0.0, 0.0)
    theirs, ours = their_loss(logits, 0), _our_loss(logits, 0)
    if not math.isfinite(theirs):
        raise Refuted("their log-sum-exp overflows", f"logits {logits}, target 0: {theirs}; ours {ours:g}")
    return f"their loss is {theirs}"


@false(f"{LEAN}: training log")
def reported_loss() -> str:
    """the loss they report is the one they minimise, whose infimum is 0."""
    classes = 10
    logits = [1000.0, *[0.0] * (classes - 1)]
    probabilities, _ = losses.softmax_forward(torch.tensor([logits], dtype=torch.float64))
    reported, minimised = their_loss(probabilities[0].tolist(), 0), _our_loss(logits, 0)
    # Over p_k ≥ 0 with Σ p_k = 1, log Σ e^(p_k) − p_0 is least at p = (1, 0, …): by Jensen the others are best equal,
    # and what is left falls with p_0.
    floor = math.log(math.e + classes - 1) - 1
    if abs(reported - floor) < 1e-12 and minimised == 0:
        raise Refuted(
            "the reported loss of a perfect prediction is not 0",
            f"logits (1000, 0, …, 0), target 0: reported {reported:.4f} = log(e + 9) − 1, its least value; minimised 0",
        )
    return f"reported {reported}, minimised {minimised}"


@false("network_gradient_correct", method=Method.SYMBOLIC, rests_on=(rests_on.SYMPY,))
def covers_relu() -> str:
    """their network theorem, for σ differentiable everywhere, covers the ReLU network they train."""
    above, below = sympy.Symbol("t", positive=True), sympy.Symbol("t", negative=True)
    h, _ = activations.ACTIVATIONS["relu"].forward(np.array([above, below, sympy.Integer(0)], dtype=object))
    right, left = ((value - h[2]) / t for value, t in ((h[0], above), (h[1], below)))
    if right != left:
        raise Refuted("ReLU is not differentiable at 0", f"z = 0: slope {left} from the left, {right} from the right")
    return "both slopes agree"


def _axiom(source: str, *names: str) -> Vacuous:
    return Vacuous(source, "an axiom that concludes True", tuple(f"convergence.{name}" for name in names))


_DIMENSIONS = ("layer.forward-dimension", "layer.batch-dimension", "layer.composition-dimension")
VACUOUS = (
    Vacuous(
        "type_guarantees_dimension, vector_type_correct, matrix_type_correct, batch_type_correct",
        "conclude True",
        ("types.wrong-shapes", *_DIMENSIONS),
    ),
    Vacuous(
        "matvec_output_dimension, vadd_output_dimension, …, mlp_output_dimension, flatten_params_type_correct",
        "∃ r, r = f(x): true of every function",
        ("types.wrong-shapes", "types.wrong-upstream", *_DIMENSIONS),
    ),
    Vacuous(
        "forward_dimension_typesafe, forwardBatch_dimension_typesafe, composition_dimension_typesafe, …",
        "f(x) = f(x)",
        _DIMENSIONS,
    ),
    Vacuous(
        "flatten_unflatten_left_inverse, unflatten_flatten_right_inverse",
        "rest on axioms and sorry",
        ("types.round-trip", "types.layout"),
    ),
    _axiom("sgd_converges_strongly_convex", "sgd-strongly-convex", "sgd-enumerated"),
    _axiom("sgd_converges_convex", "sgd-convex", "sgd-convex-enumerated", "gd-convex", "gd-quadratic"),
    _axiom("sgd_finds_stationary_point_nonconvex", "sgd-stationary", "sgd-stationary-enumerated"),
    _axiom("batch_size_reduces_variance", "batch-variance"),
    Vacuous(
        "cross_entropy_softmax_gradient_correct",
        "the loss is differentiable; not that its gradient is p − onehot(y)",
        ("gradient.cross-entropy", "tensors.loss"),
    ),
    Vacuous(
        "network_gradient_correct",
        "the loss is differentiable in the input, for σ differentiable everywhere: nothing of parameters, "
        "of the gradient's value, of ReLU or of the manual backward",
        ("gradient.network", "gradient.network-exact", "gradient.network-gradcheck", "gradient.network-full-size"),
    ),
)
"""Theorems and axioms whose conclusion says less than their names, and the obligations that say it here."""
