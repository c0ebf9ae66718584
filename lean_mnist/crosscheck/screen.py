"""The screen: at every step, for the cost of matrix–vector products, is the step about to be applied what it should be?

It looks at what the very step computed on its way (an :class:`MLPTrace`) and at the gradients the optimizer would read,
and verifies each link of the chain with arithmetic of its own:

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

The probes ``u, v`` are Gaussian, fresh every step from a generator whose seed is kept, so there is no pattern they are
blind to: an error whose row has norm ``r`` times its threshold passes one probe with probability at most ``0.8 / r``.
Thresholds are propagated rounding error: an inner product of n terms is off by at most ``λ √n u ‖a‖ ‖b‖``, with ``u``
the unit of rounding and ``λ = 8``, except with probability ``2 exp(−λ²/2)`` (Higham and Mary, 2019, for rounding errors
that are independent of mean zero). That is a model, not a proof; the enclosure is the proof.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.crosscheck.reference import KINKED, NetworkLoss

LAMBDA = 8.0
# Elementwise functions: two correctly working implementations differ by a few units of rounding.
ELEMENTWISE_ULPS = 32.0


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


@dataclass(frozen=True)
class ScreenResult:
    """What one screened step showed."""

    failures: tuple[ScreenFailure, ...]
    share: float  # the largest residual as a share of its threshold
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.failures


_SHOWN = 5


class StepScreen:
    """Screens the steps of one network; probes come from ``seed`` and the step's number, so a step can be replayed."""

    def __init__(self, loss: NetworkLoss, seed: int = 0) -> None:
        self._loss, self._seed = loss, seed

    @torch.no_grad()
    def check(
        self,
        step: int,
        names: Sequence[tuple[str, str | None]],
        layers: Sequence[tuple[Tensor, Tensor | None]],
        gradients: Sequence[tuple[Tensor | None, Tensor | None]],
        traces: Sequence[MLPTrace],
        labels: Sequence[Tensor],
        loss: Tensor,
    ) -> ScreenResult:
        """Screen one step.

        Args:
            names, layers, gradients: of each layer's weight and bias, first layer first.
            traces, labels: of each batch whose gradients were averaged; one, unless gradients were accumulated.
            loss: the mean over all examples, as the step reports it.
        """
        started = time.perf_counter()
        seed = (self._seed * 1_000_003 + step) % 2**63
        generator = torch.Generator().manual_seed(seed)
        links = list(self._links(names, layers, gradients, traces, labels, loss, generator))
        # One transfer for all links: the largest share of each.
        worst = torch.stack([share.amax() if share.numel() else share.new_zeros(()) for _, _, share in links]).tolist()
        failures = [
            ScreenFailure(link, tensor, _bad_rows(share), largest)
            for (link, tensor, share), largest in zip(links, worst, strict=True)
            if not largest <= 1  # also NaN
        ]
        share = max((w for w in worst if w == w), default=0.0) if not failures else max(f.share for f in failures)
        return ScreenResult(tuple(failures), share, seed, time.perf_counter() - started)

    def _links(
        self,
        names: Sequence[tuple[str, str | None]],
        layers: Sequence[tuple[Tensor, Tensor | None]],
        gradients: Sequence[tuple[Tensor | None, Tensor | None]],
        traces: Sequence[MLPTrace],
        labels: Sequence[Tensor],
        loss: Tensor,
        generator: torch.Generator,
    ) -> Iterator[tuple[str, str, Tensor]]:
        """Each link's name, its tensor's, and residual / threshold in float64, one number a row."""
        weight = layers[0][0]
        probes = [self._probe(w.shape[0], w.shape[1], generator, weight) for w, _ in layers]
        total = sum(len(y) for y in labels)
        mean = torch.zeros((), dtype=torch.float64, device=weight.device)
        for trace, y in zip(traces, labels, strict=True):
            yield from self._forward_links(names, layers, trace, probes)
            value, magnitude = self._loss_value(trace.pre_activations[-1], y)
            mean += value / total
            yield from self._backward_links(names, layers, trace, y, total, probes)
        yield (
            "the mean loss",
            "loss",
            ((loss.double() - mean).abs() / (_unit(weight) * ELEMENTWISE_ULPS * magnitude))[None],
        )
        yield from self._gradient_links(names, layers, gradients, traces, probes)

    @staticmethod
    def _probe(rows: int, columns: int, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor]:
        v, u = torch.randn(rows, generator=generator), torch.randn(columns, generator=generator)
        return v.to(like.device, like.dtype), u.to(like.device, like.dtype)

    def _forward_links(
        self,
        names: Sequence[tuple[str, str | None]],
        layers: Sequence[tuple[Tensor, Tensor | None]],
        trace: MLPTrace,
        probes: Sequence[tuple[Tensor, Tensor]],
    ) -> Iterator[tuple[str, str, Tensor]]:
        for index, ((weight, bias), (v_H, _), (name, _)) in enumerate(zip(layers, probes, names, strict=True)):
            h_BD, z_BH = trace.inputs[index], trace.pre_activations[index]
            expected = h_BD @ (v_H @ weight)
            scale = _norms(h_BD, 1) * _norms(weight) + (0 if bias is None else _norms(bias))
            if bias is not None:
                expected = expected + bias @ v_H
            units, features = weight.shape
            yield (
                "z v = h (Wᵀ v) + b·v",
                f"the product with {name}",
                _share(z_BH @ v_H - expected, LAMBDA * math.sqrt(features + units + 1) * scale),
            )
            if index + 1 < len(layers):
                yield from self._activation_link(index, z_BH, trace.inputs[index + 1])

    def _activation_link(self, index: int, z_BH: Tensor, h_BH: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        expected = activation_reference(self._loss.activation, z_BH)
        exact = self._loss.activation == "relu"  # nothing is rounded, so nothing may differ
        ulps = 0.0 if exact else ELEMENTWISE_ULPS
        yield (
            "h = σ(z)",
            f"the activation after layer {index}",
            _share_rows(h_BH - expected, ulps * (expected.abs() + z_BH.abs())),
        )

    def _loss_value(self, logits_BC: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        s_BC = logits_BC.double()
        value = F.cross_entropy(s_BC, labels_B, label_smoothing=self._loss.label_smoothing, reduction="sum")
        magnitude = 1 + s_BC.abs().amax()
        if self._loss.logit_penalty:
            penalty = self._loss.logit_penalty / 2 * s_BC.square().sum()
            value, magnitude = value + penalty, magnitude + penalty
        return value, magnitude

    def _backward_links(
        self,
        names: Sequence[tuple[str, str | None]],
        layers: Sequence[tuple[Tensor, Tensor | None]],
        trace: MLPTrace,
        labels_B: Tensor,
        total: int,
        probes: Sequence[tuple[Tensor, Tensor]],
    ) -> Iterator[tuple[str, str, Tensor]]:
        s_BC, d_s_BC = trace.pre_activations[-1], trace.d_pre_activations[-1]
        if d_s_BC is not None:
            classes = s_BC.shape[1]
            p_BC = torch.softmax(s_BC, 1)
            q_BC = F.one_hot(labels_B, classes).to(s_BC.dtype) * (1 - self._loss.label_smoothing)
            q_BC = q_BC + self._loss.label_smoothing / classes
            pull_BC = self._loss.logit_penalty * s_BC
            size = p_BC * (2 + (s_BC - s_BC.amax(1, keepdim=True)).abs()) + q_BC + pull_BC.abs()
            yield (
                "ds = (softmax(s) − q + λs) / N",
                "the gradient of the logits",
                _share_rows(d_s_BC * total - (p_BC - q_BC + pull_BC), ELEMENTWISE_ULPS * size),
            )
        for index in reversed(range(1, len(layers))):
            (weight, _), (_, v_D) = layers[index], probes[index]
            d_z_BH, d_h_BD = trace.d_pre_activations[index], trace.d_inputs[index]
            if d_z_BH is None or d_h_BD is None:
                break
            scale = _norms(d_z_BH, 1) * _norms(weight)
            yield (
                "dh v = dz (W v)",
                f"the backward product with {names[index][0]}",
                _share(d_h_BD @ v_D - d_z_BH @ (weight @ v_D), LAMBDA * math.sqrt(sum(weight.shape)) * scale),
            )
            below = trace.d_pre_activations[index - 1]
            if below is not None:
                derivative = derivative_reference(self._loss.activation, trace.pre_activations[index - 1])
                ulps = 0.0 if self._loss.activation == "relu" else ELEMENTWISE_ULPS
                yield (
                    "dz = dh ⊙ σ'(z)",
                    f"the derivative after layer {index - 1}",
                    _share_rows(below - d_h_BD * derivative, ulps * d_h_BD.abs()),
                )

    def _gradient_links(
        self,
        names: Sequence[tuple[str, str | None]],
        layers: Sequence[tuple[Tensor, Tensor | None]],
        gradients: Sequence[tuple[Tensor | None, Tensor | None]],
        traces: Sequence[MLPTrace],
        probes: Sequence[tuple[Tensor, Tensor]],
    ) -> Iterator[tuple[str, str, Tensor]]:
        for index, (names_l, layer, gradients_l) in enumerate(zip(names, layers, gradients, strict=True)):
            (weight_name, bias_name), (d_weight, d_bias), (_, u_D) = names_l, gradients_l, probes[index]
            pairs = [(t.d_pre_activations[index], t.inputs[index]) for t in traces]
            complete = [(d_z, h) for d_z, h in pairs if d_z is not None]
            for name, parameter, gradient in zip(names_l, layer, gradients_l, strict=True):
                if name is not None and parameter is not None and parameter.requires_grad:
                    there = gradient is not None and len(complete) == len(pairs)
                    yield "a gradient is there", name, u_D.new_full((1,), 0.0 if there else math.inf)
            if len(complete) < len(pairs):
                continue
            examples = sum(len(h) for _, h in complete)
            if d_weight is not None:
                expected = sum(d_z.T @ (h @ u_D) for d_z, h in complete)
                scale = torch.stack([_norms(d_z, 0) * _norms(h) for d_z, h in complete]).sum(0)
                yield (
                    "dW u = Σ dzᵀ (h u)",
                    weight_name,
                    _share(d_weight @ u_D - expected, LAMBDA * math.sqrt(examples + d_weight.shape[1]) * scale),
                )
            if bias_name is not None and d_bias is not None:
                summed = sum(d_z.sum(0, dtype=torch.float64) for d_z, _ in complete)
                scale = sum(d_z.abs().sum(0, dtype=torch.float64) for d_z, _ in complete)
                residual = d_bias.double() - summed
                yield "db = Σ dz", bias_name, _share(residual, LAMBDA * math.sqrt(examples) * scale, _unit(d_bias))


_REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "identity": lambda z: z,
}


def activation_reference(name: str, z: Tensor) -> Tensor:
    """``σ(z)`` by PyTorch's own functions."""
    return _REFERENCES[name](z)


def derivative_reference(name: str, z: Tensor) -> Tensor:
    """``σ'(z)`` by formulas of its own: 0 and α at the kink, logistic and normal functions from ``torch.special``."""
    if name in KINKED:
        return torch.where(z > 0, 1.0, KINKED[name]).to(z.dtype)
    if name == "sigmoid":
        return torch.sigmoid(z) * torch.sigmoid(-z)
    if name == "tanh":
        return torch.cosh(z).reciprocal().square()
    if name == "gelu":
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return torch.special.ndtr(z) + z * density
    return torch.ones_like(z)


def _unit(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps / 2


def _norms(x: Tensor, dim: int | None = None) -> Tensor:
    # Squares of numbers below √tiny underflow to 0; what that can hide from the norm is added back.
    terms = x.numel() if dim is None else x.shape[dim]
    return torch.linalg.vector_norm(x, dim=dim) + math.sqrt(terms * torch.finfo(x.dtype).tiny)


def _share(residual: Tensor, scale: Tensor, unit: float | None = None) -> Tensor:
    """``|residual| / (scale · u + underflow)``: a residual of exactly 0 is no share of anything."""
    # Each of up to some thousand products may have underflowed.
    underflow = 1e4 * torch.finfo(residual.dtype if unit is None else torch.float32).tiny
    threshold = scale * (_unit(residual) if unit is None else unit) + underflow
    return residual.abs() / threshold


def _share_rows(residual: Tensor, scale: Tensor) -> Tensor:
    """The largest share in each row of an elementwise comparison."""
    share = _share(residual, scale)
    return share.flatten(1).amax(1) if share.numel() else share.new_zeros(1)


def _bad_rows(share: Tensor) -> tuple[int, ...]:
    return tuple(int(row) for row in (~(share <= 1)).nonzero().flatten()[:_SHOWN])
