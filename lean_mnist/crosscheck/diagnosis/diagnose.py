"""``diagnose``: the likely class of a fault and its place, from the wrong values beside the right ones.

An explanation takes a ``Case`` and yields candidates: a class, words, and a model of ``ours`` made from the reference
(its negative, its transpose, a multiple of it, …), or no model where the explanation is known to fit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import place_of_largest
from lean_mnist.crosscheck.diagnosis import patterns
from lean_mnist.crosscheck.diagnosis.case import UNEXPLAINED, Case, Pointwise, Product, fit, region_of
from lean_mnist.crosscheck.diagnosis.kinds import Basis, Candidate, Diagnosis, Kind

NEAR = 2**-5  # a relative error below which digits are right
NOTHING = 1e-6  # a factor this small leaves what is lost in rounding

Explanation = Callable[[Case], Iterator[Candidate]]


def _zero(case: Case) -> Iterator[Candidate]:
    if not bool(((case.ours == 0) | ~case.wrong).all()):
        return
    if case.region.everywhere or case.region.count == case.region.total or not bool(case.ours.any()):
        yield Candidate(Kind.ZERO, "the gradient is zero")
    elif case.pointwise is not None:
        return  # some elements of an elementwise product: a mask
    elif case.region.tile or case.region.count == 1:
        yield Candidate(Kind.ZERO, "zero where the reference is not")
    sizes = case.reference.abs()
    largest = float(torch.where(case.wrong, sizes, 0).amax())
    kept = torch.where(case.wrong | (sizes == 0), torch.inf, sizes)
    if case.region.count and 0 < largest <= float(kept.amin()) < torch.inf:
        yield Candidate(Kind.ZERO, f"all elements up to {largest:.3g} in size are zero, larger ones are right")


def given(case: Case) -> Iterator[Candidate]:
    """The candidates that the caller knows of."""
    return iter(case.candidates)


def _added(case: Case, terms: Mapping[str, Tensor], kind: Kind) -> Iterator[Candidate]:
    for name, term in case.of_this_shape(terms).items():
        (multiple,) = fit(case.error, [term])
        if multiple:
            yield Candidate(kind, f"{multiple:.3g} times {name} was added", case.reference + multiple * term)


def _sign(case: Case) -> Iterator[Candidate]:
    if case.relative > 1:
        yield Candidate(Kind.SIGN, "the opposite sign", torch.where(case.wrong, -case.reference, case.reference))


def _transpose(case: Case) -> Iterator[Candidate]:
    if case.relative < patterns.SMALL or case.ours.dim() < 2 or min(case.ours.shape[-2:]) < 2:
        return
    turned, shape = case.reference.mT, case.ours.shape
    if turned.shape != shape:
        words = "the transpose of the reference, reshaped instead of transposed back"
        yield Candidate(Kind.TRANSPOSE, words, turned.reshape(shape))
        return
    yield Candidate(Kind.TRANSPOSE, "the transpose of the reference", turned)
    a, b = fit(case.ours, [case.reference, turned])
    if b and abs(a) < 0.99:
        words = f"{a:.3g} times the reference and {b:.3g} times its transpose"
        yield Candidate(Kind.TRANSPOSE, words, a * case.reference + b * turned)


def _mask(case: Case) -> Iterator[Candidate]:
    if case.region.count < (2 if case.pointwise is None else 1):
        return
    zeros_ours, zeros_reference, right = case.ours == 0, case.reference == 0, ~case.wrong
    if bool((zeros_reference | right).all()):
        yield Candidate(Kind.MASK, "nonzero where the reference is zero: something is not masked")
    elif bool(((zeros_ours ^ zeros_reference) | right).all()):
        yield Candidate(Kind.MASK, "zero where the reference is not, or the other way round: another mask")


def _factor(case: Case) -> Iterator[Candidate]:
    b = torch.where(case.wrong, case.reference, 0)
    if (case.region.count < 2 and case.region.total > 1) or not bool(b.any()):
        return
    (factor,) = fit(case.ours, [b])
    model = torch.where(case.wrong, factor * case.reference, case.reference)
    if abs(factor) < NOTHING:
        yield Candidate(Kind.ZERO, "the gradient is zero but for rounding", model)
    yield Candidate(Kind.CONSTANT_FACTOR, factor_in_words(factor, (*case.sizes, *case.ours.shape)), model)


def factor_in_words(factor: float, sizes: Sequence[int], of: str = "the reference") -> str:
    """A whole number or its reciprocal where it is one, and whether it is one of ``sizes``."""
    for number, shown in ((factor, "{}"), (1 / factor if factor else 0.0, "1/{}")):
        whole = round(number)
        if abs(whole) > 1 and abs(number - whole) <= 1e-3 * abs(whole):
            text = f"{shown.format(whole)} times {of}"
            if abs(whole) in sizes and abs(whole) > 2:
                text += f" ({abs(whole)} is a size here: a mean for a sum, or a sum for a mean?)"
            return text
    return f"{factor:.6g} times {of}"


def _clipped(case: Case) -> Iterator[Candidate]:
    low, high = float(case.ours.amin()), float(case.ours.amax())
    from_bound = (case.ours - low).minimum(high - case.ours)
    inside = case.wrong & (from_bound > 1e-5 * max(abs(low), abs(high)))
    if case.region.count >= 2 and low != high and not bool(inside.any()):
        yield Candidate(Kind.CLIPPING, f"clipped to {low:.4g} … {high:.4g}", case.reference.clamp(low, high))


def _added_terms(case: Case) -> Iterator[Candidate]:
    yield from _added(case, case.terms, Kind.MISSING_TERM)
    fitting = case.of_this_shape(case.terms)
    if len(fitting) < 2 or case.ours.numel() < 4 * len(fitting):
        return
    size, said, model = float(case.error.norm()), [], case.reference
    for multiple, (name, term) in zip(fit(case.error, list(fitting.values())), fitting.items(), strict=True):
        model = model + multiple * term
        if abs(multiple) * float(term.norm()) > UNEXPLAINED * size:
            said.append(f"{multiple:.3g} times {name}")
    yield Candidate(Kind.MISSING_TERM, f"{' and '.join(said)} were added", model)


def _only_upstream(case: Case) -> Iterator[Candidate]:
    for v in case.of_this_shape({} if case.upstream is None else {"v": case.upstream}).values():
        (multiple,) = fit(case.ours, [v])
        words = f"{multiple:.3g} times the upstream gradient, and nothing else"
        if multiple:
            yield Candidate(Kind.MISSING_TERM, words, multiple * v)


def _precision(case: Case) -> Iterator[Candidate]:
    error, size = float(case.error.norm()), float(case.reference.norm())
    if size == 0 or error > NEAR * size or case.region.count * 4 < case.region.total:
        return
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        name, eps = str(dtype).removeprefix("torch."), torch.finfo(dtype).eps
        coarser = eps > torch.finfo(case.dtype).eps and error > eps / 64 * size
        if coarser and bool((case.ours == case.ours.to(dtype).double()).all()):
            yield Candidate(Kind.PRECISION, f"every value is a {name} number: rounded to {name} on the way")
    if case.product is not None:  # else an error that looks random may be that of another formula
        digits = -math.log10(error / size)
        yield Candidate(Kind.PRECISION, f"right to {digits:.1f} digits, with errors that look random")


def vague(case: Case) -> Iterator[Candidate]:
    """Its nearness, where nothing simple fits, and no class."""
    a, b = torch.where(case.wrong, case.ours, 0), torch.where(case.wrong, case.reference, 0)
    product = float(a.norm() * b.norm())
    cosine = float((a * b).sum()) / product if product else 0.0
    near = 0 < case.relative < NEAR
    words = f"right to {-math.log10(case.relative):.1f} digits" if near else f"cosine {cosine:.2f} with the reference"
    yield Candidate(Kind.WRONG_VALUES, f"no simple relation to the reference, {words}")


# From the most to the least specific; the last always applies.
EXPLANATIONS: tuple[Explanation, ...] = (
    patterns.one_destination,
    _zero,
    given,
    lambda case: _added(case, case.leftovers, Kind.STALE_VALUE),
    _sign,
    _transpose,
    patterns.permutation,
    _mask,
    _factor,
    _clipped,
    _added_terms,
    _only_upstream,
    patterns.parts,
    patterns.structured,
    patterns.derivative,
    patterns.another_factor,
    _precision,
    vague,
)


ULPS = 64.0


@torch.no_grad()
def diagnose(
    ours: Tensor,
    reference: Tensor,
    upstream: Tensor | None = None,
    *,
    tolerance: float | Tensor | None = None,
    candidates: Sequence[Candidate] = (),
    terms: Mapping[str, Tensor] | None = None,
    leftovers: Mapping[str, Tensor] | None = None,
    sizes: Sequence[int] = (),
    product: Product | None = None,
    pointwise: Pointwise | None = None,
) -> Diagnosis:
    """The likely fault in ``ours``, a tensor of any shape that should equal ``reference``, of the same shape.

    Elements closer than ``tolerance`` (a number, or one an element) are right; by default than 64 units of rounding of
    ``ours``' precision. The other arguments are hints, described in ``Case``.
    """
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    a, b = ours.detach().double(), reference.detach().to(ours.device).double()
    error = (a - b).abs()
    if error.numel() == 0:
        return Diagnosis(Kind.WRONG_VALUES, "nothing to compare", "nowhere", (), 0.0, 0.0)
    index = place_of_largest(error)
    values = (index, float(a[index]), float(b[index]))
    if not bool(a.isfinite().all()):
        bad = region_of(~a.isfinite())
        name = "NaN" if bool(a.isnan().any()) else "infinity"
        return Diagnosis(Kind.NAN, f"{bad.count} of {bad.total} values are {name}", str(bad), *values)
    if not bool(b.isfinite().all()):
        return Diagnosis(Kind.WRONG_VALUES, "the reference is not finite", str(region_of(~b.isfinite())), *values)
    if isinstance(tolerance, Tensor):
        wrong = error > tolerance
        allowed = tolerance / 4  # a bound for the worst of the elements is several times what rounding does to most
    else:
        ulps = ULPS * torch.finfo(ours.dtype).eps / 2
        allowed = torch.full_like(b, ulps * float(b.square().mean().sqrt()) if tolerance is None else tolerance)
        wrong = error > torch.maximum(allowed, ulps * b.abs())
    if not bool(wrong.any()):  # each element is close and still their sum of squares is not
        wrong = error > 0
    # Beside a gross error in some elements, what rounding did to the others is not part of the region.
    wrong &= error > 1e-4 * error.max()
    region = region_of(wrong, b != 0)
    case = Case(
        a, b, wrong, region, allowed, ours.dtype, upstream, candidates, terms or {}, leftovers or {}, sizes, product,
        pointwise,
    )  # fmt: skip
    for explanation in EXPLANATIONS:
        basis = Basis.IDENTIFIED if explanation is given else Basis.VAGUE if explanation is vague else Basis.FITTED
        for kind, words, model in explanation(case):
            if model is None or case.explains(model):
                return Diagnosis(kind, words, str(region), *values, basis)
    raise AssertionError("the last explanation always applies")
