"""The repro bundle of a training step whose check failed: written to a file, reproduced with the code now installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.step_audit import AuditResult, StepAudit
from lean_mnist.crosscheck.bundle import STEP, envelope, write_bundle
from lean_mnist.errors import CheckpointError
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.quantized import network_of
from lean_mnist.nn.step import Batch, StepTape, put_gradients

REPEATS = 4  # of the step, to see that it repeats itself
_DAMAGED = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError, StopIteration, AssertionError)


def save_step_bundle(
    path: Path,
    *,
    number: int,
    model: MLP,
    batches: Sequence[Batch],
    tapes: Sequence[StepTape],
    past: Sequence[StepTape],
    loss: Tensor,
    message: str,
    seed: int,
    config: Mapping[str, Any],
) -> None:
    """Write all that step ``number`` was computed from, and the gradients in ``.grad``, whole or not at all.

    Args:
        past: tapes of the calls before the step, whose batches are kept for faults that carry over from call to call.
        message: of the failed check.
        seed: of the run, from which the randomised check draws its probes as well.

    Raises ``OSError`` if it cannot be written.
    """
    content = {
        **envelope(STEP),
        "step": number,
        "message": message,
        "architecture": model.architecture,
        "loss_options": {"label_smoothing": model.label_smoothing, "logit_penalty": model.logit_penalty},
        "weights": {name: _own(p) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: None if p.grad is None else _own(p.grad) for name, p in model.named_parameters()},
        "loss": _own(loss),
        "batches": [{"x": _own(x), "labels": _own(y)} for x, y in batches],
        "past": [{"x": _own(call.inputs[0]), "labels": _own(call.labels_B)} for call in past],
        # Of the tapes; inputs of layers are the batch and follow from the pre-activations.
        "computed": [
            {
                "pre_activations": [_own(z) for z in tape.pre_activations],
                "d_pre_activations": [None if d is None else _own(d) for d in tape.d_pre_activations],
            }
            for tape in tapes
        ],
        "seeds": {"run": seed, "screen": seed},
        "config": dict(config),
    }
    write_bundle(path, content)


def _own(tensor: Tensor) -> Tensor:
    """A copy that brings no larger storage with it and opens on any machine."""
    return tensor.detach().cpu().clone()


@dataclass(frozen=True)
class ReproducedStep:
    """The step of a bundle computed today: verdicts of the checks, and differences from the recorded gradients."""

    step: int
    recorded: str  # the message of the failure
    audit: AuditResult
    randomised: str  # why the randomised check refuses it; empty if it does not
    repeats: bool  # the same bits every time
    differing: Mapping[str, float]  # by tensor, the largest difference from the recorded gradient; empty if none

    @property
    def ok(self) -> bool:
        """True if the step passes every check now."""
        return self.audit.passed and not self.randomised and self.repeats

    def __str__(self) -> str:
        if not self.differing:
            today = "today's gradients equal the recorded ones bit for bit"
        else:
            said = ", ".join(f"{name} by up to {size:.3g}" for name, size in self.differing.items())
            today = f"today's gradients differ from the recorded ones: {said}"
        if self.ok:
            verdict = f"mended: the gradients of step {self.step} now agree with the reference, in {REPEATS} runs"
        else:
            again = "" if self.repeats else f"the same step, run {REPEATS} times, gives different gradients"
            found = "; ".join(filter(None, [self.audit.message, self.randomised, again]))
            verdict = f"FAILED at step {self.step}: {found}"
        return f"{today}\n{verdict}"


def reproduce_step(path: Path, content: Mapping[str, Any]) -> ReproducedStep:
    """Compute the step of a bundle again, after the calls that came before it, and check it as a run does.

    Raises ``CheckpointError`` if the content is damaged.
    """
    try:
        model, batches, past, recorded = _restored(content)
        number, seed, message = int(content["step"]), int(content["seeds"]["screen"]), str(content["message"])
        runs = [_run(model, batches, past) for _ in range(REPEATS)]
    except _DAMAGED as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: a damaged bundle ({type(error).__name__}: {text})") from None
    first, last = runs[0], runs[-1]
    repeats = all(_same(a, b) for run in runs for a, b in zip(run.gradients, first.gradients, strict=True))
    audit = StepAudit(model).check(
        batches, last.loss, compare_gradients=True, gradcheck=True, tapes=last.tapes, past=last.past
    )
    step = ComputedStep.of(model, batches, last.tapes, last.loss)
    randomised = RandomisedCheck(seed, per_row_every=1).check(number, step)
    differing: dict[str, float] = {}
    for (name, _), ours in zip(model.named_parameters(), first.gradients, strict=True):
        before = recorded[name]
        if before is None or ours.shape != before.shape:
            differing[name] = math.nan
        elif not _same(ours, before):
            differing[name] = float((ours.double() - before.double()).abs().max())
    return ReproducedStep(number, message, audit, "; ".join(map(str, randomised.failures)), repeats, differing)


class _Run(NamedTuple):
    loss: Tensor
    gradients: list[Tensor]
    tapes: list[StepTape]
    past: list[StepTape]


def _run(model: MLP, batches: Sequence[Batch], past: Sequence[Batch]) -> _Run:
    """The step, its gradients left in ``.grad``, after the calls that came before it."""
    tapes = [tape for batch in past for tape in put_gradients(model, [batch]).tapes]
    result = put_gradients(model, batches)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return _Run(result.loss, gradients, result.tapes, tapes)


def _restored(content: Mapping[str, Any]) -> tuple[MLP, list[Batch], list[Batch], dict[str, Tensor | None]]:
    """The network in the trainer's memory layout, the step's batches, those before it, and the recorded gradients."""
    weights, options = content["weights"], content["loss_options"]
    model = network_of(
        content["architecture"],
        label_smoothing=options["label_smoothing"],
        logit_penalty=options["logit_penalty"],
        dtype=next(iter(weights.values())).dtype,
    )
    model.load_state_dict(weights)
    # As the trainer keeps them, column by column: products in another layout differ in their last bits.
    FlatParameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(content["requires_grad"][name])
    recorded = {name: content["gradients"][name] for name, _ in model.named_parameters()}
    batches, past = ([(batch["x"], batch["labels"]) for batch in content[key]] for key in ("batches", "past"))
    if not batches:
        raise ValueError("no batch")
    return model, batches, past, recorded


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())
