"""For each local check, the values that its tensor would have under known bugs, for the diagnosis of a failure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.local_checks import ComputedStep, Identity, LocalCheck, ProductCheck, there
from lean_mnist.audit.logits import LogitsTerms
from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.crosscheck.diagnosis import Candidate, Kind, Pointwise, Product
from lean_mnist.nn.step import RING_DEPTH, StepTape

_CALLS = ("the call before", "two calls before")
Explanations = Mapping[str, Any]  # keyword arguments of ``diagnose``


def explanations(check: LocalCheck, step: ComputedStep) -> Explanations:
    """All that may explain why ``check`` of ``step`` fails, as keyword arguments of ``diagnose``."""
    explain = _EXPLANATIONS.get(check.identity)
    return {} if explain is None else explain(step, check)


class Origin(NamedTuple):
    """Another place that a value may come from: so many calls before, and the layer."""

    shift: int
    layer: int

    def candidate(self, words: str, own: int, model: Tensor) -> Candidate:
        """The fault that took ``words`` of layer ``own`` from here, and what it gives."""
        return Candidate(Kind.STALE_VALUE if self.shift else Kind.SWAPPED_TENSORS, self.named(words, own), model)

    def named(self, words: str, own: int) -> str:
        """``words``, and whose."""
        layer = "" if self.layer == own else f" of layer {self.layer}"
        return f"{words}{layer}" + (f" of {_CALLS[self.shift - 1]}" if self.shift else "")


def _origins(step: ComputedStep, own: int) -> Iterator[Origin]:
    """The same layer in earlier calls, then other layers in this and earlier ones."""
    others = [layer for layer in range(len(step.layers)) if layer != own]
    for layer in (own, *others):
        for shift in range(0 if layer != own else 1, RING_DEPTH + 1):
            yield Origin(shift, layer)


def _call_at(step: ComputedStep, number: int, shift: int) -> StepTape | None:
    """The call so many before the ``number``-th of this step; ``None`` if it is not known any more."""
    calls, place = [*step.past, *step.tapes], len(step.past) + number - shift
    return calls[place] if place >= 0 and calls[place].pre_activations else None


def _calls_before(step: ComputedStep, number: int) -> Iterator[tuple[str, StepTape]]:
    """The calls before the ``number``-th of this step, the latest first, each with its name."""
    for shift, name in enumerate(_CALLS[:RING_DEPTH], start=1):
        if (call := _call_at(step, number, shift)) is not None:
            yield name, call


def _product_of(step: ComputedStep, of_d_z: Origin, of_h: Origin) -> Tensor | None:
    """``Σ dzᵀ h`` over this step's calls, with factors of other origins; ``None`` where there is no such thing."""
    parts = []
    for number in range(len(step.tapes)):
        sources = [_call_at(step, number, origin.shift) for origin in (of_d_z, of_h)]
        if sources[0] is None or sources[1] is None:
            return None
        d_z, h = there(sources[0].d_pre_activations, of_d_z.layer), there(sources[1].inputs, of_h.layer)
        if d_z is None or h is None or len(d_z) != len(h):
            return None
        parts.append(d_z.double().T @ h.double())
    return torch.stack(parts).sum(0) if len({part.shape for part in parts}) == 1 else None


def _of_weight(step: ComputedStep, check: LocalCheck) -> Explanations:
    assert isinstance(check, ProductCheck)
    own, here = check.layer, Origin(0, check.layer)
    candidates, leftovers = [], {}
    for origin in _origins(step, own):
        for words, d_z, h in (
            ("this is the gradient", origin, origin),
            ("formed with the input", here, origin),
            ("formed with the upstream gradient", origin, here),
        ):
            model = _product_of(step, d_z, h)
            if model is None or model.shape != check.ours.shape:
                continue
            candidates.append(origin.candidate(words, own, model))
            if d_z is h:  # a buffer that was not cleared may still have held it
                leftovers[origin.named("the gradient", own)] = model
    terms = {check.tensor: step.layers[own][0]}
    product = Product(*check.operands(), "example")
    return {"candidates": candidates, "leftovers": leftovers, "terms": terms, "product": product}


def _of_bias(step: ComputedStep, check: LocalCheck) -> Explanations:
    assert isinstance(check, ProductCheck)
    (left, right), candidates = check.operands(), list[Candidate]()
    if left.shape[0] == left.shape[1]:
        words = "summed over the units, not over the examples"
        candidates.append(Candidate(Kind.TRANSPOSE, words, left.double().sum(0)))
    for name, past in _calls_before(step, 0):
        if (before := there(past.d_pre_activations, check.layer)) is not None:
            candidates.append(Candidate(Kind.STALE_VALUE, f"this is the gradient of {name}", before.double().sum(0)))
    terms = {check.tensor: step.layers[check.layer][1]}
    return {"candidates": candidates, "terms": terms, "product": Product(left, right, "example")}


def _of_backward_product(step: ComputedStep, check: LocalCheck) -> Explanations:
    assert isinstance(check, ProductCheck)
    (d_z, weight), own, candidates = check.operands(), check.layer, list[Candidate]()
    weight = weight.double()
    if weight.shape[0] == weight.shape[1]:
        candidates.append(Candidate(Kind.TRANSPOSE, "multiplied by Wᵀ, not by W", d_z.double() @ weight.T))
    for origin in _origins(step, own):
        source = _call_at(step, check.batch, origin.shift)
        before = None if source is None else there(source.d_pre_activations, origin.layer)
        if source is None or before is None:
            continue
        other = step.layers[origin.layer][0].double()
        if before.shape == d_z.shape and other.shape == weight.shape:
            candidates.append(origin.candidate("this is the gradient", own, before.double() @ other))
        if origin.shift:
            other = (source.layers or step.layers)[origin.layer][0].double()
        if other.shape == weight.shape:
            candidates.append(origin.candidate("formed with the weight", own, d_z.double() @ other))
    return {"candidates": candidates, "product": Product(d_z, weight, "unit")}


def _of_derivative(step: ComputedStep, check: LocalCheck) -> Explanations:
    tape, own, candidates = step.tapes[check.batch], check.layer, list[Candidate]()
    activation = REFERENCE_ACTIVATIONS[step.rule.activation]
    z, d_h = tape.pre_activations[own], there(tape.d_inputs, own + 1)
    for origin in _origins(step, own):
        source = _call_at(step, check.batch, origin.shift)
        old = None if source is None else there(source.pre_activations[:-1], origin.layer)
        if old is not None and old.shape == z.shape:
            model = activation.backward(old.double(), d_h.double())
            found = origin.candidate("the derivative is that", own, model)
            masked = not origin.shift and activation.below_kink is not None
            candidates.append(found._replace(kind=Kind.MASK) if masked else found)
    twice = activation.backward(z.double(), activation.backward(z.double(), d_h.double()))
    candidates.append(Candidate(Kind.DERIVATIVE, "it is applied twice", twice))
    if activation.below_kink is None:
        candidates.append(Candidate(Kind.DERIVATIVE, "it is not applied", d_h.double()))
    return {"candidates": candidates, "pointwise": Pointwise(z, d_h)}


def _of_logits(step: ComputedStep, check: LocalCheck) -> Explanations:
    tape, candidates = step.tapes[check.batch], list[Candidate]()
    right = LogitsTerms.of(step.rule, tape)
    exact = right.gradient()
    for name, past in _calls_before(step, check.batch):
        old = LogitsTerms.of(step.rule, past)
        if old.s.shape == right.s.shape:
            for whose, model in (
                ("probabilities and labels", right.gradient(old.p, old.q, old.s)),
                ("the probabilities", right.gradient(old.p, right.q, old.s)),
                ("the labels", right.gradient(q=old.q)),
            ):
                candidates.append(Candidate(Kind.STALE_VALUE, f"{whose} are those of {name}", model))
    if tape.upstream != 1:
        words = "this is the gradient for an upstream gradient of 1"
        candidates.append(Candidate(Kind.UPSTREAM_IGNORED, words, exact / tape.upstream))
        for dtype in (torch.float16, torch.bfloat16):
            rounded = float(torch.tensor(tape.upstream).to(dtype))
            if rounded != tape.upstream:
                words = f"the upstream gradient {tape.upstream:.6g} was rounded to {str(dtype).removeprefix('torch.')}"
                candidates.append(Candidate(Kind.PRECISION, words, exact * (rounded / tape.upstream)))
    along = exact / right.scale if right.scale else exact
    twice = right.scale * right.p * (along - (right.p * along).sum(1, keepdim=True))
    candidates.append(Candidate(Kind.DERIVATIVE, "softmax's is applied twice", twice))
    # Labels of other classes: what is subtracted from p is one class an example, but not the label.
    subtracted = (right.p + right.penalty * right.s - check.ours.double() / right.scale).nan_to_num()
    others = LogitsTerms.of(step.rule, replace(tape, labels_B=subtracted.argmax(1)))
    candidates.append(Candidate(Kind.PERMUTATION, "the targets are those of other classes", others.gradient()))
    onehot = LogitsTerms.of(step.rule._replace(label_smoothing=0.0), tape).q
    terms = {
        "the one-hot targets": right.scale * onehot,
        "the logits": right.scale * right.s,
        "the probabilities": right.scale * right.p,
        "one for every class": torch.full_like(right.p, right.scale),
    }
    return {"candidates": candidates, "terms": terms}


_EXPLANATIONS: dict[Identity, Callable[[ComputedStep, LocalCheck], Explanations]] = {
    Identity.LOGITS: _of_logits,
    Identity.WEIGHT: _of_weight,
    Identity.BIAS: _of_bias,
    Identity.BACKWARD: _of_backward_product,
    Identity.DERIVATIVE: _of_derivative,
}
