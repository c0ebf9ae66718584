"""A glance at a step: the links of the chain in a few operations each, whole tensors at a time.

Where nothing stands out, the step is right; where something might, it is looked at closely (``step_screen``), and that
decides. So a glance never refuses a step, and it need not know how much rounding explains, only how little an ordinary
step shows. A product's residual is ordinary below ``GLANCE √n u`` times the root mean square of what it is compared
with. A row of a weight gradient, with that of its bias, is a sum over the batch of about the size ``‖dz_j‖ ‖h‖``, for a
unit ``j`` and the root mean square of ``‖h_b‖`` over the batch; its residual is ordinary below ``LARGEST √n u`` times
that in the worst row, and ``TOGETHER √n u`` times in the root mean square over all rows.

With ``v, u`` the probes of a layer, and ``h, z, dz, dh`` what the step computed:

============================  =====================================================================================
product and bias, forward     ``z v − h (Wᵀ v) − b·v``, where ``h = σ(z)`` of the layer before is computed here
softmax gradient              ``N ds − (softmax(s) − q + λs)``, each entry relative to ``p + q``
loss                          PyTorch's own ``log_softmax``
product, backward             ``dh u − dz (W u)``
derivative                    ``dh ⊙ σ'(z) − dz``, entry by entry; 0 for ReLU
weight and bias gradient      ``dW u + c db − dzᵀ (h u + c)``, where for ReLU ``dz = dh ⊙ σ'(z)`` is computed here
============================  =====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.crosscheck.reference import ACTIVATIONS, NetworkLoss
from lean_mnist.crosscheck.screen.elementwise import EXACT, times_derivative
from lean_mnist.crosscheck.screen.probes import Probe
from lean_mnist.crosscheck.steps.record import Gradients, Layers

GLANCE = 8.0
LARGEST, TOGETHER = 4.0, 1.5
# Units of rounding by which an entry of the softmax's gradient, and the loss, may differ in an ordinary step.
ELEMENTWISE_ULPS = 16.0
# Units of rounding of the root mean square of dh by which an entry of dz may differ.
DERIVATIVE_ULPS = 64.0
# Up to some thousand products may have underflowed.
UNDERFLOWS = 1e4


class Look(NamedTuple):
    """A residual, what it is relative to (its root mean square; ``None``: 1), and how many roundings are ordinary."""

    residual: Tensor
    relative_to: Tensor | None
    ulps: float  # of the largest
    rms_ulps: float = 0.0  # of the root mean square; 0 where that says nothing more


def can_glance(layers: Layers, gradients: Gradients, traces: Sequence[MLPTrace]) -> bool:
    """Whether a glance will do: one batch that is not empty, and every gradient is there."""
    if len(traces) != 1 or not traces[0].inputs[0].shape[0]:
        return False
    return all(
        d_weight is not None and (bias is None) == (d_bias is None)
        for (_, bias), (d_weight, d_bias) in zip(layers, gradients, strict=True)
    )


class Measured(NamedTuple):
    """The norms that decide, one vector of them, and of what: (of how many numbers, relative to how many, look)."""

    numbers: Tensor
    looks: list[tuple[int, int | None, float, float]]  # numel of residual and of what it is relative to, both ulps
    info: torch.finfo

    def share(self) -> float:
        """The largest residual as a share of what is ordinary; above 1, or NaN, the step deserves a closer look."""
        return _largest_share(self)


def measure(
    rule: NetworkLoss,
    layers: Layers,
    gradients: Gradients,
    trace: MLPTrace,
    labels_B: Tensor,
    loss: Tensor,
    probes: Sequence[Probe],
) -> Measured:
    """The residuals' norms, and what decides whether they are ordinary. Kernels only, no number is looked at."""
    looks = [
        *_loss_looks(rule, trace.pre_activations[-1], cast("Tensor", trace.d_pre_activations[-1]), labels_B, loss),
        *_product_looks(rule.activation, layers, gradients, trace, probes),
    ]
    largest = torch._foreach_norm([look.residual for look in looks], math.inf)
    all_of_it = torch._foreach_norm([look.residual for look in looks if look.rms_ulps])
    sizes = torch._foreach_norm([look.relative_to for look in looks if look.relative_to is not None])
    about = [(r.numel(), None if x is None else x.numel(), ulps, rms_ulps) for r, x, ulps, rms_ulps in looks]
    # One vector, so that one transfer brings them all.
    return Measured(torch.stack([*largest, *all_of_it, *sizes]), about, torch.finfo(trace.pre_activations[-1].dtype))


def _product_looks(
    activation: str, layers: Layers, gradients: Gradients, trace: MLPTrace, probes: Sequence[Probe]
) -> Iterator[Look]:
    h_BD = trace.inputs[0]
    d_zs, d_hs = cast("list[Tensor]", trace.d_pre_activations), cast("list[Tensor]", trace.d_inputs)
    examples = len(h_BD)

    def roundings(terms: int) -> float:  # sums that end in 16 bits are formed in 32, and rounded some three times here
        return math.sqrt(terms) if h_BD.dtype.itemsize > 2 else 3.0

    for index, ((weight_HD, bias_H), (d_weight_HD, d_bias_H), probe) in enumerate(
        zip(layers, gradients, probes, strict=True)
    ):
        assert d_weight_HD is not None
        units, features = weight_HD.shape
        z_BH, d_z_BH = trace.pre_activations[index], d_zs[index]
        along_D = torch.mv(weight_HD.t(), probe.v)
        if bias_H is None:
            expected_B = torch.mv(h_BD, along_D)
        else:
            expected_B = torch.addmv(torch.dot(bias_H, probe.v).expand(examples), h_BD, along_D)
        yield Look(torch.addmv(expected_B, z_BH, probe.v, alpha=-1), expected_B, GLANCE * roundings(features))
        if index + 1 < len(layers):
            d_h_BH, above_CH, through = d_hs[index + 1], layers[index + 1][0], probes[index + 1].u
            expected_B = torch.mv(d_zs[index + 1], torch.mv(above_CH, through))
            ulps = GLANCE * roundings(above_CH.shape[0] + units)
            yield Look(torch.addmv(expected_B, d_h_BH, through, alpha=-1), expected_B, ulps)
            own_BH = times_derivative(activation, d_h_BH, z_BH)
            if activation in EXACT:
                d_z_BH = own_BH
            else:  # what cancels in a derivative is rounded relative to dh
                yield Look(own_BH.sub_(d_z_BH), d_h_BH, DERIVATIVE_ULPS)
        # A bias is the weight of a feature that is always 1; here c, so that it counts as much as the others together.
        c = math.sqrt(features)
        h_u_B = torch.mv(h_BD, probe.u)
        if d_bias_H is None:
            found_H = torch.mv(d_weight_HD, probe.u)
        else:
            h_u_B += c
            found_H = torch.addmv(d_bias_H, d_weight_HD, probe.u, beta=c)
        residual_H = torch.addmv(found_H, d_z_BH.t(), h_u_B, alpha=-1)
        residual_H *= d_z_BH.square().sum(0).add_(torch.finfo(d_z_BH.dtype).tiny).rsqrt_()
        terms = roundings(examples + features)
        yield Look(residual_H, h_u_B, LARGEST * terms, TOGETHER * terms)
        if index + 1 < len(layers):
            h_BD = ACTIVATIONS[activation](z_BH)


def _loss_looks(rule: NetworkLoss, s_BC: Tensor, d_s_BC: Tensor, labels_B: Tensor, loss: Tensor) -> Iterator[Look]:
    smoothing, penalty = rule.label_smoothing, rule.logit_penalty
    s_BC = s_BC.to(loss.dtype)  # a loss of 16-bit logits is computed in 32
    p_BC, labels_B1 = torch.softmax(s_BC, 1), labels_B.unsqueeze(1)
    log_p_BC = torch.log_softmax(s_BC, 1)
    ours = -(1 - smoothing) * log_p_BC.gather(1, labels_B1).mean()
    if smoothing:
        ours = ours - smoothing * log_p_BC.mean()
    residual_BC = torch.sub(p_BC, d_s_BC, alpha=len(labels_B))  # p − N ds: 0, and 1 at the label
    if smoothing:
        residual_BC -= smoothing / s_BC.shape[1]
        p_BC += smoothing / s_BC.shape[1]
    if penalty:
        ours = ours + penalty / 2 * s_BC.square().sum() / len(labels_B)
        residual_BC += penalty * s_BC
        p_BC += penalty * s_BC.abs()
    at_label_B1 = residual_BC.new_full((1, 1), 1 - smoothing).expand(len(labels_B), 1)
    residual_BC.scatter_add_(1, labels_B1, -at_label_B1)
    # Where p is next to nothing, p / N may be subnormal, and has fewer digits.
    p_BC.scatter_(1, labels_B1, 1.0).clamp_min_(1e6 * torch.finfo(p_BC.dtype).tiny)
    yield Look(residual_BC / p_BC, None, ELEMENTWISE_ULPS)
    yield Look((ours - loss) / (1 + loss), None, ELEMENTWISE_ULPS)


def _largest_share(measured: Measured) -> float:
    numbers, looks = iter(measured.numbers.tolist()), measured.looks
    residuals = [next(numbers) for _ in looks]
    rms = [next(numbers) / math.sqrt(numel) if rms_ulps else 0.0 for numel, _, _, rms_ulps in looks]
    relative_to = [1.0 if numel is None else next(numbers) / math.sqrt(numel) for _, numel, _, _ in looks]
    worst, underflow = 0.0, UNDERFLOWS * measured.info.tiny
    for (_, _, ulps, rms_ulps), residual, together, size in zip(looks, residuals, rms, relative_to, strict=True):
        unit = measured.info.eps / 2 * size
        for found, allowed in ((residual, ulps), (together, rms_ulps)):
            share = found / (allowed * unit + underflow)
            if math.isnan(share):
                return share
            worst = max(worst, share)
    return worst
