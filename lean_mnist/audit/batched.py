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
gradients     ``dW u − dzᵀ (h u)``                           ``‖dz_j‖`` times the root mean square of ``‖h_b‖``
============  =============================================  ====================================================

A bias is the weight of a feature that is always 1: ``W`` and ``dW`` end in a column that is the bias, ``h`` in one of
ones. ``h = σ(z)``, and for ReLU ``dz = dh ⊙ σ'(z)``, are computed here and put into the products in place of the
step's own. At the small networks that this is meant for, the time is that of calling the operations, so there are few:
``h`` is read once for ``Wᵀ v`` and ``u``, and all residuals stand in one table, whose norms take a few operations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lean_mnist.audit.local_checks import ComputedStep, ElementwiseCheck, Identity, ProductCheck, local_checks
from lean_mnist.audit.logits import Arithmetic, LogitsTerms, loss_size
from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS, NetworkLoss
from lean_mnist.audit.rounding import ELEMENTWISE_ULPS, ROUNDINGS, underflow_of, unit_of
from lean_mnist.nn.step import StepTape

# Largest residual of a product's rows, and of a gradient's; and the root mean square over a gradient's rows.
ORDINARY, ORDINARY_GRADIENT, TOGETHER = 8.0, 4.0, 1.5


class _LayerChecks(NamedTuple):
    """Local checks of one layer of a step of one batch."""

    forward: ProductCheck
    weight: ProductCheck
    bias: ProductCheck | None
    backward: ProductCheck | None  # into the layer below
    derivative: ElementwiseCheck | None  # of the activation after it


_IDENTITIES = (Identity.FORWARD, Identity.WEIGHT, Identity.BIAS, Identity.BACKWARD, Identity.DERIVATIVE)


class BatchChecks(NamedTuple):
    """Local checks of a step of one batch, in the arrangement in which they are run together."""

    rule: NetworkLoss
    tape: StepTape
    loss: Tensor
    layers: list[_LayerChecks]
    logits: ElementwiseCheck

    @classmethod
    def of(cls, step: ComputedStep) -> BatchChecks | None:
        """The checks of ``step``; ``None`` where it has several batches, no examples, or gradients that are missing."""
        if len(step.tapes) != 1 or not len(step.tapes[0].labels_B) or step.loss is None:
            return None
        found = {(check.identity, check.layer): check for check in local_checks(step)}
        layers = []
        for i, (_, bias) in enumerate(step.layers):
            checks = [found.get((identity, i)) for identity in _IDENTITIES]
            gradients = [checks[1]] if bias is None else checks[1:3]
            if any(not isinstance(check, ProductCheck) or check.missing for check in gradients):
                return None
            if (i and checks[3] is None) or (i + 1 < len(step.layers) and checks[4] is None):
                return None
            layers.append(_LayerChecks(*checks))  # type: ignore[arg-type]
        logits = found[Identity.LOGITS, len(layers) - 1]
        return cls(step.rule, step.tapes[0], step.loss, layers, cast("ElementwiseCheck", logits))


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
        logits, loss, layers = checks.layers[-1].forward.ours, checks.loss, checks.layers
        (examples, classes), count = logits.shape, len(layers)
        shapes = [(layer.weight.ours.shape[0], layer.weight.ours.shape[1]) for layer in layers]
        units, wide = [h for h, _ in shapes], [d + 1 for _, d in shapes]
        self._examples, self._penalty = examples, checks.rule.logit_penalty
        self._sample = min(examples, max(16, examples // 4))  # examples whose ‖h_b‖ tell the usual one
        self._rows_of = [
            OrdinaryResiduals.of(h, d, layer.bias is not None, examples, logits)
            for (h, d), layer in zip(shapes, layers, strict=True)
        ]
        self._underflow, self._loss_ulps = underflow_of(logits), ELEMENTWISE_ULPS * unit_of(loss)

        vectors = logits.new_zeros(2 * sum(wide) + sum(units))
        self.probes = vectors[sum(wide) :]  # where a step's probes are to be put: as ``Probes.vector``
        pairs = vectors[: 2 * sum(wide)].view(2, -1).split(wide, dim=1)
        v_parts = vectors[2 * sum(wide) :].split(units)
        # Rows of the table: both products of h for each layer, and W u; residuals of products; the logits, class by
        # class, and the shares of their gradient.
        table = logits.new_zeros(6 * count + 2 * classes, max(examples, *units))
        self._table, self._magnitudes = table, torch.zeros_like(table, dtype=loss.dtype)
        self._gradients = table[4 * count : 5 * count]
        self._logits_CB, self._shares_CB = table[6 * count :, :examples].split(classes)
        tiny = torch.finfo(logits.dtype).tiny
        self._d_squares = torch.full_like(self._gradients, tiny)
        self._inverses = torch.empty_like(self._d_squares)
        self._tiny, self._ones_B = logits.new_full((max(units),), tiny), logits.new_ones(examples)
        self._ones = loss.new_ones(table.shape[1])
        self._layers = [
            _Buffers(
                v, pair[1, :-1], pair if layer.bias is not None else pair[:, :-1],
                table[2 * i : 2 * i + 2, :examples], table[2 * count + i, : len(v)],
                table[3 * count + i, :examples], table[4 * count + i, : len(v)],
                table[5 * count + i, :examples], self._d_squares[i, : len(v)],
            )
            for i, (v, pair, layer) in enumerate(zip(v_parts, pairs, layers, strict=True))
        ]  # fmt: skip

        # Largest magnitudes of the rows from the first residual on; squared norms of the rows up to the last residual;
        # ‖dz‖², ‖h‖² of the sample and ‖Wᵀ v‖² of each layer; the largest shares of derivatives; the log-likelihood.
        derivatives = sum(layer.derivative is not None and not layer.derivative.exact for layer in layers)
        self._sizes = [len(table) - 3 * count, 6 * count, count, count, count, derivatives, 1]
        self.numbers = loss.new_zeros(sum(self._sizes))  # of the last run, from which :meth:`share` is made
        parts = self.numbers.split(self._sizes)
        self._largest, self._squares, self._d_sums, self._h_squares, self._along_squares = parts[:5]
        self._derivatives, self._likelihood = parts[5:]

    def run(self, checks: BatchChecks) -> None:
        """Compute all residuals and their norms. Kernels only, no number is looked at."""
        self._run_elementwise(checks)
        self._run_products(checks)
        torch.sum(self._d_squares, 1, dtype=self._d_sums.dtype, out=self._d_sums)
        torch.rsqrt(self._d_squares, out=self._inverses)
        self._gradients.mul_(self._inverses)
        torch.abs(self._table.to(self._magnitudes.dtype), out=self._magnitudes)
        torch.amax(self._magnitudes[-len(self._largest) :], 1, out=self._largest)
        products = self._magnitudes[: len(self._squares)]
        torch.mv(products.mul_(products), self._ones, out=self._squares)

    def _run_elementwise(self, checks: BatchChecks) -> None:
        """The loss, the gradient of the logits, and derivatives that round."""
        wide = self.numbers.dtype  # a loss of 16-bit logits is computed in 32
        # Logits stand class by class, which is the quicker layout.
        logits_BC = checks.layers[-1].forward.ours
        by_class = Arithmetic(lambda x: (self._logits_CB.copy_(x.t()) if x is logits_BC else x.t()).to(wide), classes=0)
        terms = LogitsTerms.of(checks.rule, checks.tape, by_class)
        self._likelihood.copy_(terms.likelihood())
        checks.logits.shares(by_class, terms.expected(), self._shares_CB)
        rounding = [layer.derivative for layer in checks.layers if layer.derivative and not layer.derivative.exact]
        for derivative, largest in zip(rounding, self._derivatives.unbind(), strict=True):
            largest.copy_(derivative.shares(Arithmetic(lambda x: x.to(wide))).abs_().amax())

    def _run_products(self, checks: BatchChecks) -> None:
        activation, h_BD = REFERENCE_ACTIVATIONS[checks.rule.activation], checks.layers[0].forward.parts[0][0]
        for index, (own, layer) in enumerate(zip(self._layers, checks.layers, strict=True)):
            z_BH, d_z_BH, features = layer.forward.ours, layer.weight.parts[0][0].t(), self._rows_of[index].features
            weight_HD = layer.forward.parts[0][1].t()
            torch.mv(with_bias(weight_HD, layer.forward.plus).t(), own.v, out=own.pair[0])
            if layer.bias is None:
                torch.mm(own.pair, h_BD.t(), out=own.h_pair)
            else:
                torch.addmm(own.pair[:, features:], own.pair[:, :features], h_BD.t(), out=own.h_pair)
            torch.addmv(own.h_pair[0], z_BH, own.v, alpha=-1, out=own.forward)
            _square(h_BD[: self._sample], self._h_squares[index : index + 1])
            _square(own.pair[0], self._along_squares[index : index + 1])
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

    def share(self, loss: float, numbers: Sequence[float] | None = None) -> float:
        """The largest residual of the last run as a share of what is ordinary, ``loss`` being what the step reported.

        ``numbers`` are those of another run. Above 1, or NaN, the step deserves a closer look.
        """
        numbers = self.numbers.tolist() if numbers is None else numbers
        if not math.isfinite(sum(numbers) + loss):
            return math.nan
        each = iter(numbers)
        parts = (list(itertools.islice(each, size)) for size in self._sizes)
        largest, squares, d_squares, h_squares, along_squares, shares, (likelihood,) = parts
        count, examples, underflow = len(self._layers), self._examples, self._underflow
        classes = (len(largest) - 3 * count) // 2
        shares += largest[-classes:]
        logit = max(1.0, *largest[-2 * classes : -classes])
        shares.append(abs(loss + likelihood / examples) / (self._loss_ulps * loss_size(logit, self._penalty)))
        for i, (forward, gradient, together, backward, units, features, bias) in enumerate(self._rows_of):
            h_square = h_squares[i] / self._sample  # the mean of ‖h_b‖²
            walk = (h_square + bias) * along_squares[i] / (features + bias)
            size = math.sqrt(squares[2 * i] / examples + walk)
            shares.append(largest[i] / (forward * size + underflow))
            size = math.sqrt(h_square + bias * features)
            shares.append(largest[count + i] / (gradient * size + underflow))
            shares.append(math.sqrt(squares[4 * count + i] / units) / (together * size + underflow))
            size = math.sqrt(d_squares[i] / examples * squares[2 * count + i] / units)
            shares.append(largest[2 * count + i] / (backward * size + underflow))
        return max(shares)


class OrdinaryResiduals(NamedTuple):
    """Residuals of one layer's products that are ordinary, relative to the sizes of their rows."""

    forward: float
    gradient: float
    together: float
    backward: float
    units: int
    features: int
    bias: bool

    @classmethod
    def of(cls, units: int, features: int, bias: bool, examples: int, like: Tensor) -> OrdinaryResiduals:
        """Of a layer with a weight ``(units, features)``."""
        narrow, unit = torch.finfo(like.dtype).bits <= 16, unit_of(like)

        def roundings(terms: int) -> float:
            return unit * (ROUNDINGS if narrow else math.sqrt(terms))

        return cls(
            ORDINARY * roundings(features), ORDINARY_GRADIENT * roundings(examples + features),
            TOGETHER * roundings(examples + features), ORDINARY * roundings(units + features), units, features, bias,
        )  # fmt: skip


def _square(x: Tensor, out: Tensor) -> None:
    """``‖x‖²`` into ``out`` (1,)."""
    flat = x.reshape(-1).to(out.dtype)
    torch.mv(flat.view(1, -1), flat, out=out)


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
