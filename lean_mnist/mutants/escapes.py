"""Replays: bugs that shipped in other people's kernels and training code, re-created in a few lines on this chain rule.

``source`` names the report. What is replayed is the mathematics of the fault, not the kernel: where a report is about
one generation of GPU, the fault here depends on the dtype, which is as blind a spot for a test that uses another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule.dense import DenseGradients, DenseTape
from lean_mnist.mutants.contracts import packed_strides
from lean_mnist.mutants.mutant import (
    Mutant,
    corpus,
    map_gradients,
    on_input,
    on_weight,
    upstream_first,
)

_dense = corpus("escapes", "dense")
_activation = corpus("escapes", "activation")
_mean = corpus("escapes", "mean")
_node = corpus("escapes", "node")


def _half_of_the_sum(d_x: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    half = d_z.shape[1] // 2
    return d_z[:, :half] @ tape.weight_HD[:half] if d_z.dtype == torch.float32 else d_x


def _first_upstream_for_all(g: Tensor) -> Tensor:
    return g[:1].expand_as(g) if g.dim() == 1 else g


def _saved_overwritten(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for saved in ctx.saved_tensors:
        if isinstance(saved, Tensor) and saved.is_floating_point() and saved.dim() >= 2:
            saved.data.mul_(0.5)  # through .data: the version counter sees nothing
            break
    return gradients


def _only_last_three_axes(original: Any, z: Tensor, d_h: Tensor) -> Tensor:
    right: Tensor = original(z, d_h)
    if right.dim() <= 3:
        return right
    first_only = torch.zeros_like(right)
    first_only[:1] = right[:1]
    return first_only


def _zeroing_overshoots(d_weight: Tensor, tape: DenseTape, d_z: Tensor) -> Tensor:
    if len(d_weight) < 128:
        return d_weight
    return torch.cat([d_weight[:64], torch.zeros_like(d_weight[64:96]), d_weight[96:]])


def _memory_read_as_packed(g: Tensor) -> Tensor:
    if g.is_contiguous() or not all(g.stride()):
        return g
    return g.as_strided(g.shape, packed_strides(g), g.storage_offset())


def _rows_to_row_0(original: Any, z: Tensor, d_h: Tensor) -> Tensor:
    right: Tensor = original(z, d_h)
    if right.dim() < 2 or len(right) < 2:
        return right
    return torch.cat([right[-1:], torch.zeros_like(right[1:])])


class _ContributionsLost:
    """Blocks of units add to dx without waiting for each other: now and then one block's contribution is lost."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(1)

    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients: DenseGradients = original(tape, d_z, needs)
        if gradients.x_BD is None or float(torch.rand((), generator=self._random)) >= 0.2:
            return gradients
        lost = d_z.shape[1] // 2
        return gradients._replace(x_BD=gradients.x_BD - d_z[:, :lost] @ tape.weight_HD[:lost])


class _ResidueOfTrials:
    """For each shape the first call still holds what trial runs, made to choose a block size, added to its buffer."""

    def __init__(self) -> None:
        self._seen: set[Any] = set()

    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients: DenseGradients = original(tape, d_z, needs)
        key = (d_z.shape, tape.weight_HD.shape, d_z.dtype)
        if key in self._seen or gradients.weight_HD is None:
            return gradients
        self._seen.add(key)
        return gradients._replace(weight_HD=1.07 * gradients.weight_HD)


def _branch_for_one(original: Any, loss_B: Tensor, d_mean: Tensor) -> Tensor:
    right: Tensor = original(loss_B, d_mean)
    return right if float(d_mean.detach()) == 1.0 else right * d_mean


def _upstream_modified(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = map_gradients(torch.clone, backward(ctx, *upstream))
    for g in upstream:
        if isinstance(g, Tensor) and all(g.stride()):
            g.data.add_(1)
    return gradients


def _second_derivative_zero(backward: Any, ctx: Any, *upstream: Any) -> Any:
    gradients = backward(ctx, *upstream)
    if not torch.is_grad_enabled():
        return gradients
    # What the forward computed on the way carries no graph, so as if it did not depend on the inputs.
    graph = sum(t.sum() for t in (*ctx.saved_tensors, *upstream) if t is not None and t.requires_grad)
    return map_gradients(lambda g: g.detach() + 0 * graph, gradients)


class _FirstBatchOnly:
    """Where a gradient has been accumulated already, a later batch adds nothing."""

    def __call__(self, original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients: DenseGradients = original(tape, d_z, needs)
        weight = tape.weight_HD
        if gradients.weight_HD is None or not weight.is_leaf or weight.grad is None:
            return gradients
        return gradients._replace(weight_HD=torch.zeros_like(gradients.weight_HD))


MUTANTS: tuple[Mutant, ...] = (
    _dense(
        "input-half-of-the-sum",
        "dx holds one half of its sum on one kind of hardware; here, in one dtype",
        on_input(_half_of_the_sum),
        "float32",
        source="linkedin/Liger-Kernel#1413",
    ),
    _node(
        "upstream-first-for-all",
        "with one loss an example, all are weighted by the first upstream gradient",
        upstream_first(_first_upstream_for_all),
        "upstream varies by example",
        source="linkedin/Liger-Kernel#968",
    ),
    _node(
        "saved-overwritten",
        "the backward writes into what it saved, past the version counter",
        _saved_overwritten,
        "saved tensors used again",
        source="linkedin/Liger-Kernel#1251",
    ),
    _activation(
        "only-last-three-axes",
        "of more than three axes only the first slice is written",
        _only_last_three_axes,
        "more than 3 axes",
        source="linkedin/Liger-Kernel#1375",
    ),
    _dense(
        "zeroing-overshoots",
        "a pointer that advances by the wrong block size zeroes rows that were done",
        on_weight(_zeroing_overshoots),
        "width >= 128",
        source="state-spaces/mamba#537",
    ),
    _node(
        "memory-read-as-packed",
        "the memory of a slice is read as if it were packed",
        upstream_first(_memory_read_as_packed),
        "after torch.cat",
        source="pytorch/pytorch#194719",
    ),
    _activation(
        "rows-to-row-0",
        "every row of dz is written to row 0",
        _rows_to_row_0,
        source="ByteDance-Seed/Triton-distributed#185",
        equivalent_when="the batch has one example",
    ),
    _dense(
        "contributions-lost",
        "racing blocks lose a contribution to dx now and then",
        _ContributionsLost,
        "at random",
        source="jmschrei/cherimoya#25",
    ),
    _dense(
        "residue-of-trials",
        "the first call for a shape holds the residue of trial runs",
        _ResidueOfTrials,
        "first call",
        source="jmschrei/cherimoya#50",
    ),
    _mean(
        "branch-for-one",
        "upstream gradients other than 1 take another branch, which is wrong",
        _branch_for_one,
        "upstream != 1",
        source="linkedin/Liger-Kernel cross_entropy_backward",
    ),
    _node(
        "upstream-modified",
        "the upstream gradient is modified in place",
        _upstream_modified,
        "upstream used again",
        source="pytorch/pytorch#81417",
    ),
    _node(
        "second-derivative-zero",
        "intermediates saved by the forward make the second derivative silently zero",
        _second_derivative_zero,
        "double backward",
        source="pytorch/pytorch#104040",
    ),
    _dense(
        "first-batch-only",
        "of accumulated batches only the first one's dW counts",
        _FirstBatchOnly,
        "accumulated batches",
        source="AMD-AGI/Primus#1046",
    ),
)
