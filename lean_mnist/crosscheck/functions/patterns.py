"""Relations between a wrong tensor and the right one that ``diagnose`` looks for, and the words for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Beyond this many differing rows a pairwise comparison would cost more than the hint is worth.
MOST_ROWS = 512


def named_dims(x: Tensor) -> list[tuple[int, str]]:
    """The dimensions that have names: rows (the first) and columns (the last), or the elements of a vector."""
    if x.dim() == 0:
        return []
    if x.dim() == 1:
        return [(0, "element")]
    return [(0, "row"), (x.dim() - 1, "column")]


def permutation(ours: Tensor, reference: Tensor, wrong: Tensor, dim: int) -> Tensor | None:
    """``order`` with ``ours ≈ reference[order]`` along ``dim``, if the wrong slices are wrong by being elsewhere."""
    size = ours.shape[dim]
    a, b = (x.movedim(dim, 0).reshape(size, -1) for x in (ours, reference))
    places = wrong.movedim(dim, 0).reshape(size, -1).any(1).nonzero().flatten()
    if not 2 <= len(places) <= MOST_ROWS:
        return None
    nearest = torch.cdist(a[places], b[places]).argmin(1)
    if len(nearest.unique()) != len(places):
        return None
    order = torch.arange(size, device=ours.device)
    order[places] = places[nearest]
    return None if bool((order == torch.arange(size, device=ours.device)).all()) else order


def describe_permutation(order: Tensor, name: str) -> str:
    size = len(order)
    identity = torch.arange(size, device=order.device)
    moved = (order != identity).nonzero().flatten().tolist()
    if len(moved) == 2:
        return f"{name}s {moved[0]} and {moved[1]} are swapped"
    for shift in (1, -1):
        if bool((order == identity.roll(shift)).all()):
            return f"the {name}s are shifted by {abs(shift)}"
    if bool((order == identity.flip(0)).all()):
        return f"the {name}s are in reverse"
    return f"{len(moved)} {name}s are in each other's places"


def all_in_one(ours: Tensor, reference: Tensor, dim: int) -> int | None:
    """The one slice along ``dim`` that holds the sum of all of the reference's, where all the others are zero."""
    size = ours.shape[dim]
    a, b = (x.movedim(dim, 0).reshape(size, -1) for x in (ours, reference))
    used = (a != 0).any(1).nonzero().flatten()
    if size < 2 or len(used) != 1 or int((b != 0).any(1).sum()) < 2:
        return None
    total = b.sum(0)
    close = bool((a[used[0]] - total).norm() <= 1e-2 * total.norm())
    return int(used[0]) if close else None


def factors_along(ours: Tensor, reference: Tensor, dim: int) -> Tensor | None:
    """For each slice along ``dim`` the factor that fits best (``None`` where slices are too short to tell)."""
    others = [d for d in range(ours.dim()) if d != dim]
    if not others or ours.numel() // max(ours.shape[dim], 1) < 3:
        return None
    energy = reference.square().sum(others, keepdim=True)
    return (ours * reference).sum(others, keepdim=True) / energy.clamp(min=torch.finfo(torch.float64).tiny)


def describe_factor(factor: float, sizes: Sequence[int]) -> str:
    """``factor`` in words: a whole number or its reciprocal where it is one, and whether it is one of ``sizes``."""
    text = f"{factor:.6g} times the reference"
    for number, shown in ((factor, "{}"), (1 / factor if factor else 0.0, "1/{}")):
        whole = round(number)
        if abs(whole) > 1 and abs(number - whole) <= 1e-3 * abs(whole):
            text = f"{shown.format(whole)} times the reference"
            if abs(whole) in sizes and abs(whole) > 2:
                text += f" ({abs(whole)} is a size here: a mean for a sum, or a sum for a mean?)"
            break
    return text
