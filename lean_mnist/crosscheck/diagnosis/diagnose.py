"""``diagnose``: the likely class of a fault and its place, from the wrong values beside the right ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lean_mnist.crosscheck.comparison import place_of_largest
from lean_mnist.crosscheck.diagnosis.case import Case, Pointwise, Product
from lean_mnist.crosscheck.diagnosis.explanations import EXPLANATIONS, given, vague
from lean_mnist.crosscheck.diagnosis.kinds import Basis, Candidate, Diagnosis, Kind
from lean_mnist.crosscheck.diagnosis.regions import region_of

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

    Args:
        upstream: the upstream gradient, where its shape may say something.
        tolerance: elements closer than this are right (a number, or one an element); by default 64 units of rounding
            of ``ours``' precision.
        candidates: what ``ours`` would be if certain faults had been made.
        terms: by name, tensors of which a multiple may have been added (a weight: a decay that leaked in).
        leftovers: the same, of earlier calls: a buffer that was not cleared.
        sizes: numbers (of examples, of classes) that a wrong constant factor may be.
        product: the matrix product that ``ours`` is, so that lost examples or units can be named.
        pointwise: the elementwise product that ``ours`` is.
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
