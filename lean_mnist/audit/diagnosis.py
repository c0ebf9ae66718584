"""The first local check of a step that fails, and why: the likely class of the fault, for a person to read."""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lean_mnist.audit.candidates import explanations
from lean_mnist.audit.gradcheck_piece import UPSTREAM, cut_piece
from lean_mnist.audit.local_checks import ComputedStep, Identity, LocalCheck, ProductCheck, local_checks
from lean_mnist.audit.logits import LogitsTerms
from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.rounding import Residual
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.crosscheck.diagnosis import Basis, Diagnosis, Kind, diagnose
from lean_mnist.nn import functional
from lean_mnist.nn.step import Layers, StepResult, StepTape


@dataclass(frozen=True)
class StepFault:
    """The first local check that fails: of which tensor, what should hold, and the diagnosis."""

    tensor: str
    identity: str  # in words; empty where the fault is known from the reference only
    diagnosis: Diagnosis

    def __str__(self) -> str:
        d = self.diagnosis
        place = ", ".join(map(str, d.index))
        return f"{self.brief} at [{place}] {d.ours:.9g} instead of {d.reference:.9g}"

    @property
    def brief(self) -> str:
        """The fault in words, without the values at its place."""
        d, identity = self.diagnosis, f", {self.identity}" if self.identity else ""
        return f"likely {d.kind} in {self.tensor}{identity}: {d.text} ({d.where})"


@torch.no_grad()
def first_fault(step: ComputedStep) -> StepFault | None:
    """The first local check of ``step`` that fails, explained; ``None`` if all hold."""
    for place, check in enumerate(local_checks(step)):
        found = check.residual()
        if not found.share <= 1:  # also NaN
            return StepFault(check.tensor, check.identity.value, _explain(step, place, check, found))
    return None


def _explain(step: ComputedStep, place: int, check: LocalCheck, residual: Residual) -> Diagnosis:
    if isinstance(check, ProductCheck) and not check.parts:
        return Diagnosis(Kind.ZERO, "there is no gradient", "everywhere", (), 0.0, torch.nan)
    examples = [len(tape.labels_B) for tape in (*step.tapes, *step.past)]
    sizes = (*examples, sum(examples[: len(step.tapes)]), *(n for weight, _ in step.layers for n in weight.shape))
    found = diagnose(check.ours, residual.exact, tolerance=residual.allowed, sizes=sizes, **explanations(check, step))
    if found.kind in (Kind.NAN, Kind.STALE_VALUE) or found.basis is Basis.IDENTIFIED:
        return found  # it is known whose value this is, whatever another run gives
    repeated = _repeated(step, place, check)
    if repeated is not None and _differ(check, residual, repeated):
        text = f"the same backward, run again, gives another result; this time: {found.text}"
        return replace(found, kind=Kind.NONDETERMINISM, text=text)
    if check.identity is Identity.LOGITS and found.kind in (Kind.MISSING_TERM, Kind.PRECISION, Kind.WRONG_VALUES):
        return _by_probabilities(step, check, residual, found)
    return found


def _repeated(step: ComputedStep, place: int, check: LocalCheck) -> Tensor | None:
    """The same tensor when the step is computed again; NaN if it raises this time; ``None`` where it cannot be."""
    if step.again is None or check.identity in (Identity.FORWARD, Identity.ACTIVATION, Identity.LOSS):
        return None
    try:
        result = step.again()
        again = list(local_checks(replace(step, gradients=result.gradients, tapes=result.tapes)))[place]
    except (RuntimeError, ValueError, IndexError):
        return torch.full_like(check.ours, torch.nan)
    return again.ours


def _by_probabilities(step: ComputedStep, check: LocalCheck, residual: Residual, found: Diagnosis) -> Diagnosis:
    """``found``, unless the probabilities that the gradient of the logits implies say more."""
    terms = LogitsTerms.of(step.rule, step.tapes[check.batch])
    ours, exact = (d / terms.scale + terms.q - terms.penalty * terms.s for d in (check.ours.double(), residual.exact))
    slack = float(residual.allowed.amax() * (ours - exact).norm() / (check.ours.double() - residual.exact).norm())
    view = diagnose(ours, exact, tolerance=slack)
    if view.kind is Kind.CLIPPING:
        return replace(found, kind=view.kind, text=f"as if the probabilities were {view.text}")
    if found.basis is Basis.VAGUE and bool((ours >= -slack).all()) and bool(((ours.sum(1) - 1).abs() <= 1e-4).all()):
        p, right = float(ours[found.index]), float(exact[found.index])
        text = f"as if with other probabilities than softmax's, {p:.4g} instead of {right:.4g}"
        return replace(found, kind=Kind.DERIVATIVE, text=text)
    return found


def _differ(check: LocalCheck, residual: Residual, repeated: Tensor) -> bool:
    """True if ``repeated`` differs from the first result by more than another order of summation may change."""
    if torch.equal(repeated, check.ours):
        return False
    return repeated.shape == check.ours.shape and bool(
        ((repeated.double() - check.ours.double()).abs() > 0.1 * residual.allowed).any()
    )


def explain_gradcheck(loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor) -> StepFault | None:
    """The fault of the piece that gradcheck was run on; ``None`` if nothing can be told.

    The piece is called as gradcheck calls it, and after two other calls, so that stale values of those show.
    """
    piece = cut_piece(loss, layers, x_BD, labels_B)
    if piece is None:
        return None
    x, labels, cut = piece
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        return tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device))

    past = []
    for _ in range(2):
        other = [(moved(weight), None if bias is None else moved(bias)) for weight, bias in cut]
        past.extend(_call_piece(loss, other, moved(x), labels.roll(1)).tapes)
    again = functools.partial(_call_piece, loss, cut, x, labels)
    _, gradients, tapes = again()
    return first_fault(ComputedStep(loss, cut, gradients, tapes, past=past, again=again))


@torch.enable_grad()
def _call_piece(loss: NetworkLoss, layers: Layers, x: Tensor, labels: Tensor) -> StepResult:
    own = [(w.detach().requires_grad_(), None if b is None else b.detach().requires_grad_()) for w, b in layers]
    tape, rule = StepTape(labels, UPSTREAM, layers), softmax_cross_entropy(loss.label_smoothing, loss.logit_penalty)
    value = functional.mlp_loss(x.detach().requires_grad_(), labels, own, loss.activation, rule, "mean", tape)
    value.backward(torch.full_like(value, UPSTREAM))
    return StepResult(value.detach(), [(w.grad, None if b is None else b.grad) for w, b in own], [tape])
