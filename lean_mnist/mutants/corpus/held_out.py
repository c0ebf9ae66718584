"""Bugs written after all others had been measured: no threshold of any check was changed for one of these."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.chainrule.mlp import MLPTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants import mutant as parts
from lean_mnist.mutants.mutant import Group, Memory, key_of, map_gradients, with_entry

# fmt: off
GROUP = Group("held-out")
weight, factors, formula, loss, upstream, node = (
    partial(GROUP, part)
    for part in (parts.WEIGHT, parts.FACTORS, parts.LOSS_FORMULA, parts.LOSS_GRADIENT, parts.UPSTREAM, parts.NODE)
)


@factors("products-ten-bits", Kind.PRECISION)
def _ten_bits(factor: Tensor) -> Tensor:
    """Factors are rounded to ten bits, as tensor cores may.

    To ten bits after the leading one, as these read float32 unless told not to.
    """
    mantissa, exponent = torch.frexp(factor)
    return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


@weight("weight-element-off", Kind.WRONG_VALUES)
def _element_off(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """One element of dW is off by 0.1 % of its row's norm."""
    row = int(d_weight.detach().norm(dim=1).argmax())
    return with_entry(d_weight, (row, 0), d_weight[row, 0] + 1e-3 * d_weight[row].norm())


weight("weight-columns-rolled", Kind.PERMUTATION, "the columns of dW are rolled by one")(lambda g, t, z: g.roll(1, 1))
weight("weight-small-flushed", Kind.ZERO, "elements of dW below 0.1 % of the largest are flushed to zero")(
    lambda g, t, z: g.masked_fill(g.detach().abs() < 1e-3 * g.detach().abs().amax(), 0))
weight("weight-centered", Kind.MISSING_TERM,
    "each row of dW has its mean taken off")(lambda g, t, z: g - g.mean(1, keepdim=True))
weight("weight-symmetrized", Kind.TRANSPOSE, "a square dW is made symmetric",
    "square weight")(lambda g, t, z: (g + g.T) / 2 if g.shape[0] == g.shape[1] else g)
weight("weight-padded-by-repetition", Kind.MISSING_TERM, "a batch is padded to 16 with its last example",
    "batch not divisible by 16")(
    lambda g, t, z: g + (-len(z) % 16) * z[-1:].T @ t.x_BD[-1:] if len(z) % 16 else g)
weight("weight-swizzled", Kind.PERMUTATION, "blocks of 32 columns are exchanged where 64 divides the columns",
    "features divisible by 64")(
    lambda g, t, z: g if g.shape[1] % 64 else g.unflatten(1, (-1, 2, 32)).flip(2).flatten(1))


@weight("weight-momentum-leaked", (Kind.STALE_VALUE, Kind.MISSING_TERM), shows="second call", remembers=True)
def _momentum(memory: Memory, d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """0.9 times the last dW is added."""
    before = memory.kept.get(key_of(d_weight))
    faulty = d_weight if before is None else d_weight + 0.9 * before
    memory.kept[key_of(d_weight)] = faulty.detach().clone()
    return faulty


GROUP(parts.BIAS, "bias-in-half", Kind.PRECISION,
    "db is summed in float16")(lambda g, t, z: z.to(torch.float16).sum(0).to(z.dtype))
factors("float32-inside", Kind.PRECISION, "products of float64 arrays are formed in float32", "float64",
    unless="the run's precision is float32")(lambda factor: factor.float())
GROUP(parts.SLOPE, "mask-relu6", Kind.MASK, "the derivative is zero above z = 6",
    "pre-activation > 6")(lambda right, z, g: g * ((z > 0) & (z <= 6)))


@GROUP(parts.NETWORK, "mask-without-bias", Kind.MASK, shows="bias != 0")
def _mask_without_bias(original: Any, tape: MLPTape, layers: Any, activation: Any, *rest: Any) -> Any:
    """Masks are recomputed from pre-activations without their bias."""
    if activation.name != "relu":
        return original(tape, layers, activation, *rest)
    recomputed = tuple(h @ weight.T for h, (weight, _) in zip(tape.inputs, layers[:-1], strict=False))
    return original(tape._replace(saved=recomputed), layers, activation, *rest)


loss("rows-sorted", Kind.PERMUTATION, "the rows of ds are in the order of their labels",
    unless="the batch is in the order of its labels")(lambda d_s, tape, d_loss: d_s[tape[1].argsort(stable=True)])
formula("focal-left-in", Kind.MISSING_TERM, "the factor (1 − p_y)² of the focal loss is left in")(
    lambda p, y, s: (p - y) * (1 - (p * y).sum(1, keepdim=True)) ** 2)
formula("classes-balanced", Kind.MISSING_TERM, "examples are weighted by how rare their class is in the batch",
    unless="all classes are equally frequent in the batch")(lambda p, y, s: (p - y) / (
        (y * y.mean(0).clamp(min=1 / max(1, len(y)))).sum(1, keepdim=True) * y.shape[1]))
formula("softmax-hard", Kind.DERIVATIVE,
    "p is taken to be 1 at the largest logit")(lambda p, y, s: F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype) - y)
loss("clipped-to-0.02", Kind.CLIPPING, "ds is clipped to ±0.02")(lambda d_s, tape, d_loss: d_s.clamp(-0.02, 0.02))


@loss("written-over-saved", Kind.MUTATION, shows="saved tensors used again", source="linkedin/Liger-Kernel#272")
def _written_over_saved(d_s: Tensor, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
    """ds is written over the saved probabilities."""
    tape[0].data.copy_(d_s.detach())
    return d_s


GROUP(parts.MEAN, "converged-skipped", Kind.ZERO, "no gradient once the mean loss is below 0.05", "loss < 0.05")(
    lambda right, loss_B, d_mean: 0 * right if loss_B.numel() and float(loss_B.detach().mean()) < 0.05 else right)
upstream("upstream-tiny-is-zero", Kind.ZERO, "upstream gradients below 1e-6 are taken for zero",
    "upstream < 1e-6")(lambda g: torch.zeros_like(g) if g.numel() and float(g.detach().abs().amax()) < 1e-6 else g)
upstream("upstream-in-half", Kind.PRECISION, "the upstream gradient passes through float16",
    "upstream != 1")(lambda g: g.to(torch.float16).to(g.dtype))
upstream("losses-get-nothing", Kind.ZERO, "with one loss an example every gradient is zero",
    "upstream varies by example", source="microsoft/DirectML#739")(lambda g: 0 * g if g.dim() == 1 else g)


@node("ping-pong", Kind.STALE_VALUE, shows="third call", remembers=True)
def _ping_pong(memory: Memory, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """From the third call on gradients are those of two calls ago."""
    right = map_gradients(torch.clone, backward(ctx, *upstream))
    kept = memory.kept.setdefault(key_of(*right), [])
    kept.append(map_gradients(lambda g: g.detach().clone(), right))
    return right if len(kept) < 3 else kept.pop(0)


GROUP(parts.GRADIENT, "autocast-branch-wrong", Kind.CONSTANT_FACTOR,
    "where autocast is on another branch runs, whose gradients are 10 % too large",
    "autocast")(lambda g: 1.1 * g if torch.is_autocast_enabled("cpu") else g)


@node("buffer-reused", (Kind.MUTATION, Kind.STALE_VALUE), shows="earlier gradients used again", remembers=True)
def _buffer_reused(memory: Memory, backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """Gradients are returned in a buffer that the next call writes to."""

    def written(number: int, g: Tensor) -> Tensor:
        buffer: Tensor = memory.kept.setdefault((number, g.shape, g.dtype), torch.empty_like(g))
        return buffer.copy_(g).view_as(buffer)

    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    return tuple(written(n, g) if isinstance(g, Tensor) and not g.requires_grad else g for n, g in enumerate(gradients))
