"""The repro bundle of a training step whose check failed: written to a file, reproduced with the code now installed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import to_builtins
from torch import Tensor

from lean_mnist.audit.local_checks import ComputedStep
from lean_mnist.audit.randomised import RandomisedCheck
from lean_mnist.audit.step_audit import AuditResult, StepAudit
from lean_mnist.crosscheck.bundles.bundle import STEP, envelope, write_bundle
from lean_mnist.errors import CheckpointError
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.saved import saved_network
from lean_mnist.nn.step import Batch, Step, StepResult, StepTape, put_gradients
from lean_mnist.reading.schema import Count, Fields, checked
from lean_mnist.reading.text import printable, shown

REPEATS = 4  # of the step, to see that it repeats itself


def save_step_bundle(path: Path, step: Step, message: str, seed: int, config: Mapping[str, Any]) -> None:
    """Write all that ``step`` was computed from, and the gradients in ``.grad``, whole or not at all.

    With it go the batches of the calls before, the ``message`` of the failed check, and the run's ``seed``, from which
    the randomised check draws its probes. Raises ``OSError``.
    """
    model = step.model
    content = {
        **envelope(STEP),
        "step": step.number,
        "message": message,
        "architecture": model.architecture,
        "loss_options": {"label_smoothing": model.label_smoothing, "logit_penalty": model.logit_penalty},
        "weights": {name: _own(p) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: None if p.grad is None else _own(p.grad) for name, p in model.named_parameters()},
        "loss": _own(step.loss),
        "batches": [{"x": _own(x), "labels": _own(y)} for x, y in step.batches],
        "past": [{"x": _own(call.inputs[0]), "labels": _own(call.labels_B)} for call in step.past],
        # Of the tapes; inputs of layers are the batch and follow from the pre-activations.
        "computed": [
            {
                "pre_activations": [_own(z) for z in tape.pre_activations],
                "d_pre_activations": [None if d is None else _own(d) for d in tape.d_pre_activations],
            }
            for tape in step.tapes
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
        said = ", ".join(f"{name} by up to {size:.3g}" for name, size in self.differing.items())
        differ = f"differ from the recorded ones: {said}" if said else "equal the recorded ones bit for bit"
        today = f"today's gradients {differ}"
        if self.ok:
            verdict = f"mended: the gradients of step {self.step} now agree with the reference, in {REPEATS} runs"
        else:
            again = "" if self.repeats else f"the same step, run {REPEATS} times, gives different gradients"
            found = "; ".join(filter(None, [self.audit.message, self.randomised, again]))
            verdict = f"FAILED at step {self.step}: {found}"
        return f"{today}\n{verdict}"


def reproduce_step(path: Path, content: Mapping[str, Any]) -> ReproducedStep:
    """Compute the step of a bundle again, after the calls before it, and check it; raises ``CheckpointError``."""
    where = f"{shown(path)}: a damaged bundle"
    model, batches, before = _restored(content, where)
    recorded: dict[str, Tensor | None] = content["gradients"]
    number, seed, message = content["step"], content["seeds"]["screen"], printable(content["message"], 2000)
    runs = [_run(model, batches, before) for _ in range(REPEATS)]
    gradients = [found for *_, found in runs]
    names = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    repeats = all(_same(a, b) for again in gradients for a, b in zip(again, gradients[0], strict=True))
    (loss, _, tapes), past, _ = runs[-1]  # whose gradients stand in .grad
    audit = StepAudit(model).check(batches, loss, compare_gradients=True, gradcheck=True, tapes=tapes, past=past)
    step = ComputedStep.of(model, batches, tapes, loss)
    randomised = RandomisedCheck(seed, per_row_every=1).check(number, step)
    differing: dict[str, float] = {}
    for name, ours in zip(names, gradients[0], strict=True):
        theirs = recorded[name]
        if theirs is None:
            differing[name] = math.nan
        elif not _same(ours, theirs):
            differing[name] = float((ours.double() - theirs.double()).abs().max())
    return ReproducedStep(number, message, audit, "; ".join(map(str, randomised.failures)), repeats, differing)


def _run(
    model: MLP, batches: Sequence[Batch], before: Sequence[Batch]
) -> tuple[StepResult, list[StepTape], list[Tensor]]:
    """The step, its gradients left in ``.grad``; tapes of the calls that came before it; a copy of the gradients."""
    past = [tape for batch in before for tape in put_gradients(model, [batch]).tapes]
    return put_gradients(model, batches), past, [p.grad.clone() for p in model.parameters() if p.grad is not None]


class _LossOptions(Fields):
    label_smoothing: float
    logit_penalty: float


class _Seeds(Fields):
    run: Count
    screen: Count


def _restored(content: Mapping[str, Any], where: str) -> tuple[MLP, list[Batch], list[Batch]]:
    """The network in the trainer's memory layout, the step's batches, and those before it."""
    checked(content["seeds"], _Seeds, where, "seeds", CheckpointError)
    options = checked(content["loss_options"], _LossOptions, where, "loss_options", CheckpointError)
    model = saved_network(
        content["architecture"], content["weights"], where, CheckpointError, finite=False, **to_builtins(options)
    )
    # As the trainer keeps them, column by column: products in another layout differ in their last bits.
    FlatParameters(model)
    needs, gradients = content["requires_grad"], content["gradients"]
    for name, parameter in model.named_parameters():
        gradient = gradients.get(name)
        fits = gradient is None or (isinstance(gradient, Tensor) and gradient.shape == parameter.shape)
        if name not in needs or name not in gradients or not fits:
            raise CheckpointError(f"{where}: {name}: expected its gradient, and whether it needs one")
        parameter.requires_grad_(needs[name])
    batches, past = ([_batch(batch, model, where) for batch in content[key]] for key in ("batches", "past"))
    if not batches:
        raise CheckpointError(f"{where}: batches: expected at least one")
    return model, batches, past


def _batch(batch: dict[str, Any], model: MLP, where: str) -> Batch:
    x, labels = batch.get("x"), batch.get("labels")
    dtype = next(model.parameters()).dtype
    if not isinstance(x, Tensor) or not isinstance(labels, Tensor):
        raise CheckpointError(f"{where}: batches: expected x and labels")
    fits = (x.dtype, labels.dtype, labels.dim()) == (dtype, torch.int64, 1) and len(labels) > 0
    if not fits or x.shape != (len(labels), model.sizes[0]):
        raise CheckpointError(f"{where}: batches: expected x (B, {model.sizes[0]}) of {dtype} and B whole labels")
    if labels.min() < 0 or labels.max() >= model.sizes[-1]:
        raise CheckpointError(f"{where}: batches: expected labels from 0 to {model.sizes[-1] - 1}")
    return x, labels


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
