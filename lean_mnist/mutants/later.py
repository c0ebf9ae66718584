"""Written after all other mutants had been measured; no threshold of any check was changed for one of these.

They are here to show that the checks were not fitted to the corpus.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule.dense import DenseGradients, DenseTape
from lean_mnist.chainrule.mlp import MLPTape
from lean_mnist.mutants.mutant import (
    Mutant,
    after,
    corpus,
    map_gradients,
    on_bias,
    on_weight,
    upstream_first,
    with_entry,
)

_dense, _activation, _loss, _mean, _network, _node = (
    partial(corpus("later", site), written_after_freeze=True)
    for site in ("dense", "activation", "loss", "mean", "network", "node")
)


def _ten_bits(x: Tensor) -> Tensor:
    """Rounded to ten bits after the leading one, as tensor cores read float32 unless told not to."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


def _products_ten_bits(original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
    gradients: DenseGradients = original(DenseTape(*map(_ten_bits, tape)), _ten_bits(d_z), needs)
    return gradients


def _element_off(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    row = int(d_weight.detach().norm(dim=1).argmax())
    return with_entry(d_weight, (row, 0), d_weight[row, 0] + 1e-3 * d_weight[row].norm())


def _small_flushed(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    size = d_weight.detach().abs()
    return d_weight.masked_fill(size < 1e-3 * size.amax(), 0)


def _symmetrized(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    return (d_weight + d_weight.T) / 2 if d_weight.shape[0] == d_weight.shape[1] else d_weight


def _padded_by_repetition(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    missing = -len(d_z) % 16
    return d_weight + missing * d_z[-1:].T @ tape.x_BD[-1:] if missing else d_weight


def _swizzled(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    if d_weight.shape[1] % 64:
        return d_weight
    return d_weight.unflatten(1, (-1, 2, 32)).flip(2).flatten(1)


def _bias_in_half(d_bias: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    return d_z.to(torch.float16).sum(0).to(d_z.dtype)


class _Momentum:
    """Adds 0.9 times what it returned for this shape before."""

    def __init__(self) -> None:
        self._kept: dict[Any, Tensor] = {}

    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients: DenseGradients = original(tape, d_z, needs)
        if gradients.weight_HD is None:
            return gradients
        key = (gradients.weight_HD.shape, gradients.weight_HD.dtype)
        before = self._kept.get(key)
        faulty = gradients.weight_HD if before is None else gradients.weight_HD + 0.9 * before
        self._kept[key] = faulty.detach().clone()
        return gradients._replace(weight_HD=faulty)


class _PingPong:
    """Two buffers in turn: from the third call of a node on, the gradients are those of two calls ago."""

    def __init__(self) -> None:
        self._kept: dict[Any, list[tuple[Any, ...]]] = {}

    def __call__(self, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        right = map_gradients(torch.clone, backward(ctx, *upstream))
        kept = self._kept.setdefault(tuple(None if g is None else (g.shape, g.dtype) for g in right), [])
        kept.append(map_gradients(lambda g: g.detach().clone(), right))
        return right if len(kept) < 3 else kept.pop(0)


class _BufferReused:
    """Returns views of one buffer a shape, so that what an earlier call returned changes under its owner's hands."""

    def __init__(self) -> None:
        self._buffers: dict[Any, Tensor] = {}

    def __call__(self, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        gradients = map_gradients(torch.clone, backward(ctx, *upstream))
        return tuple(
            self._written(number, g) if isinstance(g, Tensor) and not g.requires_grad else g
            for number, g in enumerate(gradients)
        )

    def _written(self, number: int, g: Tensor) -> Tensor:
        buffer = self._buffers.setdefault((number, g.shape, g.dtype), torch.empty_like(g))
        return buffer.copy_(g).view_as(buffer)


def _mask_without_bias(original: Any, tape: MLPTape, layers: Any, activation: Any, *rest: Any) -> Any:
    if activation.name != "relu":
        return original(tape, layers, activation, *rest)
    recomputed = tuple(h @ weight.T for h, (weight, _) in zip(tape.inputs, layers[:-1], strict=False))
    return original(tape._replace(saved=recomputed), layers, activation, *rest)


def _rule(formula: Any) -> Any:
    def fault(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
        p_BC, labels_B, _ = tape
        d_s_BC: Tensor = formula(p_BC, F.one_hot(labels_B, p_BC.shape[1]).to(p_BC.dtype), labels_B)
        return d_s_BC * d_loss_B[:, None]

    return fault


def _focal(p: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    return (p - y) * (1 - (p * y).sum(1, keepdim=True)) ** 2


def _balanced(p: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    share = y.mean(0).clamp(min=1 / max(1, len(y)))
    return (p - y) / (share[labels] * y.shape[1])[:, None]


def _hard(p: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype) - y


def _written_over_saved(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    d_s: Tensor = original(tape, d_loss_B)
    tape[0].data.copy_(d_s.detach())
    return d_s


def _converged_skipped(original: Any, loss_B: Tensor, d_mean: Tensor) -> Tensor:
    right: Tensor = original(loss_B, d_mean)
    return 0 * right if loss_B.numel() and float(loss_B.detach().mean()) < 0.05 else right


def _float32_inside(original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
    gradients = original(DenseTape(*(t.float() for t in tape)), d_z.float(), needs)
    return DenseGradients(*(None if g is None else g.to(d_z.dtype) for g in gradients))


def _tiny_is_zero(g: Tensor) -> Tensor:
    return torch.zeros_like(g) if g.numel() and float(g.detach().abs().amax()) < 1e-6 else g


def _autocast_branch(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = backward(ctx, *upstream)
    return map_gradients(lambda g: 1.1 * g, gradients) if torch.is_autocast_enabled("cpu") else gradients


MUTANTS: tuple[Mutant, ...] = (
    _dense("products-ten-bits", "factors are rounded to ten bits, as tensor cores may", _products_ten_bits),
    _dense("weight-element-off", "one element of dW is off by 0.1 % of its row's norm", on_weight(_element_off)),
    _dense("weight-columns-rolled", "the columns of dW are rolled by one", on_weight(lambda g, t, z: g.roll(1, 1))),
    _dense(
        "weight-small-flushed",
        "elements of dW below 0.1 % of the largest are flushed to zero",
        on_weight(_small_flushed),
    ),
    _dense(
        "weight-centered",
        "each row of dW has its mean taken off",
        on_weight(lambda g, t, z: g - g.mean(1, keepdim=True)),
    ),
    _dense("weight-symmetrized", "a square dW is made symmetric", on_weight(_symmetrized), "square weight"),
    _dense(
        "weight-padded-by-repetition",
        "a batch is padded to 16 with its last example",
        on_weight(_padded_by_repetition),
        "batch not divisible by 16",
    ),
    _dense(
        "weight-swizzled",
        "blocks of 32 columns are exchanged where 64 divides the columns",
        on_weight(_swizzled),
        "features divisible by 64",
    ),
    _dense("weight-momentum-leaked", "0.9 times the last dW is added", _Momentum, "second call"),
    _dense("bias-in-half", "db is summed in float16", on_bias(_bias_in_half)),
    _dense(
        "float32-inside",
        "products of float64 arrays are formed in float32",
        _float32_inside,
        "float64",
        equivalent_when="the run's precision is float32",
    ),
    _activation(
        "mask-relu6",
        "the derivative is zero above z = 6",
        lambda original, z, g: g * ((z > 0) & (z <= 6)),
        "pre-activation > 6",
    ),
    _network(
        "mask-without-bias",
        "masks are recomputed from pre-activations without their bias",
        _mask_without_bias,
        "bias != 0",
    ),
    _loss(
        "rows-sorted",
        "the rows of ds are in the order of their labels",
        after(lambda d, tape, g: d[tape[1].argsort(stable=True)]),
        equivalent_when="the batch is in the order of its labels",
    ),
    _loss("focal-left-in", "the factor (1 − p_y)² of the focal loss is left in", _rule(_focal)),
    _loss(
        "classes-balanced",
        "examples are weighted by how rare their class is in the batch",
        _rule(_balanced),
        equivalent_when="all classes are equally frequent in the batch",
    ),
    _loss("softmax-hard", "p is taken to be 1 at the largest logit", _rule(_hard)),
    _loss("clipped-to-0.02", "ds is clipped to ±0.02", after(lambda d, tape, g: d.clamp(-0.02, 0.02))),
    _loss(
        "written-over-saved",
        "ds is written over the saved probabilities",
        _written_over_saved,
        "saved tensors used again",
        source="linkedin/Liger-Kernel#272",
    ),
    _mean("converged-skipped", "no gradient once the mean loss is below 0.05", _converged_skipped, "loss < 0.05"),
    _node(
        "upstream-tiny-is-zero",
        "upstream gradients below 1e-6 are taken for zero",
        upstream_first(_tiny_is_zero),
        "upstream < 1e-6",
    ),
    _node(
        "upstream-in-half",
        "the upstream gradient passes through float16",
        upstream_first(lambda g: g.to(torch.float16).to(g.dtype)),
        "upstream != 1",
    ),
    _node(
        "losses-get-nothing",
        "with one loss an example every gradient is zero",
        upstream_first(lambda g: 0 * g if g.dim() == 1 else g),
        "upstream varies by example",
        source="microsoft/DirectML#739",
    ),
    _node("ping-pong", "from the third call on gradients are those of two calls ago", _PingPong, "third call"),
    _node(
        "autocast-branch-wrong",
        "where autocast is on another branch runs, whose gradients are 10 % too large",
        _autocast_branch,
        "autocast",
    ),
    _node(
        "buffer-reused",
        "gradients are returned in a buffer that the next call writes to",
        _BufferReused,
        "earlier gradients used again",
    ),
)
