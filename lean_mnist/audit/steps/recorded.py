"""Steps as they were computed, put together for a diagnosis: the trainer's own, and gradcheck's piece of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.steps.diagnosis import StepFault, first_fault
from lean_mnist.audit.steps.record import Step
from lean_mnist.audit.subproblem import UPSTREAM, cut_subproblem
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.nn import MLP, functional
from lean_mnist.nn.step import (
    Batch,
    Layers,
    StepResult,
    StepTape,
    compute_gradients,
    gradients_of,
    layers_of,
    names_of,
    names_of_layers,
)


def recorded_step(
    model: MLP, loss: NetworkLoss, batches: Sequence[Batch], tapes: Sequence[StepTape], past: Sequence[StepTape] = ()
) -> Step:
    """The step whose gradients are in ``.grad`` and whose tapes are ``tapes``."""
    return Step(
        loss=loss,
        names=names_of(model),
        layers=layers_of(model),
        gradients=gradients_of(model),
        calls=tapes,
        past=past,
        again=lambda: compute_gradients(model, batches),
    )


def explain_gradcheck(loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor) -> StepFault | None:
    """What is wrong with the piece that gradcheck was run on; ``None`` if nothing can be told.

    The piece is called as gradcheck calls it, with an upstream gradient that is not 1, and after two other calls, so
    that what is left over from those shows.
    """
    piece = cut_subproblem(loss, layers, x_BD, labels_B)
    if piece is None:
        return None
    x, labels, cut = piece
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        return tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device))

    past = []
    for _ in range(2):
        other = [(moved(weight), None if bias is None else moved(bias)) for weight, bias in cut]
        turned = labels.roll(1)
        past.extend(_call(loss, other, moved(x), turned).tapes)

    def again() -> StepResult:
        return _call(loss, cut, x, labels)

    result = again()
    return first_fault(Step(loss, names_of_layers(cut), cut, result.gradients, result.tapes, past, again))


@torch.enable_grad()
def _call(loss: NetworkLoss, layers: Layers, x: Tensor, labels: Tensor) -> StepResult:
    own = [(w.detach().requires_grad_(), None if b is None else b.detach().requires_grad_()) for w, b in layers]
    wanted = [p for layer in own for p in layer if p is not None]
    tape, rule = StepTape(labels, UPSTREAM, layers), softmax_cross_entropy(loss.label_smoothing, loss.logit_penalty)
    value = functional.mlp_loss(x.detach().requires_grad_(), labels, own, loss.activation, rule, "mean", tape)
    found = iter(torch.autograd.grad(value, wanted, torch.full_like(value, UPSTREAM)))
    gradients: list[tuple[Tensor | None, Tensor | None]] = [
        (next(found), None if b is None else next(found)) for _, b in own
    ]
    return StepResult(value.detach(), gradients, [tape])
