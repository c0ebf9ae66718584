"""A short training run in which every condition occurs that a training step can show, checked as a run is checked.

A network learns the digits of scikit-learn. A few steps are not ordinary, so that each condition holds at some: batches
accumulated, ragged, of one, as large as a layer is wide, units at or just above their kink, an outlier.
"""

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.rounding import unit_of
from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.data.datasets import load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import generator_for
from lean_mnist.mutants.planting import Plant
from lean_mnist.mutants.situations import NetworkSpec
from lean_mnist.nn import MLP
from lean_mnist.nn.step import RING_DEPTH, Batch, Gradients, StepResult, StepTape, compute_gradients, put_gradients
from lean_mnist.nn.update import Update

STEPS = 120
EXAMPLES = 224  # few enough to be learnt by heart within the run, so that it ends late in training
BATCH = 32
AUDIT_EVERY = 10
GRADCHECK_EVERY = 100
WRONG_ULPS = 16.0  # how far a gradient must be off to count as wrong, in units of rounding, relative to its norm
LEARNING_RATE, MOMENTUM, CLIP_NORM = 0.05, 0.9, 1.0

ACCUMULATED, RAGGED, ONE, SQUARE, PRUNED, NEAR_KINK, OUTLIER = 4, 5, 6, 7, 8, 9, 10  # the steps that are not ordinary


class CheckFailure(NamedTuple):
    """The checks that refused, the message of the first of them in one line, and the class that was diagnosed."""

    checks: tuple[str, ...]
    message: str
    kind: Kind | None = None


@dataclass(frozen=True)
class CheckedRun:
    """A checked training run."""

    shown_at: int | None  # the first step at which a gradient was wrong, known of a planted mutant only
    failure: CheckFailure | None  # the first of a check
    first: dict[str, int]  # step at which each check that failed did so
    steps: int  # the number of the last
    loss: float  # there


@functools.cache
def _digits() -> Batch:
    digits = load_digits()
    images, labels = digits.train.images[:EXAMPLES], digits.train.labels[:EXAMPLES]
    return Normalization.fit("standard", images, digits.maximum).apply(images), labels


def train_and_check(
    plant: Plant | None,
    network: NetworkSpec,
    *,
    seed: int = 0,
    steps: int = STEPS,
    dtype: torch.dtype = torch.float32,
    stop: Literal["any", "screen"] = "any",
) -> CheckedRun:
    """Train ``network``, the screen at every step, the audit at the first and every ``AUDIT_EVERY``-th.

    With a ``plant`` (see :func:`planting.planted`) each step's gradients are also computed with the fault suspended,
    to know the first step at which it shows. ``stop`` says which check ends the run when it fails; as the gate does,
    any.
    """
    model = network.build(seed, dtype)
    update = Update(model, torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM), CLIP_NORM)
    checks = StepChecks(model, seed)
    shown_at, failure, loss, number = None, None, torch.zeros(()), 0
    first: dict[str, int] = {}
    for number, batches in enumerate(_batches(network, seed, steps, dtype), start=1):
        _disturb(number, model)
        right = None
        if plant is not None and shown_at is None:
            with plant.suspended():
                right = compute_gradients(model, batches).gradients
        step = put_gradients(model, batches)
        loss = step.loss
        if right is not None and _differ(step.gradients, right):
            shown_at = number
        failed = checks.check(number, batches, step)
        if failed is not None:
            failure = failure or failed
            first = {**dict.fromkeys(failed.checks, number), **first}
        if (stop == "any" and first) or stop in first:
            break
        update.apply(LEARNING_RATE)
    return CheckedRun(shown_at, failure, first, number, float(loss))


def _batches(network: NetworkSpec, seed: int, steps: int, dtype: torch.dtype) -> Iterator[list[Batch]]:
    x, labels = _digits()
    generator = generator_for(seed, "selftest", 0)
    width = network.sizes[1]
    sizes = {ACCUMULATED: 2 * BATCH, RAGGED: 29, ONE: 1, SQUARE: width}
    order = torch.empty(0, dtype=torch.int64)
    for number in range(1, steps + 1):
        size = sizes.get(number, BATCH)
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        chosen, order = order[:size], order[size:]
        batch_x, batch_y = x[chosen].to(dtype), labels[chosen]
        if number == OUTLIER:  # twice, under two labels, so that the network is wrong about one of them
            batch_x[:2] = 1000 * batch_x[0]
            batch_y[1] = (batch_y[0] + 1) % 10
        parts = (37, size - 37) if number == ACCUMULATED else (size,)  # unequal, so that no share is a round number
        yield list(zip(batch_x.split(parts), batch_y.split(parts), strict=True))


@torch.no_grad()
def _disturb(number: int, model: MLP) -> None:
    weight, bias = model.weights_and_biases()[0]
    unit = {PRUNED: 0, NEAR_KINK: 1}.get(number)
    if unit is not None:
        weight[unit] = 0
        if bias is not None:
            bias[unit] = 0 if number == PRUNED else 5e-4


def _differ(found: Gradients, right: Gradients) -> bool:
    pairs = [(f, r) for ours, rights in zip(found, right, strict=True) for f, r in zip(ours, rights, strict=True)]
    return any(
        r is not None and f is not None and not float((f - r).norm()) <= WRONG_ULPS * unit_of(r) * float(r.norm())
        for f, r in pairs
    )


class StepChecks:
    """The checks of a run: the screen at every step, the audit at the first and every ``AUDIT_EVERY``-th."""

    def __init__(self, model: MLP, seed: int) -> None:
        self._model = model
        self._randomised, self._audit = RandomisedCheck(seed), StepAudit(model)
        self._past: deque[StepTape] = deque(maxlen=RING_DEPTH)

    def check(self, number: int, batches: list[Batch], step: StepResult) -> CheckFailure | None:
        """Check step ``number``, whose gradients are in ``.grad``; ``None`` if nothing fails."""
        screened = self._randomised.check(number, ComputedStep.of(self._model, batches, step.tapes, step.loss))
        past = tuple(self._past)
        self._past.extend(step.tapes)
        due = number == 1 or number % AUDIT_EVERY == 0
        if screened.passed and not due:
            return None
        audited = self._audit.check(
            batches,
            step.loss,
            compare_gradients=True,
            gradcheck=due and (number == 1 or number % GRADCHECK_EVERY == 0),
            tapes=step.tapes,
            past=past,
        )
        fault, gradcheck = audited.fault, audited.gradcheck
        compared = due and bool(audited.failed)
        perturbed = gradcheck is not None and not gradcheck.passed
        failed = {
            "screen": not screened.passed,
            "comparison": compared,
            "gradcheck": perturbed,
            "local checks": due and fault is not None and not (compared or perturbed),
        }
        if not any(failed.values()):
            return None
        message = audited.message if screened.passed else str(screened.failures[0])
        checks = tuple(name for name, fails in failed.items() if fails)
        return CheckFailure(checks, message, None if fault is None else fault.diagnosis.kind)
