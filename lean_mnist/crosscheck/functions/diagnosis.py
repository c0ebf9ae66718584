"""What is wrong with a tensor, and where: the likely class of a fault, from the wrong values beside the right ones.

``diagnose`` tries explanations from the most to the least specific. An explanation is a model of ``ours`` made from
the reference (its negative, its transpose, a permutation of its rows, …); it is accepted when it leaves at most
``UNEXPLAINED`` of the error ``‖ours − reference‖`` over. It is a hint for a person, never part of a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lean_mnist.crosscheck.functions import patterns
from lean_mnist.crosscheck.functions.regions import Region, region_of

UNEXPLAINED = 0.03
ULPS = 64.0

KINDS = (
    "NaN",
    "zero",
    "sign",
    "constant factor",
    "transpose",
    "row or column swap",
    "mask",
    "missing term",
    "stale value",
    "upstream ignored",
    "nondeterminism",
    "precision",
    "layout",
    "wrong values",  # none of the above fits
)


@dataclass(frozen=True)
class Diagnosis:
    """The likely class (one of ``KINDS``), in words; where; and both values at the place that is farthest off."""

    kind: str
    text: str
    where: str
    index: tuple[int, ...]
    ours: float
    reference: float

    def __str__(self) -> str:
        place = f"[{', '.join(map(str, self.index))}]"
        values = f"at {place} {self.ours:.9g} instead of {self.reference:.9g}"
        return f"likely {self.kind}: {self.text} ({self.where}; {values})"


@dataclass(frozen=True)
class _Case:
    """Ours, the reference and their difference in float64, and what else may explain it."""

    ours: Tensor
    reference: Tensor
    wrong: Tensor  # bool, which elements differ
    region: Region
    tolerance: float
    dtype: torch.dtype  # of ours, before it was cast
    upstream: Tensor | None
    candidates: Mapping[str, Tensor]
    terms: Mapping[str, Tensor]
    sizes: tuple[int, ...]

    @property
    def error(self) -> Tensor:
        return self.ours - self.reference

    def explains(self, model: Tensor) -> bool:
        """Whether ``ours`` is ``model``, as far as the size of the error lets one tell."""
        left = float((self.ours - model).norm())
        return left <= max(UNEXPLAINED * float(self.error.norm()), self.tolerance * math.sqrt(self.ours.numel()))


Explanation = Callable[[_Case], "Iterator[tuple[str, str]]"]


@torch.no_grad()
def diagnose(
    ours: Tensor,
    reference: Tensor,
    upstream: Tensor | None = None,
    *,
    tolerance: float | None = None,
    candidates: Mapping[str, Tensor] | None = None,
    terms: Mapping[str, Tensor] | None = None,
    sizes: Sequence[int] = (),
) -> Diagnosis:
    """The likely fault in ``ours``, a tensor of any shape that should equal ``reference``, of the same shape.

    Args:
        upstream: the upstream gradient, where its shape may say something.
        tolerance: elements closer than this are right; by default 64 units of rounding of ``ours``' precision.
        candidates: what ``ours`` would be if a fault of this kind (a member of ``KINDS``) had been made.
        terms: by name, tensors of which a multiple may have been added (a weight: a decay that leaked in).
        sizes: numbers (of examples, of classes) that a wrong constant factor may be.
    """
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    dtype = ours.dtype
    a, b = ours.detach().double(), reference.detach().to(ours.device).double()
    error = (a - b).abs()
    if error.numel() == 0:
        return Diagnosis("wrong values", "nothing to compare", "nowhere", (), 0.0, 0.0)
    index = tuple(int(i) for i in torch.unravel_index(error.nan_to_num(nan=math.inf).argmax(), error.shape))
    values = (index, float(a[index]), float(b[index]))
    if not bool(a.isfinite().all()):
        bad = region_of(~a.isfinite())
        name = "NaN" if bool(a.isnan().any()) else "infinity"
        return Diagnosis("NaN", f"{bad.count} of {bad.total} values are {name}", str(bad), *values)
    if not bool(b.isfinite().all()):
        return Diagnosis("wrong values", "the reference is not finite", str(region_of(~b.isfinite())), *values)
    scale = float(b.square().mean().sqrt())
    if tolerance is None:
        tolerance = ULPS * torch.finfo(dtype).eps / 2 * scale
    wrong = error > torch.maximum(torch.full_like(b, tolerance), ULPS * torch.finfo(dtype).eps / 2 * b.abs())
    if not bool(wrong.any()):  # each element is close and still their sum of squares is not
        wrong = error > 0
    # Beside a gross error in some elements, what rounding did to the others is not part of the region.
    wrong &= error > 1e-4 * error.max()
    case = _Case(
        a, b, wrong, region_of(wrong, b != 0), tolerance, dtype, upstream, candidates or {}, terms or {}, tuple(sizes)
    )
    for explanation in _EXPLANATIONS:
        for kind, text in explanation(case):
            return Diagnosis(kind, text, str(case.region), *values)
    raise AssertionError("the last explanation always applies")


def _one_destination(case: _Case) -> Iterator[tuple[str, str]]:
    for dim, name in patterns.named_dims(case.ours):
        target = patterns.all_in_one(case.ours, case.reference, dim)
        if target is not None:
            yield "row or column swap", f"all {name}s were added up in {name} {target}"


def _zero(case: _Case) -> Iterator[tuple[str, str]]:
    at_wrong = case.ours[case.wrong]
    if bool((at_wrong == 0).all()):
        if case.region.everywhere or case.region.count == case.region.total or not bool(case.ours.any()):
            yield "zero", "the gradient is zero"
        elif case.region.tile or case.region.count == 1:
            yield "zero", "zero where the reference is not"


def _candidates(case: _Case) -> Iterator[tuple[str, str]]:
    words = {
        "upstream ignored": "this is the gradient for an upstream gradient of ones",
        "stale value": "this is the gradient of the call before",
    }
    for kind, model in case.candidates.items():
        if model.shape == case.ours.shape and case.explains(model.double()):
            yield kind, words.get(kind, f"equal to what {kind} gives")


def _sign(case: _Case) -> Iterator[tuple[str, str]]:
    if case.explains(torch.where(case.wrong, -case.reference, case.reference)):
        yield "sign", "the opposite sign"


def _transpose(case: _Case) -> Iterator[tuple[str, str]]:
    if case.ours.dim() < 2 or min(case.ours.shape[-2:]) < 2:
        return
    turned = case.reference.mT
    if turned.shape == case.ours.shape and case.explains(turned):
        yield "transpose", "the transpose of the reference"
    elif case.explains(turned.reshape(case.ours.shape)):
        yield "transpose", "the transpose of the reference, reshaped instead of transposed back"


def _permutation(case: _Case) -> Iterator[tuple[str, str]]:
    for dim, name in patterns.named_dims(case.ours):
        order = patterns.permutation(case.ours, case.reference, case.wrong, dim)
        if order is None or not case.explains(case.reference.index_select(dim, order)):
            continue
        yield "row or column swap", patterns.describe_permutation(order, name)


def _mask(case: _Case) -> Iterator[tuple[str, str]]:
    ours, reference = case.ours[case.wrong], case.reference[case.wrong]
    zeros_ours, zeros_reference = ours == 0, reference == 0
    if case.region.count > 1 and bool(zeros_reference.all()):
        yield "mask", "nonzero where the reference is zero: something is not masked"
    elif bool((zeros_ours ^ zeros_reference).all()):
        yield "mask", "zero where the reference is not, or the other way round: another mask"


def _factor(case: _Case) -> Iterator[tuple[str, str]]:
    if case.region.count < 2 and case.region.total > 1:
        return
    b = torch.where(case.wrong, case.reference, 0)
    energy = float(b.square().sum())
    if energy == 0:
        return
    factor = float((case.ours * b).sum()) / energy
    if case.explains(torch.where(case.wrong, factor * case.reference, case.reference)):
        yield "constant factor", patterns.describe_factor(factor, (*case.sizes, *case.ours.shape))


def _added_terms(case: _Case) -> Iterator[tuple[str, str]]:
    for name, term in case.terms.items():
        if term.shape != case.ours.shape or not bool(term.any()):
            continue
        t = term.double()
        multiple = float((case.error * t).sum() / t.square().sum())
        if multiple and case.explains(case.reference + multiple * t):
            yield "missing term", f"{multiple:.3g} times {name} was added"


def _only_upstream(case: _Case) -> Iterator[tuple[str, str]]:
    v = case.upstream
    if v is None or v.shape != case.ours.shape or not bool(v.any()):
        return
    v = v.double()
    multiple = float((case.ours * v).sum() / v.square().sum())
    if multiple and case.explains(multiple * v):
        yield "missing term", f"{multiple:.3g} times the upstream gradient, and nothing else"


def _structured(case: _Case) -> Iterator[tuple[str, str]]:
    for dim, name in patterns.named_dims(case.ours):
        mean = case.error.mean(dim, keepdim=True).expand_as(case.error)
        if case.ours.shape[dim] > 2 and case.explains(case.reference + mean):
            yield "missing term", f"off by the same number all along each {name}: a sum or mean over it is missing"
    for dim, name in patterns.named_dims(case.ours):
        ratio = patterns.factors_along(case.ours, case.reference, dim)
        if ratio is not None and case.explains(ratio * case.reference):
            yield "missing term", f"each {name} has a factor of its own: a factor is missing"


def _precision(case: _Case) -> Iterator[tuple[str, str]]:
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
            yield "precision", f"every value is a {name} number: rounded to {name} on the way"
            return
    digits = -math.log10(error / size)
    words = "as when accumulated in bfloat16 or float16" if digits < 4.5 else "more than its precision explains"
    yield "precision", f"right to {digits:.1f} digits, with errors that look random: {words}"


def _missing(case: _Case) -> Iterator[tuple[str, str]]:
    a, b = torch.where(case.wrong, case.ours, 0), torch.where(case.wrong, case.reference, 0)
    product = float(a.norm() * b.norm())
    cosine = float((a * b).sum()) / product if product else 0.0
    if case.region.count > 2 and abs(cosine) > 0.3:
        yield "missing term", f"cosine {cosine:.2f} with the reference: right in part"


def _wrong(case: _Case) -> Iterator[tuple[str, str]]:
    yield "wrong values", "no simple relation to the reference"


_EXPLANATIONS: tuple[Explanation, ...] = (
    _one_destination,
    _zero,
    _candidates,
    _sign,
    _transpose,
    _permutation,
    _mask,
    _factor,
    _added_terms,
    _only_upstream,
    _structured,
    _precision,
    _missing,
    _wrong,
)
