"""The links of the chain one by one: each row of each tensor against its own threshold.

The screen looks at what the very step computed on its way (an :class:`StepTape`) and at the gradients the optimizer
would read, and verifies each link with arithmetic of its own:

====================  ============================================  =========================================
link                  what should hold                              how it is verified
====================  ============================================  =========================================
product, forward      ``z = h Wᵀ + b``                              ``z v = h (Wᵀ v) + b·v``  (Freivalds, 1977)
activation            ``h = σ(z)``                                  PyTorch's own σ, entry by entry
loss                  ``mean log Σ eˢ − Σ q s + …``                  PyTorch's own, in float64
softmax gradient      ``ds = (softmax(s) − q + λs) / N``            PyTorch's softmax, entry by entry
product, backward     ``dh = dz W``                                 ``dh v = dz (W v)``
derivative            ``dz = dh ⊙ σ'(z)``                           PyTorch's own derivative, entry by entry
weight gradient       ``dW = Σ dzᵀ h`` over all batches             ``dW u = Σ dzᵀ (h u)``
bias gradient         ``db = Σ dz`` over all examples               summed in float64
====================  ============================================  =========================================

There is no pattern that the probes (``probes``) are blind to: an error whose row has norm ``r`` times its threshold
passes with probability at most ``√2 / r``. Thresholds are propagated rounding error: an inner product of n terms is off
by at most ``λ √n u ‖a‖ ‖b‖``, with ``u`` the unit of rounding and ``λ = 8``, except with probability ``2 exp(−λ²/2)``
(Higham and Mary, 2019, for rounding errors that are independent of mean zero). That is a model, not a proof; the
enclosure is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import ACTIVATIONS, NetworkLoss
from lean_mnist.audit.screen.elementwise import EXACT, derivative_reference
from lean_mnist.audit.screen.probes import Probe
from lean_mnist.audit.steps.rounding import ELEMENTWISE_ULPS, LAMBDA, unit_of
from lean_mnist.nn.step import Gradients, Layers, StepTape

Names = Sequence[tuple[str, str | None]]  # of each layer's weight and bias
_Link = tuple[str, str, Tensor]  # what should hold, of which tensor, and residual / threshold, one number a row


@dataclass(frozen=True)
class ScreenFailure:
    """A link that does not hold: which tensor, in which rows, and by how much of what rounding explains."""

    link: str
    tensor: str
    rows: tuple[int, ...]  # examples for forward links, rows of the tensor for gradients; the first few
    share: float  # residual / threshold at the worst place

    def __str__(self) -> str:
        more = ", …" if len(self.rows) == _SHOWN else ""
        rows = f" (rows {', '.join(map(str, self.rows))}{more})" if self.rows else ""
        return f"{self.tensor}: {self.link} does not hold{rows}: {self.share:.3g} times what rounding explains"


_SHOWN = 5


class Links:
    """The links of one network's steps."""

    def __init__(self, loss: NetworkLoss) -> None:
        self._loss = loss

    def check(
        self,
        names: Names,
        layers: Layers,
        gradients: Gradients,
        traces: Sequence[StepTape],
        labels: Sequence[Tensor],
        loss: Tensor,
        probes: Sequence[Probe],
    ) -> tuple[tuple[ScreenFailure, ...], float]:
        """What does not hold, and the largest residual as a share of its threshold; arguments as ``StepScreen``'s."""
        weight_norms = [_norms(weight) for weight, _ in layers]
        views = [
            [_View.of(trace, index, layer[0], probes[index]) for index, layer in enumerate(layers)] for trace in traces
        ]
        links = [
            *self._gradient_links(names, layers, gradients, views, probes),
            *self._loss_links(traces, labels, loss),
        ]
        for trace, view in zip(traces, views, strict=True):
            links += self._forward_links(names, layers, trace, view, probes, weight_norms)
            links += self._backward_links(names, layers, trace, probes, weight_norms)
        # One transfer for all links: the largest share of each.
        worst = torch.stack([share.amax() if share.numel() else share.new_zeros(()) for _, _, share in links]).tolist()
        failures = [
            ScreenFailure(link, tensor, _bad_rows(share), largest)
            for (link, tensor, share), largest in zip(links, worst, strict=True)
            if not largest <= 1  # also NaN
        ]
        return tuple(failures), max(worst, key=lambda share: math.inf if math.isnan(share) else share)

    def _forward_links(
        self,
        names: Names,
        layers: Layers,
        trace: StepTape,
        views: Sequence[_View],
        probes: Sequence[Probe],
        weight_norms: Sequence[Tensor],
    ) -> Iterator[_Link]:
        for index, ((name, _), (weight, bias), view, probe, weight_norm) in enumerate(
            zip(names, layers, views, probes, weight_norms, strict=True)
        ):
            z_BH = trace.pre_activations[index]
            expected, scale = view.h_Wv, view.h_rows * weight_norm
            if bias is not None:
                expected, scale = expected + bias @ probe.v, scale + _norms(bias)
            terms = LAMBDA * math.sqrt(sum(weight.shape) + 1)
            yield "z v = h (Wᵀ v) + b·v", f"the product with {name}", _share(z_BH @ probe.v - expected, terms * scale)
            if index + 1 < len(layers):
                h_BH, expected = trace.inputs[index + 1], ACTIVATIONS[self._loss.activation](z_BH)
                tensor = f"the activation after layer {index}"
                if self._loss.activation in EXACT:  # nothing is rounded, so nothing may differ
                    yield "h = σ(z)", tensor, _differing_rows(h_BH, expected)
                else:
                    size = ELEMENTWISE_ULPS * (expected.abs() + z_BH.abs())
                    yield "h = σ(z)", tensor, _share_rows(h_BH - expected, size)

    def _loss_links(self, traces: Sequence[StepTape], labels: Sequence[Tensor], loss: Tensor) -> Iterator[_Link]:
        """The mean loss in float64, and the gradient of every batch's logits."""
        smoothing, penalty, total = self._loss.label_smoothing, self._loss.logit_penalty, sum(len(y) for y in labels)
        mean, magnitude = loss.new_zeros((), dtype=torch.float64), loss.new_ones(())
        for trace, y in zip(traces, labels, strict=True):
            s_BC, d_s_BC = trace.pre_activations[-1], trace.d_pre_activations[-1]
            log_p_BC = torch.log_softmax(s_BC.double(), 1)
            q_BC = F.one_hot(y, s_BC.shape[1]).double()
            if smoothing:
                q_BC = q_BC * (1 - smoothing) + smoothing / s_BC.shape[1]
            mean = mean - (log_p_BC * q_BC).sum() / total
            if s_BC.numel():
                magnitude = torch.maximum(magnitude, s_BC.abs().amax())
            if d_s_BC is None:
                continue
            p_BC = log_p_BC.exp()
            residual, size = d_s_BC * total - (p_BC - q_BC), p_BC * (2 - log_p_BC.clamp_min(-1e4)) + q_BC
            if penalty:
                mean = mean + penalty / 2 * s_BC.double().square().sum() / total
                magnitude = magnitude + penalty * magnitude * magnitude
                residual, size = residual - penalty * s_BC, size + penalty * s_BC.abs()
            yield (
                "ds = (softmax(s) − q + λs) / N",
                "the gradient of the logits",
                _share_rows(residual, ELEMENTWISE_ULPS * size, unit_of(s_BC)),
            )
        threshold = ELEMENTWISE_ULPS * (1 + magnitude) * loss.new_ones(1)
        yield "the mean loss", "loss", _share((loss.double() - mean)[None], threshold, unit_of(loss))

    def _backward_links(
        self,
        names: Names,
        layers: Layers,
        trace: StepTape,
        probes: Sequence[Probe],
        weight_norms: Sequence[Tensor],
    ) -> Iterator[_Link]:
        for index in reversed(range(1, len(layers))):
            (weight, _), probe = layers[index], probes[index]
            d_z_BH, d_h_BD = trace.d_pre_activations[index], trace.d_inputs[index]
            if d_z_BH is None or d_h_BD is None:
                break
            scale = LAMBDA * math.sqrt(sum(weight.shape)) * weight_norms[index] * _norms(d_z_BH, 1)
            tensor = f"the backward product with {names[index][0]}"
            yield "dh v = dz (W v)", tensor, _share(d_h_BD @ probe.u - d_z_BH @ (weight @ probe.u), scale)
            below = trace.d_pre_activations[index - 1]
            if below is None:
                break
            expected = d_h_BD * derivative_reference(self._loss.activation, trace.pre_activations[index - 1])
            tensor = f"the derivative after layer {index - 1}"
            if self._loss.activation in EXACT:
                yield "dz = dh ⊙ σ'(z)", tensor, _differing_rows(below, expected)
            else:
                yield "dz = dh ⊙ σ'(z)", tensor, _share_rows(below - expected, ELEMENTWISE_ULPS * d_h_BD.abs())

    def _gradient_links(
        self,
        names: Names,
        layers: Layers,
        gradients: Gradients,
        views: Sequence[Sequence[_View]],
        probes: Sequence[Probe],
    ) -> Iterator[_Link]:
        for index, (names_l, layer, gradients_l) in enumerate(zip(names, layers, gradients, strict=True)):
            (weight_name, bias_name), (d_weight, d_bias), probe = names_l, gradients_l, probes[index]
            batches = [view[index] for view in views]
            complete = all(view.d_z_BH is not None for view in batches)
            for name, parameter, gradient in zip(names_l, layer, gradients_l, strict=True):
                if parameter is not None and parameter.requires_grad and (gradient is None or not complete):
                    yield "a gradient is there", str(name), probe.u.new_full((1,), math.inf)
            if not complete:
                continue  # a frozen layer
            examples = sum(len(view.h_Wv) for view in batches)
            if d_weight is not None:
                expected = _total([view.d_z_BH.T @ view.h_u for view in batches])  # type: ignore[union-attr]
                scale = _total([_norms(view.d_z_BH, 0) * _norms(view.h_rows) for view in batches])  # type: ignore[arg-type]
                terms = LAMBDA * math.sqrt(examples + d_weight.shape[1])
                yield "dW u = Σ dzᵀ (h u)", weight_name, _share(d_weight @ probe.u - expected, terms * scale)
            if bias_name is not None and d_bias is not None:
                summed = _total([view.d_z_BH.sum(0, dtype=torch.float64) for view in batches])  # type: ignore[union-attr]
                scale = _total([view.d_z_BH.abs().sum(0) for view in batches])  # type: ignore[union-attr]
                terms = LAMBDA * math.sqrt(examples)
                yield "db = Σ dz", bias_name, _share(d_bias.double() - summed, terms * scale, unit_of(d_bias))


class _View(NamedTuple):
    """What several links ask of one layer on one batch; its input is read once for both products."""

    h_Wv: Tensor  # (B,): h (Wᵀ v)
    h_u: Tensor  # (B,): h u
    h_rows: Tensor  # (B,): ‖h_b‖
    d_z_BH: Tensor | None

    @classmethod
    def of(cls, trace: StepTape, index: int, weight_HD: Tensor, probe: Probe) -> _View:
        h_BD = trace.inputs[index]
        products = h_BD @ torch.stack((probe.v @ weight_HD, probe.u), dim=1)
        return cls(products[:, 0], products[:, 1], _norms(h_BD, 1), trace.d_pre_activations[index])


def _norms(x: Tensor, dim: int | None = None) -> Tensor:
    # Squares of numbers below √tiny underflow to 0; what that can hide from the norm is added back.
    terms = x.numel() if dim is None else x.shape[dim]
    return torch.linalg.vector_norm(x, dim=dim) + math.sqrt(terms * torch.finfo(x.dtype).tiny)


def _share(residual: Tensor, scale: Tensor, unit: float | None = None) -> Tensor:
    """``|residual| / (scale · u + underflow)``: a residual of exactly 0 is no share of anything."""
    # Each of up to some thousand products may have underflowed.
    underflow = 1e4 * torch.finfo(residual.dtype if unit is None else torch.float32).tiny
    threshold = scale * (unit_of(residual) if unit is None else unit) + underflow
    return residual.abs() / threshold


def _share_rows(residual: Tensor, scale: Tensor, unit: float | None = None) -> Tensor:
    """The largest share in each row of an elementwise comparison."""
    share = _share(residual, scale, unit)
    return share.flatten(1).amax(1) if share.numel() else share.new_zeros(1)


def _differing_rows(ours: Tensor, expected: Tensor) -> Tensor:
    """For each row, 0 if it is bit for bit what is expected (NaN never is), else something above every threshold."""
    return (ours != expected).any(1).to(torch.float64) * 1e300


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _bad_rows(share: Tensor) -> tuple[int, ...]:
    return tuple(int(row) for row in (~(share <= 1)).nonzero().flatten()[:_SHOWN])
