"""Bugs that shipped in other people's kernels and training code, re-created in a few lines on this chain rule.

``source`` names the report. The mathematics of the fault is replayed, not the kernel: where a report is about one
generation of GPU, the fault here depends on the dtype, which is as blind a spot for a test that uses another.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants.corpus.nodes import packed_strides
from lean_mnist.mutants.mutant import (
    ACTIVATION,
    INPUT,
    MEAN,
    NODE,
    UPSTREAM,
    WEIGHT,
    Group,
    Memory,
    key_of,
    map_gradients,
)

GROUP = Group("shipped bugs")
weight, into_layer_below, slope, upstream, node = (
    partial(GROUP, part) for part in (WEIGHT, INPUT, ACTIVATION, UPSTREAM, NODE)
)


@into_layer_below("input-half-of-the-sum", Kind.MISSING_TERM, shows="float32", source="linkedin/Liger-Kernel#1413")
def _half_of_the_sum(d_x: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """dx holds one half of its sum on one kind of hardware; here, in one dtype."""
    half = d_z.shape[1] // 2
    return d_z[:, :half] @ tape.weight_HD[:half] if d_z.dtype == torch.float32 else d_x


# Each example lacks its own factor.
upstream(
    "upstream-first-for-all",
    (Kind.UPSTREAM_IGNORED, Kind.MISSING_TERM),
    "with one loss an example, all are weighted by the first upstream gradient",
    "upstream varies by example",
    source="linkedin/Liger-Kernel#968",
)(lambda g: g[:1].expand_as(g) if g.dim() == 1 else g)


@node("saved-overwritten", Kind.MUTATION, shows="saved tensors used again", source="linkedin/Liger-Kernel#1251")
def _saved_overwritten(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """The backward writes into what it saved, past the version counter."""
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for saved in ctx.saved_tensors:
        if isinstance(saved, Tensor) and saved.is_floating_point() and saved.dim() >= 2:
            saved.data.mul_(0.5)  # through .data: the version counter sees nothing
            break
    return gradients


@slope("only-last-three-axes", Kind.ZERO, shows="more than 3 axes", source="linkedin/Liger-Kernel#1375")
def _only_last_three_axes(original: Any, z: Tensor, d_h: Tensor) -> Tensor:
    """Of more than three axes only the first slice is written."""
    right: Tensor = original(z, d_h)
    return right if right.dim() <= 3 else torch.cat([right[:1], torch.zeros_like(right[1:])])


@weight("zeroing-overshoots", Kind.ZERO, shows="width >= 128", source="state-spaces/mamba#537")
def _zeroing_overshoots(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """A pointer that advances by the wrong block size zeroes rows that were done."""
    if len(d_weight) < 128:
        return d_weight
    return torch.cat([d_weight[:64], torch.zeros_like(d_weight[64:96]), d_weight[96:]])


@upstream("memory-read-as-packed", Kind.LAYOUT, shows="after torch.cat", source="pytorch/pytorch#194719")
def _memory_read_as_packed(g: Tensor) -> Tensor:
    """The memory of a slice is read as if it were packed."""
    if g.is_contiguous() or not all(g.stride()):
        return g
    return g.as_strided(g.shape, packed_strides(g), g.storage_offset())


@slope(
    "rows-to-row-0",
    Kind.PERMUTATION,
    source="ByteDance-Seed/Triton-distributed#185",
    equivalent_when="the batch has one example",
)
def _rows_to_row_0(original: Any, z: Tensor, d_h: Tensor) -> Tensor:
    """Every row of dz is written to row 0."""
    right: Tensor = original(z, d_h)
    if right.dim() < 2 or len(right) < 2:
        return right
    return torch.cat([right[-1:], torch.zeros_like(right[1:])])


@into_layer_below(
    "contributions-lost", Kind.NONDETERMINISM, shows="at random", source="jmschrei/cherimoya#25", remembers=True
)
def _contributions_lost(memory: Memory, d_x: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """Racing blocks lose a contribution to dx now and then."""
    race = memory.kept.setdefault("race", torch.Generator().manual_seed(1))
    if float(torch.rand((), generator=race)) >= 0.2:
        return d_x
    lost = d_z.shape[1] // 2
    return d_x - d_z[:, :lost] @ tape.weight_HD[:lost]


# The first call only is 1.07 times what it should be.
@weight(
    "residue-of-trials",
    (Kind.NONDETERMINISM, Kind.CONSTANT_FACTOR),
    shows="first call",
    source="jmschrei/cherimoya#50",
    remembers=True,
)
def _residue_of_trials(memory: Memory, d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """The first call for a shape holds the residue of trial runs.

    The residue is what trial runs, made to choose a block size, added to the buffer.
    """
    key = (d_z.shape, d_weight.shape, d_z.dtype)
    return d_weight if memory.kept.setdefault(key, memory.count()) < memory.calls else 1.07 * d_weight


@GROUP(
    MEAN,
    "branch-for-one",
    Kind.CONSTANT_FACTOR,
    shows="upstream != 1",
    source="linkedin/Liger-Kernel cross_entropy_backward",
)
def _branch_for_one(original: Any, loss_B: Tensor, d_mean: Tensor) -> Tensor:
    """Upstream gradients other than 1 take another branch, which is wrong."""
    right: Tensor = original(loss_B, d_mean)
    return right if float(d_mean.detach()) == 1.0 else right * d_mean


@node("upstream-modified", Kind.MUTATION, shows="upstream used again", source="pytorch/pytorch#81417")
def _upstream_modified(backward: Any, ctx: Any, *upstream: Any) -> Any:
    """The upstream gradient is modified in place."""
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for g in upstream:
        if isinstance(g, Tensor) and all(g.stride()):
            g.data.add_(1)
    return gradients


@node("second-derivative-zero", Kind.ZERO, shows="double backward", source="pytorch/pytorch#104040")
def _second_derivative_zero(backward: Any, ctx: Any, *upstream: Any) -> Any:
    """Intermediates saved by the forward make the second derivative silently zero."""
    gradients = backward(ctx, *upstream)
    if not torch.is_grad_enabled():
        return gradients
    # What the forward computed on the way carries no graph, so as if it did not depend on the inputs.
    graph = sum(t.sum() for t in (*ctx.saved_tensors, *upstream) if t is not None and t.requires_grad)
    return map_gradients(lambda g: g.detach() + 0 * graph, gradients)


@weight(
    "first-batch-only", Kind.MISSING_TERM, shows="accumulated batches", source="AMD-AGI/Primus#1046", remembers=True
)
def _first_batch_only(memory: Memory, d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """Of accumulated batches only the first one's dW counts."""
    weight, first_x = memory.kept.get(key_of(tape.weight_HD), (None, None))
    if weight is not None and torch.equal(weight, tape.weight_HD) and not torch.equal(first_x, tape.x_BD):
        return torch.zeros_like(d_weight)
    memory.kept[key_of(tape.weight_HD)] = tape.weight_HD.detach().clone(), tape.x_BD.detach().clone()
    return d_weight
