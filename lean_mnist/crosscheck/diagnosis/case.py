"""A wrong tensor beside the right one, with what else may explain the difference."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis.kinds import Candidate
from lean_mnist.crosscheck.diagnosis.regions import Region

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
    upstream: Tensor | None
    candidates: Sequence[Candidate]
    terms: Mapping[str, Tensor]
    leftovers: Mapping[str, Tensor]
    sizes: Sequence[int]
    product: Product | None
    pointwise: Pointwise | None

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
