"""Relations between a wrong tensor and the right one that ``diagnose`` looks for, and the words for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Beyond these numbers of differing slices, or of parts of a sum, looking closer would cost more than the hint is worth.
MOST_SLICES, MOST_ROWS, PROJECTED = 1024, 512, 16


def named_dims(x: Tensor) -> list[tuple[int, str]]:
    """The dimensions that have names: rows (the first) and columns (the last), or the elements of a vector."""
    if x.dim() == 0:
        return []
    if x.dim() == 1:
        return [(0, "element")]
    return [(0, "row"), (x.dim() - 1, "column")]


def permutation(ours: Tensor, reference: Tensor, wrong: Tensor, dim: int) -> Tensor | None:
    """``order`` with ``ours ≈ reference[order]`` along ``dim``, if the wrong slices are right ones in other places."""
    size = ours.shape[dim]
    a, b = (x.movedim(dim, 0).reshape(size, -1) for x in (ours, reference))
    places = wrong.movedim(dim, 0).reshape(size, -1).any(1).nonzero().flatten()
    if not 2 <= len(places) <= MOST_SLICES:
        return None
    a, b = a[places], b[places]
    before, after = (x.norm(dim=1) for x in (a, b))
    if bool(((before.sort().values - after.sort().values).abs() > 0.05 * after.amax()).any()):
        return None  # slices that have only changed places have the same norms
    if a.shape[1] > 2 * PROJECTED:  # a few random directions tell slices apart as well as all their elements
        directions = torch.randn(a.shape[1], PROJECTED, generator=torch.Generator().manual_seed(0), dtype=a.dtype)
        a, b = (x @ directions.to(x.device) for x in (a, b))
    distances = torch.cdist(a, b)
    nearest = distances.argmin(1)
    # Some slices are alike (pixels that are always black): each takes the nearest that is left.
    taken: set[int] = set()
    for place, wish in enumerate(nearest.tolist()):
        if wish in taken:
            wish = int(distances[place].index_fill(0, torch.tensor(sorted(taken), device=a.device), torch.inf).argmin())
            nearest[place] = wish
        taken.add(wish)
    order = torch.arange(size, device=ours.device)
    order[places] = places[nearest]
    return None if bool((order == torch.arange(size, device=ours.device)).all()) else order


def describe_permutation(order: Tensor, name: str) -> str:
    """The slices that changed places, in words."""
    moved = (order != torch.arange(len(order), device=order.device)).nonzero().flatten().tolist()
    if len(moved) == 2:
        return f"{name}s {moved[0]} and {moved[1]} are swapped"
    return f"{len(moved)} {name}s are in each other's places"


def all_in_one(ours: Tensor, reference: Tensor, dim: int) -> str | None:
    """The source of the only slice along ``dim`` that is not zero, where the reference has several, in words."""
    size, name = ours.shape[dim], dict(named_dims(ours))[dim]
    a, b = (x.movedim(dim, 0).reshape(size, -1) for x in (ours, reference))
    used = (a != 0).any(1).nonzero().flatten()
    if size < 2 or len(used) != 1 or int((b != 0).any(1).sum()) < 2:
        return None
    target, found = int(used[0]), a[used[0]]
    if bool((found - b.sum(0)).norm() <= 1e-2 * b.sum(0).norm()):
        return f"all {name}s were added up in {name} {target}"
    source = int((b - found).norm(dim=1).argmin())
    if source != target and bool((found - b[source]).norm() <= 1e-2 * b[source].norm()):
        return f"{name} {source} stands in {name} {target}, and all others are zero: written to one place"
    return None


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


def weights_of_parts(ours: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor] | None:
    """The weight of each part of ``Σ_n left[:, n] right[n, :]`` in ``ours``, and the sum with those weights.

    Least squares over ``n`` unknowns: ``(leftᵀ left ⊙ right rightᵀ) c = diagonal of leftᵀ ours rightᵀ``.
    Where there are more parts than independent numbers the weights are not determined; then runs of parts are tried.
    ``None`` if no weights are found that are telling.
    """
    a, b = left.double(), right.double()
    wanted = ours.reshape(a.shape[0], b.shape[1])
    parts = a.shape[1]
    if parts < 2 or parts > MOST_ROWS:
        return None
    gram = (a.T @ a) * (b @ b.T)
    alive = gram.diagonal() > 0  # a part of zeros may count as often as it likes
    if not bool(alive.any()):
        return None
    scale = gram.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    normal = gram * scale[:, None] * scale
    values, vectors = torch.linalg.eigh(normal[alive][:, alive])
    if float(values[0]) > 1e-7 * float(values[-1]):
        answer = ((a.T @ wanted) * b).sum(1) * scale
        weights = torch.ones(parts, dtype=torch.float64, device=a.device)
        weights[alive] = (vectors @ ((vectors.T @ answer[alive]) / values)) * scale[alive]
        return weights, ((a * weights) @ b).reshape(ours.shape)
    return _run_of_parts(wanted, a, b, ours)


def _run_of_parts(wanted: Tensor, a: Tensor, b: Tensor, ours: Tensor) -> tuple[Tensor, Tensor] | None:
    """The first so many parts, the last so many, or one alone, where one of these gives ``wanted``."""
    if a.shape[0] * a.shape[1] * b.shape[1] > MOST_ROWS**2:
        return None
    terms = a.T[:, :, None] * b[:, None, :]
    total, upto = terms.sum(0), terms.cumsum(0)
    parts = len(terms)
    positions = torch.arange(parts, device=a.device)
    for models, counted in (
        (upto[:-1], positions <= positions[:-1, None]),
        (total - upto[:-1], positions > positions[:-1, None]),
        (terms, positions == positions[:, None]),
        (total - terms, positions != positions[:, None]),
    ):
        off = (models - wanted).flatten(1).norm(dim=1)
        best = int(off.argmin())
        if float(off[best]) <= 1e-3 * float(total.norm()):
            return counted[best].double(), models[best].reshape(ours.shape)
    return None


def describe_weights(weights: Tensor, each: str) -> str:
    """The number of times that parts are counted, in words; empty if each is counted once, or some in part."""
    whole = weights.round()
    if bool(((weights - whole).abs() > 0.02).any()) or bool((whole == 1).all()):
        return ""
    lost, often = (whole == 0).nonzero().flatten().tolist(), ((whole != 0) & (whole != 1)).nonzero().flatten().tolist()
    said = [f"{_listed(lost, each)} {'is' if len(lost) == 1 else 'are'} missing from the sum"] if lost else []
    said += [f"{each} {n} is counted {int(whole[n])} times" for n in often[:3]]
    if len(often) > 3:
        said.append(f"and {len(often) - 3} more are not counted once")
    return ", ".join(said)


def _listed(places: list[int], each: str) -> str:
    first, last = places[0], places[-1]
    if len(places) == 1:
        return f"{each} {first}"
    if last - first + 1 == len(places):
        return f"{each}s {first}..{last}"
    return f"{each}s {', '.join(map(str, places[:4]))}" + (f" and {len(places) - 4} more" if len(places) > 4 else "")


def other_function(ours: Tensor, reference: Tensor, at: Tensor, upstream: Tensor) -> tuple[float, float, float] | None:
    """A place where ``ours / upstream`` is a smooth function of ``at`` and another than ``reference / upstream``.

    Smooth: each value is what its neighbours, in the order of ``at``, let one expect. Returns a place where the two
    functions differ much, and both values there.
    """
    large = upstream.abs() > 1e-3 * upstream.abs().amax()
    v = upstream[large].double()
    found, expected, places = ours[large] / v, reference[large] / v, at[large].double()
    if len(places) < 50:
        return None
    places, order = places.sort()
    found, expected = found[order], expected[order]
    gap = (places[2:] - places[:-2]).clamp(min=1e-300)
    share = (places[1:-1] - places[:-2]) / gap
    rough = (found[1:-1] - found[:-2] - share * (found[2:] - found[:-2])).abs()
    off = (found - expected).abs()[1:-1]
    if float(off.median()) == 0 or float(rough.median()) > 0.02 * float(off.median()):
        return None
    worst = int(off.argmax()) + 1
    return float(places[worst]), float(found[worst]), float(expected[worst])


def projected(ours: Tensor, left: Tensor) -> Tensor | None:
    """The part of ``ours`` that is ``left`` times some matrix; ``None`` where it always is."""
    if ours.dim() != 2 or left.shape[0] != ours.shape[0]:
        return None
    basis, sizes, _ = torch.linalg.svd(left.double(), full_matrices=False)
    basis = basis[:, sizes > 1e-5 * sizes[0]]
    if basis.shape[1] * 2 > ours.shape[0]:  # so many columns span almost everything
        return None
    return basis @ (basis.T @ ours)
