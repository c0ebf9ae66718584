"""The likely class of a fault and its place, from the two tensors alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lean_mnist.crosscheck import RULES, check_function
from lean_mnist.crosscheck.diagnosis import Basis, Candidate, Diagnosis, Kind, Pointwise, Product, diagnose
from lean_mnist.crosscheck.diagnosis.case import region_of
from lean_mnist.crosscheck.report import Finding, FunctionReport, failed

ROWS, COLUMNS = 12, 9
SKIPPED = [name for name in RULES if name != "uninitialised memory"]


def reference(*shape: Any, seed: int = 0) -> Any:
    return torch.randn(shape or (ROWS, COLUMNS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def place(values: Any, rows: Any, columns: Any, change: Any) -> Any:
    changed = values.clone()
    changed[rows, columns] = change(changed[rows, columns])
    return changed


EVERY = slice(None)
RELU = reference() * (reference(seed=1) > 0)
CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "sign": (lambda r: -r, "sign", "everywhere"),
    "sign of some rows": (lambda r: place(r, slice(5, 8), EVERY, torch.neg), "sign", "rows 5..7"),
    "factor": (lambda r: 3 * r, "constant factor", "3 times"),
    "near 1": (lambda r: 1.001 * r, "constant factor", "1.001 times"),
    "reciprocal": (lambda r: r / 12, "constant factor", "1/12 times the reference (12 is a size here"),
    "factor of columns": (
        lambda r: place(r, EVERY, slice(4, None), lambda v: 2 * v),
        "constant factor",
        "columns >= 4",
    ),
    "zero": (torch.zeros_like, "zero", "everywhere"),
    "zero but for rounding": (lambda r: 1e-9 * r, "zero", "zero but for rounding"),
    "small ones flushed": (lambda r: r * (r.abs() > 0.3), "zero", "in size are zero, larger ones are right"),
    "clipped": (lambda r: r.clamp(-1, 0.8), "clipping", "clipped to -1 … 0.8"),
    "last rows": (lambda r: place(r, slice(-3, None), EVERY, torch.zeros_like), "zero", "the last 3 rows of 12"),
    "one element": (lambda r: place(r, 2, 3, lambda v: v + 5), "wrong values", "one element, [2, 3]"),
    "one element zero": (lambda r: place(r, 2, 3, lambda v: 0 * v), "zero", "one element, [2, 3]"),
    "reshaped": (lambda r: r.T.reshape(r.shape), "transpose", "reshaped"),
    "rows in reverse": (lambda r: r.flip(0), "row or column swap", "12 rows are in each other's places"),
    "columns swapped": (lambda r: r[:, [0, 2, 1, *range(3, COLUMNS)]], "row or column swap", "columns 1 and 2"),
    "columns permuted": (lambda r: r[:, [2, 0, 1, *range(3, COLUMNS)]], "row or column swap", "3 columns are in"),
    "into row 0": (lambda r: torch.cat([r.sum(0, True), 0 * r[1:]]), "row or column swap", "in row 0"),
    "bfloat16": (lambda r: r.bfloat16().double(), "precision", "bfloat16"),
    "float16": (lambda r: r.half().double(), "precision", "float16"),
    "noise of 1e-3": (lambda r: r * (1 + 1e-3 * reference(seed=3)), "wrong values", "right to 3.0 digits"),
    "a number for all": (lambda r: r + 0.3, "missing term", "the same number"),
    "a number a row": (lambda r: r + reference(ROWS, 1, seed=2), "missing term", "all along each"),
    "a factor a column": (lambda r: r * (2 + reference(1, COLUMNS, seed=2)), "missing term", "a factor of its own"),
    "half right": (lambda r: r + 0.8 * reference(seed=2), "wrong values", "cosine"),
    "unrelated": (lambda r: reference(seed=4), "wrong values", ""),
    "not numbers": (lambda r: place(r, 4, EVERY, lambda v: v * torch.nan), "NaN", "row 4"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes(name: str, dtype: torch.dtype) -> None:
    change, kind, words = CHANGES[name]
    right = reference()
    found = diagnose(change(right).to(dtype), right)
    assert isinstance(found.kind, Kind)
    assert found.kind == kind, found
    assert words in str(found)


def test_masks() -> None:
    mask = reference(seed=1) > 0
    assert diagnose(reference(), RELU).kind == "mask"
    assert diagnose(reference() * ~mask, RELU).kind == "mask"
    assert diagnose(RELU * (reference(seed=5) > 0), RELU).kind == "mask"


def test_what_other_faults_would_have_given() -> None:
    right, ones, before = (reference(seed=seed) for seed in range(3))
    candidates = [Candidate(Kind.UPSTREAM_IGNORED, "for ones", ones), Candidate(Kind.STALE_VALUE, "of before", before)]
    assert diagnose(before, right, candidates=candidates).basis is Basis.IDENTIFIED
    assert diagnose(ones, right, candidates=candidates).kind == "upstream ignored"
    assert diagnose(before, right, candidates=candidates).kind == "stale value"
    assert diagnose(right + 0.01 * before, right, terms={"weight": before}).text == "0.01 times weight was added"
    assert "upstream gradient, and nothing else" in diagnose(2 * before, right, before).text


def test_a_mean_with_the_transpose() -> None:
    right = reference(ROWS, ROWS)
    found = diagnose((right + right.T) / 2, right)
    assert (found.kind, "0.5 times the reference and 0.5 times its transpose" in found.text) == ("transpose", True)


def test_several_terms_at_once_and_leftovers() -> None:
    right, first, second = (reference(seed=seed) for seed in range(3))
    found = diagnose(right - 0.1 * first + 0.2 * second, right, terms={"p": first, "q": second})
    assert (found.kind, found.text) == ("missing term", "-0.1 times p and 0.2 times q were added")
    found = diagnose(right + 0.9 * first, right, leftovers={"the gradient before": first})
    assert (found.kind, found.text) == ("stale value", "0.9 times the gradient before was added")


def test_slices_that_are_alike_may_change_places_too() -> None:
    right = reference()
    right[:, [0, 3, 4]] = 0  # pixels that are always black
    found = diagnose(right.roll(1, 1), right)
    assert found.kind == "row or column swap", found


@pytest.mark.parametrize("count", [8, 40])  # fewer examples than rows, so that weights are determined, and more
def test_parts_of_a_sum(count: int) -> None:
    left, right = reference(ROWS, count, seed=1), reference(count, COLUMNS, seed=2)
    product = Product(left, right, "example")
    lost = diagnose(left[:, :-3] @ right[:-3], left @ right, product=product)
    assert (lost.kind, f"examples {count - 3}..{count - 1} are missing" in lost.text) == ("missing term", True)
    ones = torch.ones(count, 1, dtype=torch.float64)
    bias = diagnose(left[:, 4], left.sum(1), product=Product(left, ones, "example"))
    assert bias.kind == "missing term"
    assert f"examples 0, 1, 2, 3 and {count - 5} more are missing" in bias.text


def test_another_function_of_one_number() -> None:
    at, upstream = reference(30, 30), reference(30, 30, seed=1)
    found = diagnose(upstream * at.sin(), upstream * at.cos(), pointwise=Pointwise(at, upstream))
    assert found.kind == "derivative"
    assert "another function" in found.text


def test_the_class_that_a_report_points_to() -> None:
    def finding(kind: Kind | None = None, points_to: Kind | None = None) -> Finding:
        diagnosis = None if kind is None else Diagnosis(kind, "", "", (), 0.0, 0.0)
        return failed("", diagnosis=diagnosis, points_to=points_to)

    def likely(*findings: Finding) -> Kind | None:
        return FunctionReport(findings).likely_kind

    gradient = finding(Kind.WRONG_VALUES)
    mutation = finding(points_to=Kind.MUTATION)
    stale = finding(Kind.STALE_VALUE, Kind.NONDETERMINISM)
    assert likely() is None
    assert likely(gradient) is Kind.WRONG_VALUES
    assert likely(gradient, finding(Kind.LAYOUT, Kind.LAYOUT)) is Kind.LAYOUT
    assert likely(gradient, finding(Kind.CONSTANT_FACTOR, Kind.NONDETERMINISM)) is Kind.NONDETERMINISM
    assert likely(gradient, mutation, stale) is Kind.MUTATION
    assert likely(gradient, stale) is Kind.STALE_VALUE
    assert likely(gradient, finding(Kind.UPSTREAM_IGNORED)) is Kind.UPSTREAM_IGNORED
    assert likely(mutation, finding(Kind.NAN)) is Kind.NAN


def test_both_values_and_their_place() -> None:
    right = reference()
    found = diagnose(place(right, 7, 1, lambda v: 0 * v + 9), right)
    assert (found.index, found.ours, found.reference) == ((7, 1), 9.0, float(right[7, 1]))
    assert f"at [7, 1] 9 instead of {float(right[7, 1]):.9g}" in str(found)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5,), (2, 3, 4)])
def test_any_shape(shape: Any) -> None:
    right = reference(*shape) if shape else torch.tensor(2.0, dtype=torch.float64)
    for ours in (-right, 0 * right, right + 1, right):
        assert diagnose(ours, right).kind in Kind


@pytest.mark.parametrize(
    ("shape", "where", "words"),
    [
        ((10, 200), (EVERY, slice(128, None)), "columns >= 128"),
        ((35, 4), (slice(32, None), EVERY), "the last 3 rows of 35"),
        ((35, 4), (34, EVERY), "the last row of 35"),
        ((35, 4), (slice(5, 8), EVERY), "rows 5..7"),
        ((35, 4), ([3, 17, 31], EVERY), "every 14th row from 3 to 31"),
        ((35, 4), ([3, 17, 30], EVERY), "rows 3, 17, 30"),
        ((8, 4), (slice(None, None, 2), EVERY), "every 2nd row"),
        ((8, 4), (EVERY, 2), "column 2"),
        ((8, 40), (slice(2, 6), slice(16, 32)), "rows 2..5, columns 16..31"),
        ((8, 4), (3, 2), "one element, [3, 2]"),
        ((8,), (slice(4, None),), "the last 4 elements of 8"),
        ((8,), (7,), "one element, [7]"),
        ((2, 8, 4), (1, 3, EVERY), "the last row of 2, index of dimension 1 3"),
        ((8, 4), (EVERY, EVERY), "everywhere"),
        ((8, 4), ([0, 3, 5, 7], [1, 0, 3, 2]), "4 of 32 elements, scattered"),
    ],
)
def test_places_in_words(shape: Any, where: Any, words: str) -> None:
    wrong = torch.zeros(shape, dtype=torch.bool)
    wrong[where] = True
    assert str(region_of(wrong)) == words


def test_nowhere() -> None:
    assert str(region_of(torch.zeros(3, 4, dtype=torch.bool))) == "nowhere"
    assert str(region_of(torch.tensor(True))) == "the number"


def applied(forward: Any, backward: Any) -> Any:
    """The ``apply`` of a Function that saves its inputs; ``backward(upstream, *inputs)``."""

    def keep(ctx: Any, *inputs: Tensor) -> Any:
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    members = {
        "forward": staticmethod(keep),
        "backward": staticmethod(lambda ctx, g: backward(g, *ctx.saved_tensors)),
    }
    made: Any = type("Planted", (torch.autograd.Function,), members)
    return made.apply


def partly_written(g: Tensor, x: Tensor) -> Tensor:
    d = torch.empty_like(x)
    d[x > 0] = g[x > 0]
    return d


def tanh_gelu(g: Tensor, x: Tensor) -> Any:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(F.gelu(x, approximate="tanh"), x, g)[0]


SWAPPED = applied(lambda a, b: a.sin() * b, lambda g, a, b: (g * a.sin(), g * a.cos() * b))
WILD = {
    "swapped": (SWAPPED, lambda a, b: a.sin() * b, [(4, 3), (4, 3)], Kind.SWAPPED_TENSORS),
    "swapped, without a reference": (SWAPPED, None, [(4, 3), (4, 3)], Kind.SWAPPED_TENSORS),
    "sign": (applied(torch.sin, lambda g, x: -g * x.cos()), torch.sin, [(4, 3)], Kind.SIGN),
    "sign, without a reference": (applied(torch.sin, lambda g, x: -g * x.cos()), None, [(4, 3)], Kind.SIGN),
    "1.3 times, without a reference": (
        applied(torch.sin, lambda g, x: 1.3 * g * x.cos()),
        None,
        [(4, 3)],
        Kind.CONSTANT_FACTOR,
    ),
    "not all written": (applied(torch.relu, partly_written), torch.relu, [(40, 30)], Kind.UNINITIALISED),
    "not all written, without a reference": (applied(torch.relu, partly_written), None, [(7, 3)], Kind.UNINITIALISED),
    "the mean of the upstream gradient": (
        applied(torch.sin, lambda g, x: g.mean() * x.cos()),
        torch.sin,
        [(4, 3)],
        Kind.UPSTREAM_IGNORED,
    ),
    "another function": (applied(F.gelu, tanh_gelu), F.gelu, [(40, 30)], Kind.DERIVATIVE),
    "another function, of too few numbers to tell": (applied(F.gelu, tanh_gelu), F.gelu, [(4, 3)], Kind.WRONG_VALUES),
    "another function, without a reference": (applied(F.gelu, tanh_gelu), None, [(40, 30)], Kind.WRONG_VALUES),
}


@pytest.mark.parametrize("name", WILD)
def test_classes_of_bugs_met_in_the_wild(name: str) -> None:
    function, plain, shapes, kind = WILD[name]
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    report = check_function(function, plain, inputs, seed=1)
    assert report.likely_kind is kind, report.details()


def test_memory_that_is_never_written_is_seen_while_it_happens_to_be_right() -> None:
    """Fresh memory is zero, and so is the gradient there."""
    function = applied(torch.relu, partly_written)
    report = check_function(function, None, [torch.randn(9, 5, requires_grad=True)], seed=1, skip=SKIPPED)
    (failure,) = report.failures
    assert (failure.rule, failure.points_to) == ("uninitialised memory", Kind.UNINITIALISED)
    assert "numbers are never written" in failure.text


def test_filling_empty_tensors_leaves_the_modes_as_they_were() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        check_function(torch.sin, None, [torch.randn(3, requires_grad=True)], seed=1, skip=SKIPPED)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    check_function(torch.sin, None, [torch.randn(3, requires_grad=True)], seed=1, skip=SKIPPED)
    assert not torch.are_deterministic_algorithms_enabled()
