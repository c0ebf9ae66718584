"""Bugs that shipped in other people's kernels and training code, re-created in a few lines on this chain rule.

``source`` names the report. The mathematics is replayed, not the kernel: a fault of one generation of GPU depends on
the dtype here, which is as blind a spot for a test that uses another.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseTape
from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.mutants import mutant as parts
from lean_mnist.mutants.mutant import Group, Memory, key_of, map_gradients, with_entry

# fmt: off
GROUP = Group("shipped bugs")
weight, into_layer_below, slope, upstream, node = (
    partial(GROUP, part) for part in (parts.WEIGHT, parts.INPUT, parts.SLOPE, parts.UPSTREAM, parts.NODE)
)
into_layer_below("input-half-of-the-sum", Kind.MISSING_TERM,
    "dx holds one half of its sum on one kind of hardware; here, in one dtype", "float32",
    source="linkedin/Liger-Kernel#1413")(lambda g, t, z: z[:, : z.shape[1] // 2] @ t.weight_HD[: z.shape[1] // 2]
                                         if z.dtype == torch.float32 else g)
# Each example lacks its own factor.
upstream("upstream-first-for-all", (Kind.UPSTREAM_IGNORED, Kind.MISSING_TERM),
    "with one loss an example, all are weighted by the first upstream gradient", "upstream varies by example",
    source="linkedin/Liger-Kernel#968")(lambda g: g[:1].expand_as(g) if g.dim() == 1 else g)


@node("saved-overwritten", Kind.MUTATION, shows="saved tensors used again", source="linkedin/Liger-Kernel#1251")
def _saved_overwritten(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    """The backward writes into what it saved, past the version counter."""
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for saved in ctx.saved_tensors:
        if isinstance(saved, Tensor) and saved.is_floating_point() and saved.dim() >= 2:
            saved.data.mul_(0.5)  # through .data: the version counter sees nothing
            break
    return gradients


slope("only-last-three-axes", Kind.ZERO, "of more than three axes only the first slice is written", "more than 3 axes",
    source="linkedin/Liger-Kernel#1375")(
    lambda right, z, g: right if g.dim() <= 3 else with_entry(right, slice(1, None), 0))
weight("zeroing-overshoots", Kind.ZERO, "a pointer that advances by the wrong block size zeroes rows that were done",
    "width >= 128",
    source="state-spaces/mamba#537")(lambda g, t, z: g if len(g) < 128 else with_entry(g, slice(64, 96), 0))
upstream("memory-read-as-packed", Kind.LAYOUT, "the memory of a slice is read as if it were packed", "after torch.cat",
    source="pytorch/pytorch#194719")(
    lambda g: g if g.is_contiguous() or not all(g.stride()) else
    g.as_strided(g.shape, torch.empty(g.shape, device="meta").stride(), g.storage_offset()))
slope(
    "rows-to-row-0",
    Kind.PERMUTATION,
    "every row of dz is written to row 0",
    source="ByteDance-Seed/Triton-distributed#185",
    unless="the batch has one example",
)(lambda right, z, g: right if right.dim() < 2 or len(right) < 2 else with_entry(torch.zeros_like(right), 0, right[-1]))


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


# What trial runs, made to choose a block size, added to the buffer.
@weight(
    "residue-of-trials",
    (Kind.NONDETERMINISM, Kind.CONSTANT_FACTOR),
    shows="first call",
    source="jmschrei/cherimoya#50",
    remembers=True,
)
def _residue_of_trials(memory: Memory, d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    """The first call for a shape holds the residue of trial runs."""
    number = memory.count()
    return 1.07 * d_weight if memory.kept.setdefault(key_of(d_z, d_weight), number) == number else d_weight


GROUP(parts.MEAN, "branch-for-one", Kind.CONSTANT_FACTOR,
    "upstream gradients other than 1 take another branch, which is wrong", "upstream != 1",
    source="linkedin/Liger-Kernel cross_entropy_backward")(
    lambda right, loss_B, d_mean: right if float(d_mean.detach()) == 1.0 else right * d_mean)


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
