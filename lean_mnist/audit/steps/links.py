"""Every link of a step's chain, computed again in float64.

A step computes ``z = h Wᵀ + b``, ``h = σ(z)``, the loss, ``ds``, and from the last layer down ``dW = Σ dzᵀ h``,
``db = Σ dz``, ``dh = dz W``, ``dz = dh ⊙ σ'(z)``. Each link is computed from the very numbers the step gave to it, so
that one that is right passes even where all it was given is wrong, and the first that does not hold is the cause:
everything after it inherits its fault. With each link comes what the step knows that may explain it if it is broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import ACTIVATIONS, KINKED, NetworkLoss
from lean_mnist.audit.steps.elsewhere import NAMES, call_at, calls_before, elsewhere, from_elsewhere, left_over
from lean_mnist.audit.steps.record import Step, there
from lean_mnist.audit.steps.rounding import (
    ELEMENTWISE_ULPS,
    ORDERS_FACTOR,
    TOGETHER,
    Together,
    derivative_of,
    product_of,
    underflow_of,
    unit_of,
)
from lean_mnist.crosscheck.diagnosis import Candidate, Kind, Pointwise, Product
from lean_mnist.nn.step import StepResult, StepTape


@dataclass(frozen=True)
class Link:
    """``ours`` should be ``exact``, but for ``allowed`` an element; ``of`` finds the same tensor in another run."""

    tensor: str
    link: str
    ours: Tensor
    exact: Tensor
    allowed: Tensor
    of: Callable[[StepResult], Tensor | None] = lambda run: None
    more: Callable[[], Mapping[str, Any]] = field(default=dict)
    implied: Callable[[Tensor], Tensor] | None = None  # another view of it, in which a fault may be plainer
    together: Together | None = None

    @property
    def share(self) -> float:
        """The largest error as a share of what is allowed, of an element or of all together; NaN where it is one."""
        error = (self.exact - self.ours).abs_()
        of_elements = float((error / self.allowed).amax())
        if self.together is None or not math.isfinite(of_elements):
            return of_elements
        size = float(error.norm())
        of_all = size / (TOGETHER * self.together.typical)
        if max(of_elements, of_all) > 1:
            element, norm = self.together.measured()
            of_elements /= max(1.0, ORDERS_FACTOR * element)
            of_all = min(of_all, size / max(ORDERS_FACTOR * norm, TOGETHER * self.together.typical))
        return max(of_elements, of_all)

    @property
    def broken(self) -> bool:
        return not self.share <= 1


@torch.no_grad()
def largest_share(step: Step) -> float:
    """The largest error of a link of ``step`` as a share of what rounding explains; above 1, or NaN, it is broken."""
    found = [link.share for link in links_of(step) if link.ours.numel()]
    return math.nan if any(share != share for share in found) else max(found, default=0.0)


def links_of(step: Step) -> Iterator[Link]:
    """All links, in the order in which the step computes them."""
    for number, call in enumerate(step.calls):
        if call.pre_activations:
            yield from _forward(step, call, number)
    weights = [(weight.double(), None if bias is None else bias.double()) for weight, bias in step.layers]
    for number, call in enumerate(step.calls):
        yield from _logits(step, call, number)
    for index in reversed(range(len(weights))):
        if all(there(call.d_pre_activations, index) is not None for call in step.calls):
            yield from _gradients(step, index)
        for number, call in enumerate(step.calls):
            yield from _below(step, call, number, index, weights[index][0])


def _coarser(a: Tensor, b: Tensor) -> Tensor:
    return a if unit_of(a) >= unit_of(b) else b


def _batch(step: Step, number: int) -> str:
    return f" of batch {number}" if len(step.calls) > 1 else ""


def _forward(step: Step, call: StepTape, number: int) -> Iterator[Link]:
    name, trace = step.loss.activation, call
    for index, (weight, bias) in enumerate(step.layers):
        z = trace.pre_activations[index]
        product = product_of(trace.inputs[index], weight.T, z, bias)
        tensor = f"the output of layer {index}{_batch(step, number)}"
        yield Link(tensor, "z = h Wᵀ + b", z, product.value, product.allowed, together=product.together)
        if index + 1 < len(step.layers):
            h = trace.inputs[index + 1]
            exact = ACTIVATIONS[name](z.double())
            allowed = ELEMENTWISE_ULPS * unit_of(h) * (exact.abs() + z.double().abs()) + underflow_of(h)
            yield Link(f"the activation after layer {index}{_batch(step, number)}", "h = σ(z)", h, exact, allowed)


class _Softmax(NamedTuple):
    """What the gradient of the logits is made of; ``scale`` is upstream / N."""

    p_BC: Tensor
    q_BC: Tensor
    onehot_BC: Tensor
    s_BC: Tensor
    scale: float


def _softmax(loss: NetworkLoss, logits_BC: Tensor, labels_B: Tensor, upstream: float) -> _Softmax:
    s_BC = logits_BC.double()
    onehot_BC = F.one_hot(labels_B, s_BC.shape[1]).double()
    q_BC = onehot_BC * (1 - loss.label_smoothing) + loss.label_smoothing / s_BC.shape[1]
    return _Softmax(torch.softmax(s_BC, 1), q_BC, onehot_BC, s_BC, upstream / max(1, len(labels_B)))


def _logits(step: Step, call: StepTape, number: int) -> Iterator[Link]:
    found = there(call.d_pre_activations, len(step.layers) - 1)
    if found is None:
        return
    penalty, s_BC = step.loss.logit_penalty, call.pre_activations[-1]
    right = _softmax(step.loss, s_BC, call.labels_B, call.upstream)
    p, q, onehot, s, scale = right

    def gradient(p: Tensor, q: Tensor, s: Tensor) -> Tensor:
        return scale * (p - q + penalty * s)

    exact = gradient(p, q, s)
    sizes = p * (2 - p.clamp(min=1e-300).log().clamp_min(-1e4)) + q + penalty * s.abs()
    allowed = ELEMENTWISE_ULPS * unit_of(found) * abs(scale) * sizes + underflow_of(found)

    def more() -> Mapping[str, Any]:
        candidates = list[Candidate]()
        for shift, past in enumerate(calls_before(step, number), start=1):
            old = _softmax(step.loss, past.pre_activations[-1], past.labels_B, call.upstream)
            if old.s_BC.shape == s.shape:
                of = NAMES[shift - 1]
                for whose, model in (
                    ("probabilities and labels", gradient(old.p_BC, old.q_BC, old.s_BC)),
                    ("the probabilities", gradient(old.p_BC, q, old.s_BC)),
                    ("the labels", gradient(p, old.q_BC, s)),
                ):
                    candidates.append(Candidate(Kind.STALE_VALUE, f"{whose} are those of {of}", model))
        if call.upstream != 1:
            candidates.append(
                Candidate(
                    Kind.UPSTREAM_IGNORED, "this is the gradient for an upstream gradient of 1", exact / call.upstream
                )
            )
            for dtype in (torch.float16, torch.bfloat16):
                rounded = float(torch.tensor(call.upstream).to(dtype))
                if rounded != call.upstream:
                    text = f"the upstream gradient {call.upstream:.6g} was rounded to {dtype}".replace("torch.", "")
                    candidates.append(Candidate(Kind.PRECISION, text, exact * (rounded / call.upstream)))
        along = exact / scale if scale else exact
        twice = scale * p * (along - (p * along).sum(1, keepdim=True))
        candidates.append(Candidate(Kind.DERIVATIVE, "softmax's is applied twice", twice))
        # Labels of other classes: what is subtracted from p is one class an example, but not the label.
        subtracted = (p + penalty * s - found.double() / scale).nan_to_num()
        others = F.one_hot(subtracted.argmax(1), s.shape[1]) * (1 - step.loss.label_smoothing)
        others = others + step.loss.label_smoothing / s.shape[1]
        candidates.append(Candidate(Kind.PERMUTATION, "the targets are those of other classes", gradient(p, others, s)))
        terms = {
            "the one-hot targets": scale * onehot,
            "the logits": scale * s,
            "the probabilities": scale * p,
            "one for every class": torch.full_like(p, scale),
        }
        return {"candidates": candidates, "terms": terms}

    yield Link(
        f"the gradient of the logits{_batch(step, number)}",
        "ds = (softmax(s) − q + λs) / N",
        found,
        exact,
        allowed,
        lambda run: run.tapes[number].d_pre_activations[-1],
        more,
        lambda d_s: d_s / scale + q - penalty * s,
    )


def _gradients(step: Step, index: int) -> Iterator[Link]:
    (weight, bias), (d_weight, d_bias) = step.layers[index], step.gradients[index]
    weight_name, bias_name = step.names[index]
    d_z: Tensor = torch.cat([call.d_pre_activations[index] for call in step.calls])  # type: ignore[misc]
    h = torch.cat([call.inputs[index] for call in step.calls])
    if d_weight is not None or weight.requires_grad:
        ours = torch.zeros_like(weight) if d_weight is None else d_weight
        product = product_of(d_z.T, h, _coarser(ours, d_z))
        shape = product.value.shape

        def more_weight() -> Mapping[str, Any]:
            return {
                "candidates": from_elsewhere(step, index, shape),
                "leftovers": left_over(step, index, shape),
                "terms": {weight_name: weight},
                "product": Product(d_z.T, h, "example"),
            }

        yield Link(
            weight_name,
            "dW = Σ dzᵀ h",
            ours,
            product.value,
            product.allowed,
            lambda run: run.gradients[index][0],
            more_weight,
            together=product.together,
        )
    if bias is None or (d_bias is None and not bias.requires_grad):
        return
    ours = torch.zeros_like(bias) if d_bias is None else d_bias
    ones = torch.ones(len(d_z), 1, dtype=torch.float64, device=d_z.device)
    column = product_of(d_z.T, ones, _coarser(ours, d_z))

    def more_bias() -> Mapping[str, Any]:
        candidates = list[Candidate]()
        if d_z.shape[0] == d_z.shape[1]:
            candidates.append(
                Candidate(Kind.TRANSPOSE, "summed over the units, not over the examples", d_z.double().sum(1))
            )
        for shift, past in enumerate(calls_before(step, 0), start=1):
            before = there(past.d_pre_activations, index)
            if before is not None:
                candidates.append(
                    Candidate(Kind.STALE_VALUE, f"this is the gradient of {NAMES[shift - 1]}", before.double().sum(0))
                )
        return {"candidates": candidates, "terms": {str(bias_name): bias}, "product": Product(d_z.T, ones, "example")}

    yield Link(
        str(bias_name),
        "db = Σ dz",
        ours,
        column.value[:, 0],
        column.allowed[:, 0],
        lambda run: run.gradients[index][1],
        more_bias,
        together=column.together,
    )


def _below(step: Step, call: StepTape, number: int, index: int, weight: Tensor) -> Iterator[Link]:
    """What layer ``index`` hands down, and the derivative of the activation under it."""
    trace = call
    d_z, d_h = there(trace.d_pre_activations, index), there(trace.d_inputs, index)
    if d_z is None or d_h is None:
        return
    product = product_of(d_z, weight, d_h)

    def more_product() -> Mapping[str, Any]:
        candidates = list[Candidate]()
        if weight.shape[0] == weight.shape[1]:
            candidates.append(Candidate(Kind.TRANSPOSE, "multiplied by Wᵀ, not by W", d_z.double() @ weight.T))
        for where in elsewhere(step, index):
            source = call_at(step, number, where.shift)
            before = None if source is None else there(source.d_pre_activations, where.layer)
            if source is None or before is None:
                continue
            other = step.layers[where.layer][0].double()
            if before.shape == d_z.shape and other.shape == weight.shape:
                candidates.append(Candidate(*where.of("this is the gradient", index), before.double() @ other))
            if where.shift:
                other = (source.layers or step.layers)[where.layer][0]
            if other.shape == weight.shape:
                candidates.append(Candidate(*where.of("formed with the weight", index), d_z.double() @ other.double()))
        return {"candidates": candidates, "product": Product(d_z, weight, "unit")}

    yield Link(
        f"the gradient of the input of layer {index}{_batch(step, number)}",
        "dh = dz W",
        d_h,
        product.value,
        product.allowed,
        lambda run: there(run.tapes[number].d_inputs, index),
        more_product,
        together=product.together,
    )
    below = there(trace.d_pre_activations, index - 1) if index else None
    if below is None:
        return
    z, name = trace.pre_activations[index - 1], step.loss.activation
    exact_below = d_h.double() * derivative_of(name, z.double())

    def more_derivative() -> Mapping[str, Any]:
        candidates = list[Candidate]()
        for where in elsewhere(step, index - 1):
            source = call_at(step, number, where.shift)
            old = None if source is None else there(source.pre_activations[:-1], where.layer)
            if old is not None and old.shape == z.shape:
                kind, words = where.of("the derivative is that", index - 1)
                kind = Kind.MASK if not where.shift and name in KINKED else kind
                candidates.append(Candidate(kind, words, d_h.double() * derivative_of(name, old.double())))
        slope = derivative_of(name, z.double())
        candidates.append(Candidate(Kind.DERIVATIVE, "it is applied twice", exact_below * slope))
        if name not in KINKED:
            candidates.append(Candidate(Kind.DERIVATIVE, "it is not applied", d_h.double()))
        return {"candidates": candidates, "pointwise": Pointwise(z, d_h)}

    yield Link(
        f"the gradient of the output of layer {index - 1}{_batch(step, number)}",
        "dz = dh ⊙ σ'(z)",
        below,
        exact_below,
        ELEMENTWISE_ULPS * unit_of(below) * d_h.double().abs() + underflow_of(below),
        lambda run: there(run.tapes[number].d_pre_activations, index - 1),
        more_derivative,
    )
