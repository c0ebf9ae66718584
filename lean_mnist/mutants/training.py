"""A short real training run in which every condition occurs that a training step can show, checked as a run is checked.

The data are the digits that ship with scikit-learn. Most steps are ordinary; a few are not, so that each condition of
the corpus holds at some step: two batches accumulated, a ragged batch, a batch of one, a batch as large as a layer is
wide, a unit pruned to exact zeros, one that rests just above its kink, an outlier that saturates everything.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.screen import StepScreen
from lean_mnist.audit.training_check import TrainingCheck
from lean_mnist.data.datasets import load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.seeding import generator_for
from lean_mnist.mutants.conditions import Network
from lean_mnist.mutants.planting import Plant
from lean_mnist.nn import MLP
from lean_mnist.nn.step import RING_DEPTH, StepTape, names_of, put_gradients

STEPS = 120
EXAMPLES = 224  # few enough to be learnt by heart within the run, so that it ends late in training
BATCH = 32
AUDIT_EVERY = 10
GRADCHECK_EVERY = 100
WRONG_ULPS = 16.0  # how far a gradient must be off to count as wrong, in units of rounding, relative to its norm
LEARNING_RATE, MOMENTUM, CLIP_NORM = 0.05, 0.9, 1.0

ACCUMULATED, RAGGED, ONE, SQUARE, PRUNED, NEAR_KINK, OUTLIER = 4, 5, 6, 7, 8, 9, 10  # the steps that are not ordinary

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Finding:
    """What checks said of a step: which of them failed, what the first one that did says, and the class diagnosed."""

    step: int
    checks: tuple[str, ...]
    message: str
    kind: str = ""


@dataclass(frozen=True)
class Run:
    """A checked training run: when a gradient first was wrong, when a check first failed, and where it ended.

    ``first`` holds, for each check that failed, the first step at which it did.
    """

    shown_at: int | None
    finding: Finding | None
    first: dict[str, int]
    steps: int
    loss: float


@functools.cache
def _digits() -> Batch:
    digits = load_digits()
    images, labels = digits.train.images[:EXAMPLES], digits.train.labels[:EXAMPLES]
    return Normalization.fit("standard", images, digits.maximum).apply(images), labels


def train_and_check(
    plant: Plant | None,
    network: Network,
    *,
    seed: int = 0,
    steps: int = STEPS,
    audit_every: int = AUDIT_EVERY,
    dtype: torch.dtype = torch.float32,
    stop: Literal["any", "screen", "never"] = "any",
) -> Run:
    """Train ``network`` with the screen at every step and the audit at the first and every ``audit_every``-th
    (0: never).

    With a ``plant`` (see :func:`planting.planted`) each step's gradients are also computed with the fault suspended,
    to know the first step at which it shows. ``stop`` says which check ends the run when it fails; as the gate does,
    any.
    """
    model = network.build(seed, dtype)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    rule = NetworkLoss(model.activation, model.label_smoothing, model.logit_penalty)
    screen, audit = StepScreen(rule, seed), TrainingCheck(model)
    shown_at, finding, loss, number = None, None, torch.zeros(()), 0
    first: dict[str, int] = {}
    past: deque[StepTape] = deque(maxlen=RING_DEPTH)
    for number, batches in enumerate(_batches(network, seed, steps, dtype), start=1):
        _disturb(number, model)
        right = None
        if plant is not None and shown_at is None:
            with plant.suspended():
                right = _step(model, batches)[0]
        found, loss, tapes = _step(model, batches)
        if right is not None and _differ(found, right):
            shown_at = number
        for parameter, gradient in zip(model.parameters(), found, strict=True):
            parameter.grad = gradient
        failed = _check(number, model, batches, loss, tapes, screen, audit, audit_every, tuple(past))
        past.extend(tapes)
        if failed is not None:
            finding = finding or failed
            first = {**dict.fromkeys(failed.checks, number), **first}
        if (stop == "any" and first) or stop in first:
            break
        clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
    return Run(shown_at, finding, first, number, float(loss))


def _batches(network: Network, seed: int, steps: int, dtype: torch.dtype) -> Iterator[list[Batch]]:
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


def _step(model: MLP, batches: list[Batch]) -> tuple[list[Tensor], Tensor, list[StepTape]]:
    """Gradients of the mean loss over all examples, that loss, and the tapes; computed as the trainer does."""
    model.zero_grad(set_to_none=True)
    mean, _, tapes = put_gradients(model, batches)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return gradients, mean, tapes


def _differ(found: list[Tensor], right: list[Tensor]) -> bool:
    wrong = WRONG_ULPS * torch.finfo(right[0].dtype).eps / 2
    return any(not float((f - r).norm()) <= wrong * float(r.norm()) for f, r in zip(found, right, strict=True))


def _check(
    number: int,
    model: MLP,
    batches: list[Batch],
    loss: Tensor,
    tapes: list[StepTape],
    screen: StepScreen,
    audit: TrainingCheck,
    audit_every: int,
    past: Sequence[StepTape] = (),
) -> Finding | None:
    layers = model.weights_and_biases()
    gradients = [(w.grad, None if b is None else b.grad) for w, b in layers]
    labels = [y for _, y in batches]
    screened = screen.check(number, names_of(model), layers, gradients, tapes, labels, loss)
    due = bool(audit_every) and (number == 1 or number % audit_every == 0)
    if screened.passed and not due:
        return None
    checks, messages = [], []
    if not screened.passed:
        checks.append("screen")
        messages += [str(failure) for failure in screened.failures]
    result = audit.check(
        torch.cat([x for x, _ in batches]), torch.cat(labels), loss, compare_gradients=True,
        gradcheck=due and (number == 1 or number % GRADCHECK_EVERY == 0), tapes=tapes, past=past,
    )  # fmt: skip
    if due:
        if not all(divergence.passed for divergence in result.divergences):
            checks.append("comparison")
        if result.gradcheck is not None and not result.gradcheck.passed:
            checks.append("gradcheck")
        if result.fault is not None and checks in ([], ["screen"]):
            checks.append("links")
        messages += [result.message] if result.message else []
    kind = result.fault.diagnosis.kind if result.fault is not None else ""
    return Finding(number, tuple(checks), messages[0], kind) if checks else None
