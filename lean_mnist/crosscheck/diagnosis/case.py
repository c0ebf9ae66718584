"""A wrong tensor beside the right one: where it is wrong, in words, and what else may explain the difference."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis.kinds import Candidate

# A set of wrong elements is called a tile when it fills this share of the smallest box of rows × columns around it.
FILLED = 0.6
LISTED = 4


@dataclass(frozen=True)
class Region:
    """The elements that differ: how many of how many, the places along each dimension, and whether they form a tile."""

    count: int
    total: int
    places: tuple[tuple[int, ...], ...]  # along each dimension, where anything differs
    shape: tuple[int, ...]
    tile: bool

    @property
    def everywhere(self) -> bool:
        """True if no row or column is right."""
        return self.tile and all(len(p) == n for p, n in zip(self.places, self.shape, strict=True))

    def __str__(self) -> str:
        if self.count == 0:
            return "nowhere"
        if self.count == 1:
            place = ", ".join(str(p[0]) for p in self.places)
            return f"one element, [{place}]" if self.shape else "the number"
        if self.everywhere:
            return "everywhere"
        if not self.tile:
            return f"{self.count} of {self.total} elements, scattered"
        sides = enumerate(zip(self.places, self.shape, strict=True))
        return ", ".join(_along(dim, len(self.shape), places, n) for dim, (places, n) in sides if len(places) < n)


@torch.no_grad()
def region_of(wrong: Tensor, possible: Tensor | None = None) -> Region:
    """The region of a bool tensor of any shape that is true where something is wrong.

    ``possible``: where something could be seen to be wrong at all (a ReLU's zeros thin out a tile).
    """
    shape, count = tuple(wrong.shape), int(wrong.sum())
    places = []
    for dim in range(wrong.dim()):
        others = [d for d in range(wrong.dim()) if d != dim]
        along = wrong.any(dim=others) if others else wrong
        places.append(tuple(along.nonzero().flatten().tolist()))
    box = torch.ones_like(wrong) if possible is None else possible | wrong
    for dim, along_dim in enumerate(places):
        box = box.index_select(dim, torch.tensor(along_dim, dtype=torch.long, device=wrong.device))
    tile = count > 0 and count >= FILLED * int(box.sum())
    return Region(count, wrong.numel(), tuple(places), shape, tile)


def _along(dim: int, dims: int, places: tuple[int, ...], size: int) -> str:
    one, many = f"index of dimension {dim}", f"indices of dimension {dim}"
    if dims == 1 or dim in (0, dims - 1):
        one = "element" if dims == 1 else "row" if dim == 0 else "column"
        many = f"{one}s"
    first, number = places[0], len(places)
    if places[-1] - first + 1 == number and places[-1] == size - 1:
        if number == 1:
            return f"the last {one} of {size}"
        return f"the last {number} {many} of {size}" if number <= size // 2 and dim == 0 else f"{many} >= {first}"
    steps = {b - a for a, b in itertools.pairwise(places)}
    if len(steps) == 1 and steps != {1} and number > 2:
        step = steps.pop()
        return (
            f"every {step}th {one} from {first} to {places[-1]}"
            if step > 3
            else f"every {('2nd', '3rd')[step - 2]} {one}"
        )
    return listed(places, one, many)


def listed(places: Sequence[int], one: str, many: str) -> str:
    """Rising ``places`` in words: one, a range, or the first few."""
    if len(places) == 1:
        return f"{one} {places[0]}"
    if places[-1] - places[0] + 1 == len(places):
        return f"{many} {places[0]}..{places[-1]}"
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return f"{many} {', '.join(map(str, places[:LISTED]))}{more}"


UNEXPLAINED = 0.03  # share of the error ‖ours − reference‖ that a model of ours may leave over


class Product(NamedTuple):
    """``ours`` is ``Σ_n left[:, n] right[n, :]``, each term the part of one ``each`` (an example, a unit)."""

    left: Tensor  # (rows, n)
    right: Tensor  # (n, columns)
    each: str


class Pointwise(NamedTuple):
    """``ours`` is ``upstream ⊙ f(at)`` for some function of one number."""

    at: Tensor
    upstream: Tensor


@dataclass(frozen=True)
class Case:
    """Ours and the reference in float64, and the hints that ``diagnose`` was given."""

    ours: Tensor
    reference: Tensor
    wrong: Tensor  # bool, which elements differ
    region: Region
    tolerance: Tensor  # elementwise
    dtype: torch.dtype  # of ours, before it was cast
    upstream: Tensor | None  # the upstream gradient, where its shape may say something
    candidates: Sequence[Candidate]  # what ours would be if certain faults had been made
    terms: Mapping[str, Tensor]  # of which a multiple may have been added (a weight: a decay that leaked in)
    leftovers: Mapping[str, Tensor]  # the same, of earlier calls: a buffer that was not cleared
    sizes: Sequence[int]  # of examples, of classes: numbers that a wrong constant factor may be
    product: Product | None  # that ours is, so that lost examples or units can be named
    pointwise: Pointwise | None  # that ours is

    @functools.cached_property
    def error(self) -> Tensor:
        """Ours less the reference."""
        return self.ours - self.reference

    @functools.cached_property
    def relative(self) -> float:
        """``‖error‖ / ‖reference‖`` where it is wrong: some faults make large errors only."""
        return float(self.error.norm()) / max(float((self.reference * self.wrong).norm()), 1e-300)

    @functools.cached_property
    def _remainder(self) -> float:
        return max(UNEXPLAINED * float(self.error.norm()), float(self.tolerance.norm()))

    def explains(self, model: Tensor) -> bool:
        """True if ``ours`` is ``model``, as far as the size of the error lets one tell."""
        return model.shape == self.ours.shape and float((self.ours - model).norm()) <= self._remainder

    def of_this_shape(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of ``tensors`` a multiple of which may be part of ours, in float64."""
        return {name: t.double() for name, t in tensors.items() if t.shape == self.ours.shape and bool(t.any())}


def fit(target: Tensor, models: Sequence[Tensor]) -> list[float]:
    """The multiples of ``models`` whose sum is nearest to ``target``."""
    columns = torch.stack([m.flatten() for m in models], 1)
    # By the normal equations, which are as small as there are models.
    gram, right = columns.T @ columns, columns.T @ target.flatten()
    return [float(m) for m in torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right]
