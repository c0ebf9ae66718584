"""The explanations that ``diagnose`` tries: what a tensor would be if this or that had gone wrong.

Each takes a :class:`Case` and yields the class and the words if it fits. An explanation is a model of ``ours`` made
from the reference (its negative, its transpose, a permutation of its rows, …); it fits when it leaves at most
``UNEXPLAINED`` of the error ``‖ours − reference‖`` over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.crosscheck.diagnosis import patterns
from lean_mnist.crosscheck.diagnosis.kinds import Basis, Candidate, Kind
from lean_mnist.crosscheck.diagnosis.regions import Region

UNEXPLAINED = 0.03
ULPS = 64.0
# Slices that change places, or a matrix that is turned, differ by more than this share of what they are.
SMALL = 0.02
NOTHING = 1e-6  # a factor this small leaves what is lost in rounding


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
    """Ours, the reference and their difference in float64, and what else may explain it."""

    ours: Tensor
    reference: Tensor
    wrong: Tensor  # bool, which elements differ
    region: Region
    tolerance: Tensor  # elementwise
    dtype: torch.dtype  # of ours, before it was cast
    upstream: Tensor | None = None
    candidates: tuple[Candidate, ...] = ()
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    leftovers: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    product: Product | None = None
    pointwise: Pointwise | None = None

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
        return float((self.ours - model).norm()) <= self._remainder


class Found(NamedTuple):
    """An explanation that fits: the class, the words, and how much they rest on."""

    kind: Kind
    text: str
    basis: Basis = Basis.FITTED


Explanation = Callable[[Case], Iterator[Found]]


def _one_destination(case: Case) -> Iterator[Found]:
    for dim, _ in patterns.named_dims(case.ours):
        target = patterns.all_in_one(case.ours, case.reference, dim)
        if target is not None:
            yield Found(Kind.PERMUTATION, target)


def _zero(case: Case) -> Iterator[Found]:
    if not bool(((case.ours == 0) | ~case.wrong).all()):
        return
    if case.region.everywhere or case.region.count == case.region.total or not bool(case.ours.any()):
        yield Found(Kind.ZERO, "the gradient is zero")
    elif case.pointwise is not None:
        return  # some elements of an elementwise product: a mask
    elif case.region.tile or case.region.count == 1:
        yield Found(Kind.ZERO, "zero where the reference is not")
    sizes = case.reference.abs()
    largest = float(torch.where(case.wrong, sizes, 0).amax())
    kept = torch.where(case.wrong | (sizes == 0), torch.inf, sizes)
    if case.region.count and 0 < largest <= float(kept.amin()) < torch.inf:
        yield Found(Kind.ZERO, f"all elements up to {largest:.3g} in size are zero, larger ones are right")


def _candidates(case: Case) -> Iterator[Found]:
    for kind, words, model in case.candidates:
        if model.shape == case.ours.shape and case.explains(model.double()):
            yield Found(kind, words, Basis.IDENTIFIED)


def _leftovers(case: Case) -> Iterator[Found]:
    for name, multiple in _multiples(case, case.leftovers):
        yield Found(Kind.STALE_VALUE, f"{multiple:.3g} times {name} was added")


def _sign(case: Case) -> Iterator[Found]:
    if case.relative > 1 and case.explains(torch.where(case.wrong, -case.reference, case.reference)):
        yield Found(Kind.SIGN, "the opposite sign")


def _transpose(case: Case) -> Iterator[Found]:
    if case.relative < SMALL or case.ours.dim() < 2 or min(case.ours.shape[-2:]) < 2:
        return
    turned = case.reference.mT
    if turned.shape == case.ours.shape:
        if case.explains(turned):
            yield Found(Kind.TRANSPOSE, "the transpose of the reference")
        a, b = _fit(case, [case.reference, turned])
        if b and abs(a) < 0.99 and case.explains(a * case.reference + b * turned):
            yield Found(Kind.TRANSPOSE, f"{a:.3g} times the reference and {b:.3g} times its transpose")
    elif case.explains(turned.reshape(case.ours.shape)):
        yield Found(Kind.TRANSPOSE, "the transpose of the reference, reshaped instead of transposed back")


def _permutation(case: Case) -> Iterator[Found]:
    if case.relative < SMALL:
        return
    for dim, name in patterns.named_dims(case.ours):
        order = patterns.permutation(case.ours, case.reference, case.wrong, dim)
        if order is None or not case.explains(case.reference.index_select(dim, order)):
            continue
        # Where slices are alike the order is not determined, so shifts are tried by themselves.
        if any(case.explains(case.reference.roll(shift, dim)) for shift in (1, -1)):
            yield Found(Kind.PERMUTATION, f"the {name}s are shifted by 1")
        yield Found(Kind.PERMUTATION, patterns.describe_permutation(order, name))


def _mask(case: Case) -> Iterator[Found]:
    if case.region.count < (2 if case.pointwise is None else 1):
        return
    zeros_ours, zeros_reference = case.ours == 0, case.reference == 0
    right = ~case.wrong
    if bool((zeros_reference | right).all()):
        yield Found(Kind.MASK, "nonzero where the reference is zero: something is not masked")
    elif bool(((zeros_ours ^ zeros_reference) | right).all()):
        yield Found(Kind.MASK, "zero where the reference is not, or the other way round: another mask")


def _factor(case: Case) -> Iterator[Found]:
    if case.region.count < 2 and case.region.total > 1:
        return
    b = torch.where(case.wrong, case.reference, 0)
    energy = float(b.square().sum())
    if energy == 0:
        return
    factor = float((case.ours * b).sum()) / energy
    if case.explains(torch.where(case.wrong, factor * case.reference, case.reference)):
        if abs(factor) < NOTHING:
            yield Found(Kind.ZERO, "the gradient is zero but for rounding")
        yield Found(Kind.CONSTANT_FACTOR, patterns.describe_factor(factor, (*case.sizes, *case.ours.shape)))


def _clipped(case: Case) -> Iterator[Found]:
    low, high = float(case.ours.amin()), float(case.ours.amax())
    if case.region.count < 2 or low == high:
        return
    from_bound = (case.ours - low).minimum(high - case.ours)
    if bool((case.wrong & (from_bound > 1e-5 * max(abs(low), abs(high)))).any()):
        return
    if case.explains(case.reference.clamp(low, high)):
        yield Found(Kind.CLIPPING, f"clipped to {low:.4g} … {high:.4g}")


def _added_terms(case: Case) -> Iterator[Found]:
    for name, multiple in _multiples(case, case.terms):
        yield Found(Kind.MISSING_TERM, f"{multiple:.3g} times {name} was added")
    fitting = {name: t.double() for name, t in case.terms.items() if t.shape == case.ours.shape and bool(t.any())}
    if len(fitting) < 2 or case.ours.numel() < 4 * len(fitting):
        return
    multiples = _fit(case, list(fitting.values()), case.error)
    if case.explains(case.reference + sum(m * t for m, t in zip(multiples, fitting.values(), strict=True))):
        size = float(case.error.norm())
        said = [
            f"{m:.3g} times {name}"
            for m, (name, t) in zip(multiples, fitting.items(), strict=True)
            if abs(m) * float(t.norm()) > UNEXPLAINED * size
        ]
        yield Found(Kind.MISSING_TERM, f"{' and '.join(said)} were added")


def _multiples(case: Case, terms: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Each of ``terms`` a multiple of which, added to the reference, gives ours."""
    for name, term in terms.items():
        if term.shape != case.ours.shape or not bool(term.any()):
            continue
        t = term.double()
        multiple = float((case.error * t).sum() / t.square().sum())
        if multiple and case.explains(case.reference + multiple * t):
            yield name, multiple


def _fit(case: Case, models: list[Tensor], target: Tensor | None = None) -> list[float]:
    """The multiples of ``models`` whose sum is nearest to ``target`` (ours, if not given)."""
    columns = torch.stack([m.flatten() for m in models], 1)
    wanted = (case.ours if target is None else target).flatten()
    # By the normal equations, which are as small as there are models.
    gram, right = columns.T @ columns, columns.T @ wanted
    return [float(m) for m in torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right]


def _only_upstream(case: Case) -> Iterator[Found]:
    v = case.upstream
    if v is None or v.shape != case.ours.shape or not bool(v.any()):
        return
    v = v.double()
    multiple = float((case.ours * v).sum() / v.square().sum())
    if multiple and case.explains(multiple * v):
        yield Found(Kind.MISSING_TERM, f"{multiple:.3g} times the upstream gradient, and nothing else")


def _parts(case: Case) -> Iterator[Found]:
    if case.product is None:
        return
    left, right, each = case.product
    found = patterns.weights_of_parts(case.ours, left, right)
    if found is None:
        return
    weights, model = found
    text = patterns.describe_weights(weights, each)
    if text and case.explains(model):
        yield Found(Kind.MISSING_TERM, text)


def _derivative(case: Case) -> Iterator[Found]:
    if case.pointwise is None:
        return
    at = patterns.other_function(case.ours, case.reference, case.pointwise.at, case.pointwise.upstream)
    if at is not None:
        where, found, expected = at
        yield Found(
            Kind.DERIVATIVE,
            f"another function in place of the derivative: {found:.4g} instead of {expected:.4g} at {where:.4g}",
        )


def _another_factor(case: Case) -> Iterator[Found]:
    if case.product is None or case.product.each != "unit":
        return
    spanned = patterns.projected(case.ours, case.product.left)
    size = float(case.error.norm() / case.reference.norm().clamp(min=1e-300))
    if spanned is not None and size < 0.5 and case.explains(spanned):
        yield Found(Kind.STALE_VALUE, f"as if with a weight that is {size:.2g} (relative) off: that of another step")


def _structured(case: Case) -> Iterator[Found]:
    for dim, name in patterns.named_dims(case.ours):
        mean = case.error.mean(dim, keepdim=True).expand_as(case.error)
        if case.ours.shape[dim] > 2 and case.explains(case.reference + mean):
            yield Found(
                Kind.MISSING_TERM, f"off by the same number all along each {name}: a sum or mean over it is missing"
            )
    for dim, name in patterns.named_dims(case.ours):
        ratio = patterns.factors_along(case.ours, case.reference, dim)
        if ratio is not None and case.explains(ratio * case.reference):
            yield Found(Kind.MISSING_TERM, f"each {name} has a factor of its own: a factor is missing")


def _precision(case: Case) -> Iterator[Found]:
    error, size = float(case.error.norm()), float(case.reference.norm())
    if size == 0 or error > 2**-5 * size or case.region.count * 4 < case.region.total:
        return
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16"), (torch.float32, "float32")):
        coarser = torch.finfo(dtype).eps > torch.finfo(case.dtype).eps
        if (
            coarser
            and bool((case.ours == case.ours.to(dtype).double()).all())
            and error > torch.finfo(dtype).eps / 64 * size
        ):
            yield Found(Kind.PRECISION, f"every value is a {name} number: rounded to {name} on the way")
            return
    digits = -math.log10(error / size)
    words = "as when accumulated in bfloat16 or float16" if digits < 4.5 else "more than its precision explains"
    yield Found(Kind.PRECISION, f"right to {digits:.1f} digits, with errors that look random: {words}")


def _missing(case: Case) -> Iterator[Found]:
    a, b = torch.where(case.wrong, case.ours, 0), torch.where(case.wrong, case.reference, 0)
    product = float(a.norm() * b.norm())
    cosine = float((a * b).sum()) / product if product else 0.0
    if case.region.count > 2 and abs(cosine) > 0.3:
        yield Found(Kind.MISSING_TERM, f"cosine {cosine:.2f} with the reference: right in part", Basis.VAGUE)


def _wrong(case: Case) -> Iterator[Found]:
    yield Found(Kind.WRONG_VALUES, "no simple relation to the reference", Basis.VAGUE)


# From the most to the least specific; the last always applies.
EXPLANATIONS: tuple[Explanation, ...] = (
    _one_destination,
    _zero,
    _candidates,
    _leftovers,
    _sign,
    _transpose,
    _permutation,
    _mask,
    _factor,
    _clipped,
    _added_terms,
    _only_upstream,
    _parts,
    _structured,
    _derivative,
    _another_factor,
    _precision,
    _missing,
    _wrong,
)
