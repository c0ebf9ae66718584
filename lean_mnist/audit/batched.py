"""The batched check: the whole list of local checks of a step in a few operations each, whole tensors at a time.

Where nothing stands out, the step is right; where something might, the list is run row by row (``randomised``), and
that decides. So this never refuses a step, and need not know how much rounding explains at most, only how little an
ordinary step shows. Elementwise checks are those of the list, in the step's own precision. Products are probed as in
the list, ``ours p − left (right p)``, and a row of the residual is ordinary below ``ORDINARY √n u`` times

    ``‖left_row‖ ‖right p‖ / √inner``

which is the random walk of :func:`.rounding.product_residual`, with ``n`` the terms that a probed row is a sum of. It
is made from norms that no single probe can make small: where all examples have a large part in common, as after a
sigmoid, ``h p`` may be next to nothing in all of them at once, and their rounding is not. So

============  =============================================  ====================================================
check         residual of a row                              size of a row
============  =============================================  ====================================================
forward       ``z v − h (Wᵀ v)``                             its root mean square over the batch, and the value's
backward      ``dh u − dz (W u)``                            its root mean square over the batch
gradients     ``dW u − dzᵀ (h u)``                           ``‖dz_j‖ ‖h‖``, ``‖h‖`` the root mean square of ‖h_b‖
============  =============================================  ====================================================

A bias is the weight of a feature that is always 1: ``W`` and ``dW`` end in a column that is the bias, ``h`` in one of
ones. ``h = σ(z)``, and for ReLU ``dz = dh ⊙ σ'(z)``, are computed here and put into the products in place of the
step's own. At the small networks that this is meant for, the time is that of calling the operations, so there are few:
``h`` is read once for ``Wᵀ v`` and ``u``, and all residuals stand in one table, whose norms take a few operations.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lean_mnist.audit.activations import REFERENCE_ACTIVATIONS, ReferenceActivation
from lean_mnist.audit.local_checks import (
    Arithmetic,
    ComputedStep,
    ElementwiseCheck,
    Identity,
    ProductCheck,
    local_checks,
)
from lean_mnist.audit.rounding import underflow_of, unit_of

# Largest residual of a product's rows, and of a gradient's; and the root mean square over a gradient's rows.
ORDINARY, ORDINARY_GRADIENT, TOGETHER = 8.0, 4.0, 1.5
# Sums that end in 16 bits are formed in 32, and rounded some three times.
ROUNDINGS_16 = 3.0


class _Layer(NamedTuple):
    """Local checks of one layer of a step of one batch."""

    forward: ProductCheck
    weight: ProductCheck
    bias: ProductCheck | None
    backward: ProductCheck | None  # into the layer below
    derivative: ElementwiseCheck | None  # of the activation after it


class BatchChecks(NamedTuple):
    """Local checks of a step of one batch, in the arrangement in which they are run together."""

    activation: ReferenceActivation
    layers: list[_Layer]
    logits: ElementwiseCheck
    loss: ElementwiseCheck

    @classmethod
    def of(cls, step: ComputedStep) -> BatchChecks | None:
        """The checks of ``step``; ``None`` where it has several batches, no examples, or gradients that are missing."""
        if len(step.tapes) != 1 or not len(step.tapes[0].labels_B):
            return None
        found = {(check.identity, check.layer): check for check in local_checks(step)}
        if any(pair[0] is None or (pair[1] is None) != (layer[1] is None)
               for pair, layer in zip(step.gradients, step.layers, strict=True)):  # fmt: skip
            return None
        layers = [
            _Layer(*(found.get((identity, i)) for identity in _LAYER_ORDER))  # type: ignore[arg-type]
            for i in range(len(step.layers))
        ]
        if any(layer.forward is None or not isinstance(layer.weight, ProductCheck) for layer in layers):
            return None
        if any(layer.backward is None or layers[i].derivative is None for i, layer in enumerate(layers[1:])):
            return None
        last = len(layers) - 1
        return cls(
            REFERENCE_ACTIVATIONS[step.rule.activation],
            layers,
            cast("ElementwiseCheck", found[Identity.LOGITS, last]),
            cast("ElementwiseCheck", found[Identity.LOSS, last]),
        )


_LAYER_ORDER = (Identity.FORWARD, Identity.WEIGHT, Identity.BIAS, Identity.BACKWARD, Identity.DERIVATIVE)


class _Buffers(NamedTuple):
    """Memory for one layer: its probes, products with them, and rows of the table."""

    v: Tensor  # (H,): probes
    u: Tensor  # (D,)
    pair: Tensor  # (2, D + 1), or (2, D) without a bias: Wᵀ v, and u
    h_pair: Tensor  # (2, B): h times both
    below: Tensor  # (H,): W u, of the product into the layer below
    forward: Tensor  # residuals: (B,)
    gradient: Tensor  # (H,)
    backward: Tensor  # (B,)
    d_squares: Tensor  # (H,): ‖dz_j‖²


class BatchedCheck:
    """Runs the local checks of the steps of one network with so many examples; all write into the same memory."""

    def __init__(self, checks: BatchChecks) -> None:
        """``checks``: of one of these steps."""
        logits, loss, layers = checks.layers[-1].forward.ours, checks.loss.ours, checks.layers
        self._examples, count = len(logits), len(layers)
        self._shapes = [(layer.weight.ours.shape[0], layer.weight.ours.shape[1]) for layer in layers]
        self._bias = [layer.bias is not None for layer in layers]
        units = [h for h, _ in self._shapes]
        wide = [d + 1 for _, d in self._shapes]
        vectors = logits.new_zeros(2 * sum(wide) + sum(units))
        self.probes = vectors[sum(wide) :]  # where a step's probes are to be put: as ``Probes.vector``
        pairs = vectors[: 2 * sum(wide)].view(2, -1).split(wide, dim=1)
        v_parts = vectors[2 * sum(wide) :].split(units)

        # Rows of the table: both products of h for each layer, and W u; then residuals.
        self._first_residual = 3 * count
        table = logits.new_zeros(6 * count, max(self._examples, *units))
        self._table, self._magnitudes = table, torch.zeros_like(table, dtype=loss.dtype)
        self._gradients = table[4 * count : 5 * count]
        tiny = torch.finfo(logits.dtype).tiny
        self._d_squares = torch.full_like(self._gradients, tiny)
        self._inverses = torch.empty_like(self._d_squares)
        self._tiny, self._ones_B = logits.new_full((max(units),), tiny), logits.new_ones(self._examples)
        self._ones = loss.new_ones(table.shape[1])
        self._layers = [
            _Buffers(
                v, pair[1, :-1], pair if bias else pair[:, :-1],
                table[2 * i : 2 * i + 2, : self._examples], table[2 * count + i, : len(v)],
                table[3 * count + i, : self._examples], table[4 * count + i, : len(v)],
                table[5 * count + i, : self._examples], self._d_squares[i, : len(v)],
            )
            for i, (v, pair, bias) in enumerate(zip(v_parts, pairs, self._bias, strict=True))
        ]  # fmt: skip

        elementwise = 1 + sum(layer.derivative is not None and not layer.derivative.exact for layer in layers)
        # Of each row of residuals the largest magnitude, of each row its squared norm; ‖dz‖², ‖h‖² and ‖Wᵀ v‖ of each
        # layer; the largest shares of elementwise checks; the mean loss and what it may be off.
        self._sizes = [3 * count, 6 * count, count, count, count, elementwise, 2]
        self._numbers = loss.new_zeros(sum(self._sizes))
        self._largest, self._squares, self._d_norms, self._h_norms, self._along_norms, self._elementwise, self._loss = (
            self._numbers.split(self._sizes)
        )
        self._unit, self._underflow, self._narrow = (
            unit_of(logits),
            underflow_of(logits),
            torch.finfo(logits.dtype).bits <= 16,
        )

    def run(self, checks: BatchChecks) -> None:
        """Compute all residuals and their norms. Kernels only, no number is looked at."""
        self._run_elementwise(checks)
        self._run_products(checks)
        torch.sum(self._d_squares, 1, dtype=self._d_norms.dtype, out=self._d_norms)
        torch.rsqrt(self._d_squares, out=self._inverses)
        self._gradients.mul_(self._inverses)
        torch.abs(self._table.to(self._magnitudes.dtype), out=self._magnitudes)
        torch.amax(self._magnitudes[self._first_residual :], 1, out=self._largest)
        self._magnitudes.mul_(self._magnitudes)
        torch.mv(self._magnitudes, self._ones, out=self._squares)

    def _run_elementwise(self, checks: BatchChecks) -> None:
        """The loss, the gradient of the logits, and derivatives that round."""
        wide = self._numbers.dtype  # a loss of 16-bit logits is computed in 32
        # Logits stand class by class, which is the quicker layout.
        by_class = Arithmetic(lambda x: x.t().to(wide).contiguous() if x.dim() == 2 else x, classes=0)
        value, size = checks.loss.expected(by_class)
        torch.stack([value, checks.loss.allowed(size)], out=self._loss)
        shares = [checks.logits.largest_share(by_class)]
        for layer in checks.layers:
            if layer.derivative is not None and not layer.derivative.exact:
                shares.append(layer.derivative.largest_share(Arithmetic(lambda x: x.to(wide))))
        torch.stack(shares, out=self._elementwise)

    def _run_products(self, checks: BatchChecks) -> None:
        activation, h_BD = checks.activation, checks.layers[0].forward.parts[0][0]
        for index, (own, layer) in enumerate(zip(self._layers, checks.layers, strict=True)):
            z_BH, d_z_BH, features = layer.forward.ours, layer.weight.parts[0][0].t(), self._shapes[index][1]
            weight_HD = layer.forward.parts[0][1].t()
            torch.mv(with_bias(weight_HD, layer.forward.plus).t(), own.v, out=own.pair[0])
            if layer.bias is None:
                torch.mm(own.pair, h_BD.t(), out=own.h_pair)
            else:
                torch.addmm(own.pair[:, features:], own.pair[:, :features], h_BD.t(), out=own.h_pair)
            torch.addmv(own.h_pair[0], z_BH, own.v, alpha=-1, out=own.forward)
            torch.linalg.vector_norm(h_BD, dtype=self._h_norms.dtype, out=self._h_norms[index])
            torch.linalg.vector_norm(own.pair[0], dtype=self._h_norms.dtype, out=self._along_norms[index])
            if layer.backward is not None:
                torch.mv(weight_HD, own.u, out=own.below)
                torch.mv(d_z_BH, own.below, out=own.backward)
                torch.addmv(own.backward, layer.backward.ours, own.u, alpha=-1, out=own.backward)
            if layer.derivative is not None and layer.derivative.exact:
                above = checks.layers[index + 1].backward
                assert above is not None
                d_z_BH = activation.backward(z_BH, above.ours)
            bias = None if layer.bias is None else layer.bias.ours
            torch.mv(with_bias(layer.weight.ours, bias), own.pair[1], out=own.gradient)
            torch.addmv(own.gradient, d_z_BH.t(), own.h_pair[1], alpha=-1, out=own.gradient)
            torch.addmv(self._tiny[: len(own.v)], (d_z_BH * d_z_BH).t(), self._ones_B, out=own.d_squares)
            if index + 1 < len(checks.layers):
                h_BD = activation.value(z_BH)

    def share(self, loss: float) -> float:
        """The largest residual of the last run as a share of what is ordinary, ``loss`` being what the step reported.

        Above 1, or NaN, the step deserves a closer look.
        """
        numbers = self._numbers.tolist()
        if not math.isfinite(sum(numbers) + loss):
            return math.nan
        parts, start = [], 0
        for width in self._sizes:
            parts.append(numbers[start : start + width])
            start += width
        largest, squares, d_squares, h_norms, along_norms, shares, (mean, allowed) = parts
        shares.append(abs(mean - loss) / allowed)
        count, examples = len(self._shapes), self._examples
        for i, ((units, features), bias) in enumerate(zip(self._shapes, self._bias, strict=True)):
            h_square = h_norms[i] ** 2 / examples  # the mean of ‖h_b‖²
            walk = (h_square + bias) * along_norms[i] ** 2 / (features + bias)
            size = math.sqrt(squares[2 * i] / examples + walk)
            shares.append(largest[i] / self._ordinary(ORDINARY, features, size))
            size, terms = math.sqrt(h_square + bias * features), examples + features
            shares.append(largest[count + i] / self._ordinary(ORDINARY_GRADIENT, terms, size))
            rows = math.sqrt(squares[4 * count + i] / units)
            shares.append(rows / self._ordinary(TOGETHER, terms, size))
            size = math.sqrt(d_squares[i] / examples * squares[2 * count + i] / units)
            shares.append(largest[2 * count + i] / self._ordinary(ORDINARY, units + features, size))
        return max(shares)

    def _ordinary(self, factor: float, terms: int, size: float) -> float:
        """Residual of a row that is ordinary, of so many terms; sums that end in 16 bits are formed in 32."""
        return factor * (ROUNDINGS_16 if self._narrow else math.sqrt(terms)) * self._unit * size + self._underflow


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
