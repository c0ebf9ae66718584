"""Explanations by the rows and columns of a tensor, the parts of a sum, or a function of one number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis.case import Case, listed
from lean_mnist.crosscheck.diagnosis.kinds import Candidate, Kind

# Slices that change places, or a matrix that is turned, differ by more than this share of what they are.
SMALL = 0.02
# Beyond these numbers of differing slices, or of parts of a sum, looking closer would cost more than the hint is worth.
MOST_SLICES, MOST_ROWS, PROJECTED = 1024, 512, 16


def _named_dims(x: Tensor) -> list[tuple[int, str]]:
    """The dimensions that have names: rows (the first) and columns (the last), or the elements of a vector."""
    return [(0, "row"), (x.dim() - 1, "column")] if x.dim() > 1 else [(0, "element")] * x.dim()


def _slices(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, 0).reshape(x.shape[dim], -1)


def one_destination(case: Case) -> Iterator[Candidate]:
    """Only one slice is not zero, where the reference has several: the sum of all, or another."""
    for dim, name in _named_dims(case.ours):
        a, b = _slices(case.ours, dim), _slices(case.reference, dim)
        used = (a != 0).any(1).nonzero().flatten()
        if len(a) < 2 or len(used) != 1 or int((b != 0).any(1).sum()) < 2:
            continue
        target, found = int(used[0]), a[used[0]]
        if bool((found - b.sum(0)).norm() <= 1e-2 * b.sum(0).norm()):
            yield Candidate(Kind.PERMUTATION, f"all {name}s were added up in {name} {target}")
        source = int((b - found).norm(dim=1).argmin())
        if source != target and bool((found - b[source]).norm() <= 1e-2 * b[source].norm()):
            words = f"{name} {source} stands in {name} {target}, and all others are zero: written to one place"
            yield Candidate(Kind.PERMUTATION, words)


def permutation(case: Case) -> Iterator[Candidate]:
    """The wrong slices are right ones in other places."""
    if case.relative < SMALL:
        return
    for dim, name in _named_dims(case.ours):
        order = _order(case, dim)
        moved = (order != torch.arange(len(order), device=order.device)).nonzero().flatten().tolist()
        if not moved:
            continue
        # Where slices are alike the order is not determined, so shifts are tried by themselves.
        for shift in (1, -1):
            yield Candidate(Kind.PERMUTATION, f"the {name}s are shifted by 1", case.reference.roll(shift, dim))
        words = f"{len(moved)} {name}s are in each other's places"
        if len(moved) == 2:
            words = f"{name}s {moved[0]} and {moved[1]} are swapped"
        yield Candidate(Kind.PERMUTATION, words, case.reference.index_select(dim, order))


def _order(case: Case, dim: int) -> Tensor:
    """``order`` with ``ours ≈ reference[order]`` along ``dim``; that of the reference if there is none."""
    a, b, places = (_slices(x, dim) for x in (case.ours, case.reference, case.wrong))
    order = torch.arange(len(a), device=a.device)
    places = places.any(1).nonzero().flatten()
    if not 2 <= len(places) <= MOST_SLICES:
        return order
    a, b = a[places], b[places]
    before, after = (x.norm(dim=1) for x in (a, b))
    if bool(((before.sort().values - after.sort().values).abs() > 0.05 * after.amax()).any()):
        return order  # slices that have only changed places have the same norms
    if a.shape[1] > 2 * PROJECTED:  # a few random directions tell slices apart as well as all their elements
        directions = torch.randn(
            a.shape[1], PROJECTED, generator=torch.Generator().manual_seed(0), dtype=a.dtype, device="cpu"
        )
        a, b = (x @ directions.to(x.device) for x in (a, b))
    distances = torch.cdist(a, b)
    # Some slices are alike (pixels that are always black): each takes the nearest that is left.
    for row in range(len(places)):
        nearest = distances[row].argmin()
        order[places[row]] = places[nearest]
        distances[:, nearest] = torch.inf
    return order


def structured(case: Case) -> Iterator[Candidate]:
    """Off by one number, or by one factor, all along each row or column."""
    for dim, name in _named_dims(case.ours):
        if case.ours.shape[dim] > 2:
            words = f"off by the same number all along each {name}: a sum or mean over it is missing"
            yield Candidate(Kind.MISSING_TERM, words, case.reference + case.error.mean(dim, keepdim=True))
    for dim, name in _named_dims(case.ours):
        others = [d for d in range(case.ours.dim()) if d != dim]
        if others and case.ours.numel() // case.ours.shape[dim] >= 3:  # slices that are not too short to tell
            energy = case.reference.square().sum(others, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            ratio = (case.ours * case.reference).sum(others, keepdim=True) / energy
            words = f"each {name} has a factor of its own: a factor is missing"
            yield Candidate(Kind.MISSING_TERM, words, ratio * case.reference)
            if case.upstream is not None and case.upstream.shape == case.ours.shape:
                slope = (case.ours / case.upstream.double()).nan_to_num(0.0, 0.0, 0.0)
                energy = slope.square().sum(others, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
                share = (case.error * slope).sum(others, keepdim=True) / energy
                words = f"off by the slope times one number for each {name}: a sum over it is missing"
                yield Candidate(Kind.MISSING_TERM, words, case.reference + share * slope)


def parts(case: Case) -> Iterator[Candidate]:
    """Some parts of the sum ``Σ_n left[:, n] right[n, :]`` are missing, or counted several times.

    Least squares over ``n`` unknowns: ``(leftᵀ left ⊙ right rightᵀ) c = diagonal of leftᵀ ours rightᵀ``.
    Where there are more parts than independent numbers the weights are not determined; then runs of parts are tried.
    """
    if case.product is None or not 2 <= case.product.left.shape[1] <= MOST_ROWS:
        return
    a, b = case.product.left.double(), case.product.right.double()
    wanted = case.ours.reshape(a.shape[0], b.shape[1])
    gram = (a.T @ a) * (b @ b.T)
    alive = gram.diagonal() > 0  # a part of zeros may count as often as it likes
    if not bool(alive.any()):
        return
    scale = gram.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    normal = gram * scale[:, None] * scale
    values, vectors = torch.linalg.eigh(normal[alive][:, alive])
    if float(values[0]) > 1e-7 * float(values[-1]):
        answer = ((a.T @ wanted) * b).sum(1) * scale
        weights = torch.ones_like(scale)
        weights[alive] = (vectors @ ((vectors.T @ answer[alive]) / values)) * scale[alive]
    else:
        weights = _run_of_parts(wanted, a, b)
    words = _weights_in_words(weights, case.product.each)
    if words:
        yield Candidate(Kind.MISSING_TERM, words, ((a * weights) @ b).reshape(case.ours.shape))


def _run_of_parts(wanted: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Weights that count the first so many parts, the last, one, or all but one; ones, where none give ``wanted``."""
    every = torch.ones(a.shape[1], dtype=a.dtype, device=a.device)
    if a.numel() * b.shape[1] > MOST_ROWS**2:
        return every
    terms = a.T[:, :, None] * b[:, None, :]
    total, upto = terms.sum(0), terms.cumsum(0)
    first, one = torch.tril(every.expand(len(every), -1)), torch.diag(every)
    runs = ((upto[:-1], first[:-1]), (total - upto[:-1], 1 - first[:-1]), (terms, one), (total - terms, 1 - one))
    for models, weights in runs:
        off = (models - wanted).flatten(1).norm(dim=1)
        if float(off.amin()) <= 1e-3 * float(total.norm()):
            return weights[off.argmin()]
    return every


def _weights_in_words(weights: Tensor, each: str) -> str:
    """The number of times that parts are counted; empty if each is counted once, or some in part."""
    whole = weights.round()
    if bool(((weights - whole).abs() > 0.02).any()) or bool((whole == 1).all()):
        return ""
    lost, often = (whole == 0).nonzero().flatten().tolist(), ((whole != 0) & (whole != 1)).nonzero().flatten().tolist()
    are = "is" if len(lost) == 1 else "are"
    said = [f"{listed(lost, each, f'{each}s')} {are} missing from the sum"] if lost else []
    said += [f"{each} {n} is counted {int(whole[n])} times" for n in often[:3]]
    if len(often) > 3:
        said.append(f"and {len(often) - 3} more are not counted once")
    return ", ".join(said)


def derivative(case: Case) -> Iterator[Candidate]:
    """``ours / upstream`` is a smooth function of ``at`` and another than ``reference / upstream``.

    Smooth: each value is what its neighbours, in the order of ``at``, let one expect.
    """
    if case.pointwise is None:
        return
    at, upstream = case.pointwise
    large = upstream.abs() > 1e-3 * upstream.abs().amax()
    places, order = at[large].double().sort()
    if len(places) < 50:
        return
    found, expected = ((x[large] / upstream[large].double())[order] for x in (case.ours, case.reference))
    share = (places[1:-1] - places[:-2]) / (places[2:] - places[:-2]).clamp(min=1e-300)
    rough = (found[1:-1] - found[:-2] - share * (found[2:] - found[:-2])).abs()
    off = (found - expected).abs()[1:-1]
    if float(off.median()) == 0 or float(rough.median()) > 0.02 * float(off.median()):
        return
    worst = int(off.argmax()) + 1
    values = f"{float(found[worst]):.4g} instead of {float(expected[worst]):.4g} at {float(places[worst]):.4g}"
    yield Candidate(Kind.DERIVATIVE, f"another function in place of the derivative: {values}")


def another_factor(case: Case) -> Iterator[Candidate]:
    """A little off, and ``left`` times some matrix where not everything is: as with another ``right``."""
    if case.product is None or case.product.each != "unit" or case.ours.dim() != 2:
        return
    size = float(case.error.norm() / case.reference.norm().clamp(min=1e-300))
    basis, sizes, _ = torch.linalg.svd(case.product.left.double(), full_matrices=False)
    basis = basis[:, sizes > 1e-5 * sizes[0]]
    if size < 0.5 and len(basis) == len(case.ours) and basis.shape[1] * 2 <= len(case.ours):  # so few do not span all
        words = f"as if with a weight that is {size:.2g} (relative) off: that of another step"
        yield Candidate(Kind.STALE_VALUE, words, basis @ (basis.T @ case.ours))
