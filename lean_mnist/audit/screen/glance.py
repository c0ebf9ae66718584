"""A glance at a step: the links of the chain in a few operations each, whole tensors at a time.

Where nothing stands out, the step is right; where something might, it is looked at closely (``step_screen``), and that
decides. So a glance never refuses a step, and it need not know how much rounding explains, only how little an ordinary
step shows. The residual of a product forward is ordinary below ``GLANCE √n u`` times the root mean square of what it is
compared with; of one backward, where what classes give cancels, of ``‖dz_b‖ ‖W u‖ / √H``. A row of a weight gradient,
with that of its bias, is a sum over the batch of about the size ``‖dz_j‖ ‖h‖``, for a unit ``j`` and the root mean
square of ``‖h_b‖`` over the batch; its residual is ordinary below ``LARGEST √n u`` times that in the worst row, and
``TOGETHER √n u`` times in the root mean square over all rows.

A bias is the weight of a feature that is always 1: below, ``W`` and ``dW`` end in a column that is the bias, ``h`` in
one of ones. With ``v, u`` the probes of a layer, ``u`` ending in ``c = √D``, and ``h, z, dz, dh`` what the step
computed:

============================  =====================================================================================
product and bias, forward     ``z v − h (Wᵀ v)``, where ``h = σ(z)`` of the layer before is computed here
softmax gradient              ``N ds − (softmax(s) − q + λs)``, each entry relative to ``max(p, q)``
loss                          PyTorch's own ``log_softmax``
product, backward             ``dh u − dz (W u)``
derivative                    ``dh ⊙ σ'(z) − dz``, entry by entry; 0 for ReLU
weight and bias gradient      ``dW u − dzᵀ (h u)``, where for ReLU ``dz = dh ⊙ σ'(z)`` is computed here
============================  =====================================================================================

At the small networks that this is meant for, the time is that of calling the operations, so there are as few as
possible, and in the layout that is quick: ``h`` is read once for ``Wᵀ v`` and ``u``, and the logits stand class by
class. All residuals stand in one table, so that a few operations give the norms of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.screen.elementwise import EXACT, activated, times_derivative
from lean_mnist.nn.step import Gradients, Layers, StepTape

GLANCE = 8.0
LARGEST, TOGETHER = 4.0, 1.5
# Units of rounding by which an entry of the softmax's gradient, and the loss, may differ in an ordinary step.
ELEMENTWISE_ULPS = 16.0
# Units of rounding of the root mean square of dh by which an entry of dz may differ.
DERIVATIVE_ULPS = 64.0
# Up to some thousand products may have underflowed.
UNDERFLOWS = 1e4


def can_glance(layers: Layers, gradients: Gradients, traces: Sequence[StepTape]) -> bool:
    """Whether a glance will do: one batch that is not empty, and every gradient is there."""
    if len(traces) != 1 or not traces[0].inputs[0].shape[0]:
        return False
    return all(
        d_weight is not None and (bias is None) == (d_bias is None)
        for (_, bias), (d_weight, d_bias) in zip(layers, gradients, strict=True)
    )


# (i, j, relative, absolute): something stands out where numbers[i] / (relative · numbers[j] + absolute) is above 1.
_Look = tuple[int, int, float, float]


class _Layer(NamedTuple):
    """Where what concerns one layer is written."""

    v: Tensor  # (H,)
    u: Tensor  # (D,)
    pair: Tensor  # (2, D + 1), or D without a bias: Wᵀ v, and u
    h_pair: Tensor  # (2, B): h times both
    forward: Tensor  # (B,): the residuals
    gradient: Tensor  # (H,)
    squares: Tensor  # (H,): ‖dz_j‖²
    work: Sequence[Tensor]  # (B, H) each: h, dz, and the squares of dz


class _Backward(NamedTuple):
    """Where what concerns the product backward from one layer into the one below is written."""

    along: Tensor  # (H,): W u
    expected: Tensor  # (B,): dz (W u)
    residual: Tensor  # (B,)


class Glance:
    """Glances at the steps of one network with so many examples; each writes into the same memory."""

    def __init__(self, rule: NetworkLoss, layers: Layers, s_BC: Tensor, loss: Tensor) -> None:
        """``s_BC``, ``loss``: of one of these steps."""
        self._rule, self._exact = rule, rule.activation in EXACT
        examples, classes = s_BC.shape
        count, info = len(layers), torch.finfo(s_BC.dtype)
        units, features = [w.shape[0] for w, _ in layers], [w.shape[1] for w, _ in layers]
        wide = [d + 1 for d in features]
        self._vectors = s_BC.new_zeros(2 * sum(wide) + sum(units))
        self.probes = self._vectors[sum(wide) :]  # where a step's probes are to be put: as ``Probes.vector``
        pairs = self._vectors[: 2 * sum(wide)].view(2, -1).split(wide, dim=1)

        # The table: what residuals are relative to, both products of h for each layer and then each W u backward;
        # residuals of gradients, of products forward, of products backward, and of the gradient of the logits.
        at_gradient, at_forward, at_below, at_logits = 3 * count - 1, 4 * count - 1, 5 * count - 1, 6 * count - 2
        self._table = table = s_BC.new_zeros(at_logits + classes, max(examples, *units))
        self._absolute = torch.zeros_like(table, dtype=loss.dtype)
        self._gradients, self._logits_CB = table[at_gradient:at_forward], table[at_logits:, :examples]
        self._squares = torch.full_like(self._gradients, info.tiny)
        self._inverses = torch.empty_like(self._squares)
        self._tiny, self._ones_B = s_BC.new_full((max(units),), info.tiny), s_BC.new_ones(examples)
        self._layers = [
            _Layer(
                v, pair[1, :-1], pair if bias is not None else pair[:, :-1],
                table[2 * i : 2 * i + 2, :examples], table[at_forward + i, :examples],
                self._gradients[i, : len(v)], self._squares[i, : len(v)],
                [s_BC.new_empty(examples, len(v)) for _ in range(3)],
            )
            for i, (v, pair, (_, bias)) in enumerate(
                zip(self.probes[sum(wide) :].split(units), pairs, layers, strict=True)
            )
        ]  # fmt: skip
        self._backward = [
            _Backward(table[2 * count + i, :width], s_BC.new_empty(examples), table[at_below + i, :examples])
            for i, width in enumerate(units[1:])
        ]

        # Of the table the largest of each row of residuals, and the squared norm of the others and of gradients'
        # residuals; the squared norm of each dz; two sums that make the loss; of each derivative its largest residual
        # and what it is relative to.
        norms = len(table) - at_gradient
        squares = norms + at_forward
        sums = squares + count
        self._numbers = loss.new_zeros(sums + 2 + (0 if self._exact else 2 * (count - 1)))
        self._largest, self._squared_norms = self._numbers[:norms], self._numbers[norms:squares]
        self._d_squares = self._numbers[squares:sums]
        # ‖W u‖ of a product backward, ‖dz‖ of the layer, and 1 / √H.
        self._products = [
            (norms + 2 * count + i, squares + i + 1, 1 / math.sqrt(width)) for i, width in enumerate(units[1:])
        ]
        self._ones = loss.new_ones(table.shape[1])
        self._sums, self._derivatives = self._numbers[sums : sums + 2].split(1), self._numbers[sums + 2 :].unbind()
        self._at_sums, self._at_norms, self._at_logits = sums, slice(norms, sums), slice(at_logits - at_gradient, norms)

        unit, underflow = info.eps / 2, UNDERFLOWS * info.tiny

        def roundings(terms: int) -> float:  # sums that end in 16 bits are formed in 32, and rounded some three times
            return math.sqrt(terms) if info.bits > 16 else 3.0

        def look(row: int, relative_to: int, ulps: float) -> _Look:  # relative to the root mean square over the batch
            return row - at_gradient, norms + relative_to, ulps * unit / math.sqrt(examples), underflow

        self._looks: list[_Look] = []
        for i, (width, d) in enumerate(zip(units, features, strict=True)):
            self._looks.append(look(at_forward + i, 2 * i, GLANCE * roundings(d)))
            self._looks.append(look(at_gradient + i, 2 * i + 1, LARGEST * roundings(examples + d)))
            # The same row's norm is √H times its root mean square.
            _, size, relative, _ = look(at_gradient + i, 2 * i + 1, TOGETHER * roundings(examples + d))
            rows = math.sqrt(width)
            self._looks.append((norms + at_gradient + i, size, rows * relative, rows * underflow))
            if i:
                self._looks.append(look(at_below + i - 1, 2 * count + i - 1, GLANCE * roundings(width + d)))
        for at, width in zip(range(sums + 2, len(self._numbers), 2), units, strict=False):
            self._looks.append((at, at + 1, DERIVATIVE_ULPS * unit / math.sqrt(examples * width), underflow))
        self._elementwise = ELEMENTWISE_ULPS * unit + underflow

        smoothing = rule.label_smoothing
        self._q_CC = loss.new_full((classes, classes), smoothing / classes)  # the target of each label
        self._q_CC.diagonal().add_(1 - smoothing)
        self._s_CB, self._p_CB, self._log_p_CB, self._q_CB, self._residual_CB = loss.new_empty(
            5, classes, examples
        ).unbind()
        self._smallest = loss.new_full((), 1e6 * torch.finfo(loss.dtype).tiny)

    def look(self, layers: Layers, gradients: Gradients, trace: StepTape, labels_B: Tensor) -> None:
        """Compute all residuals and their norms. Kernels only, no number is looked at."""
        self._look_at_loss(trace.pre_activations[-1], cast("Tensor", trace.d_pre_activations[-1]), labels_B)
        self._look_at_products(layers, gradients, trace)
        torch.sum(self._squares, 1, dtype=self._d_squares.dtype, out=self._d_squares)
        torch.rsqrt(self._squares, out=self._inverses)
        self._gradients.mul_(self._inverses)
        torch.abs(self._table.to(self._absolute.dtype), out=self._absolute)
        torch.amax(self._absolute[-len(self._largest) :], 1, out=self._largest)
        squares = self._absolute[: len(self._squared_norms)]
        squares.mul_(squares)
        torch.mv(squares, self._ones, out=self._squared_norms)

    def share(self, loss: float) -> float:
        """The largest residual of the last look as a share of what is ordinary, ``loss`` being what the step reported.

        Above 1, or NaN, the step deserves a closer look.
        """
        numbers = self._numbers.tolist()
        if not math.isfinite(sum(numbers) + loss):
            return math.nan
        numbers[self._at_norms] = map(math.sqrt, numbers[self._at_norms])
        for along, d_z, factor in self._products:
            numbers[along] *= numbers[d_z] * factor
        share = max([numbers[i] / (relative * numbers[j] + absolute) for i, j, relative, absolute in self._looks])
        q_log_p, squares = numbers[self._at_sums : self._at_sums + 2]
        ours = (self._rule.logit_penalty / 2 * squares - q_log_p) / self._s_CB.shape[1]
        elementwise = max(*numbers[self._at_logits], abs(ours - loss) / (1 + abs(loss)))
        return max(share, elementwise / self._elementwise)

    def _look_at_products(self, layers: Layers, gradients: Gradients, trace: StepTape) -> None:
        d_zs, d_hs = cast("list[Tensor]", trace.d_pre_activations), cast("list[Tensor]", trace.d_inputs)
        h_BD = trace.inputs[0]
        for index, ((weight, bias), (d_weight, d_bias), own) in enumerate(
            zip(layers, gradients, self._layers, strict=True)
        ):
            assert d_weight is not None
            features = weight.shape[1]
            z_BH, d_z_BH = trace.pre_activations[index], d_zs[index]
            own_h_BH, own_d_z_BH, squares_BH = own.work
            torch.mv(with_bias(weight, bias).t(), own.v, out=own.pair[0])
            if bias is None:
                torch.mm(own.pair, h_BD.t(), out=own.h_pair)
            else:
                torch.addmm(own.pair[:, features:], own.pair[:, :features], h_BD.t(), out=own.h_pair)
            torch.addmv(own.h_pair[0], z_BH, own.v, alpha=-1, out=own.forward)
            if index + 1 < len(layers):
                d_h_BH, u, (along, expected_B, residual_B) = (
                    d_hs[index + 1], self._layers[index + 1].u, self._backward[index],
                )  # fmt: skip
                torch.mv(layers[index + 1][0], u, out=along)
                torch.mv(d_zs[index + 1], along, out=expected_B)
                torch.addmv(expected_B, d_h_BH, u, alpha=-1, out=residual_B)
                expected_BH = times_derivative(self._rule.activation, d_h_BH, z_BH, own_d_z_BH)
                if self._exact:
                    d_z_BH = expected_BH
                else:  # what cancels in a derivative is rounded relative to dh
                    largest, size = self._derivatives[2 * index : 2 * index + 2]
                    torch.amax(expected_BH.sub_(d_z_BH).abs_().to(largest.dtype), (0, 1), out=largest)
                    torch.linalg.vector_norm(d_h_BH.to(size.dtype), out=size)
            torch.mv(with_bias(d_weight, d_bias), own.pair[1], out=own.gradient)
            torch.addmv(own.gradient, d_z_BH.t(), own.h_pair[1], alpha=-1, out=own.gradient)
            torch.mul(d_z_BH, d_z_BH, out=squares_BH)
            torch.addmv(self._tiny[: weight.shape[0]], squares_BH.t(), self._ones_B, out=own.squares)
            if index + 1 < len(layers):
                h_BD = activated(self._rule.activation, z_BH, own_h_BH)

    def _look_at_loss(self, s_BC: Tensor, d_s_BC: Tensor, labels_B: Tensor) -> None:
        s_CB, p_CB, log_p_CB, q_CB, residual_CB = self._s_CB, self._p_CB, self._log_p_CB, self._q_CB, self._residual_CB
        s_CB.copy_(s_BC.t())  # a loss of 16-bit logits is computed in 32
        torch.softmax(s_CB, 0, out=p_CB)
        torch.log_softmax(s_CB, 0, out=log_p_CB)
        torch.index_select(self._q_CC, 1, labels_B, out=q_CB)
        torch.mv(log_p_CB.view(1, -1), q_CB.view(-1), out=self._sums[0])
        torch.sub(p_CB, d_s_BC.t().to(p_CB.dtype), alpha=len(labels_B), out=residual_CB)
        torch.sub(residual_CB, q_CB, out=residual_CB)
        torch.maximum(p_CB, q_CB, out=p_CB)
        if penalty := self._rule.logit_penalty:
            torch.mv(s_CB.view(1, -1), s_CB.view(-1), out=self._sums[1])
            residual_CB.add_(s_CB, alpha=penalty)
            p_CB.add_(s_CB.abs(), alpha=penalty)
        # Where p is next to nothing, p / N may be subnormal, and has fewer digits.
        torch.maximum(p_CB, self._smallest, out=p_CB)
        torch.div(residual_CB, p_CB, out=self._logits_CB)


def with_bias(weight_HD: Tensor, bias_H: Tensor | None) -> Tensor:
    """``(H, D + 1)``, the bias as the last column; a view where the two stand so, as in ``FlatParameters``."""
    if bias_H is None:
        return weight_HD
    units, features = weight_HD.shape
    together = (
        weight_HD.stride() == (1, units)
        and bias_H.is_contiguous()
        and bias_H.data_ptr() == weight_HD.data_ptr() + weight_HD.numel() * weight_HD.element_size()
        and bias_H.untyped_storage().data_ptr() == weight_HD.untyped_storage().data_ptr()
    )
    if together:
        return weight_HD.as_strided((units, features + 1), (1, units))
    return torch.cat([weight_HD, bias_H.unsqueeze(1)], dim=1)
