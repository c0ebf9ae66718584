"""What is right to a tolerance only, near the edge of a domain, or only once: no false alarm, and nothing hidden."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck import Verdict, check_function
from tests.support.planted_faults import made, square

EDGES = [
    (torch.log, [1e-9, 0.3]),
    (torch.log, [1e-4, 0.3, 2.0]),
    (torch.sqrt, [1e-8, 0.3]),
    (torch.sqrt, [3e-6, 0.2]),
    (torch.acos, [1 - 1e-7, 0.3]),
    (torch.reciprocal, [3e-6, 0.2]),
    (torch.norm, [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("function", "values"), EDGES)
def test_near_the_edge_of_a_domain(function: Any, values: Any) -> None:
    report = check_function(function, None, [torch.tensor(values, requires_grad=True)], seed=0)
    assert report.ok, report
    assert Verdict.PASSED in {f.verdict for f in report.findings if f.rule in ("finite differences", "gradcheck")}


def test_where_gradcheck_leaves_the_domain_it_says_so() -> None:
    report = check_function(torch.log, None, [torch.tensor([1e-9, 0.3], requires_grad=True)], seed=0)
    assert report.gradcheck == "not run: its fixed step leaves the function's domain"


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_gradient_near_the_edge_is_seen_in_each_number(wrong: int) -> None:
    def backward(ctx: Any, saved: Any, g: Tensor) -> Tensor:
        factors = torch.ones_like(g)
        factors[wrong] = 1.01
        return factors * g / saved[0]

    x = torch.tensor([1e-9, 0.3], requires_grad=True)
    report = check_function(made(torch.log, backward), None, [x], seed=0)
    assert "finite differences" in {f.rule for f in report.failures}


class Solve(Function):
    """``A⁻¹ b`` by conjugate gradients, both ways, to six digits."""

    factor = 1.0

    @staticmethod
    def solved(a: Tensor, b: Tensor) -> Tensor:
        x, r = torch.zeros_like(b), b.clone()
        p, start = r.clone(), b.norm()
        while bool(r.norm() > 1e-7 * start):
            step = r.square().sum() / (p @ a @ p)
            x, r, before = x + step * p, r - step * (a @ p), r
            p = r + r.square().sum() / before.square().sum() * p
        return x

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        x = Solve.solved(a, b)
        ctx.save_for_backward(a, x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, x = ctx.saved_tensors
        d = Solve.factor * Solve.solved(a.mT, g) if bool(g.any()) else torch.zeros_like(g)
        return -d[:, None] * x[None, :], d


def spd(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    m = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(n, generator=generator, dtype=torch.float64)
    return [(torch.eye(n, dtype=torch.float64) + m @ m.T).requires_grad_(), b.requires_grad_()]


@pytest.mark.parametrize("reference", [torch.linalg.solve, None])
@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1.0 + 1e-3, False)])
def test_an_iterative_solver_is_right_to_its_tolerance(
    monkeypatch: Any, reference: Any, factor: float, ok: bool
) -> None:
    def function(a: Tensor, b: Tensor) -> Any:
        return Solve.apply((a + a.mT) / 2, b)

    symmetric = reference and (lambda a, b: torch.linalg.solve((a + a.mT) / 2, b))
    monkeypatch.setattr(Solve, "factor", factor)
    report = check_function(function, symmetric, spd(9), seed=2, tolerance=1e-5)
    assert report.ok == ok, report
    if ok:
        assert not check_function(function, symmetric, spd(9), seed=2).ok


@pytest.mark.parametrize("rule", ["gradient", "JVP-VJP product", "finite differences"])
def test_a_tolerance_is_the_most_that_is_let_pass(rule: str) -> None:
    x = [torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()]
    for factor, seen in ((1e-5, False), (1e-2, True)):
        function = square(lambda ctx, saved, g, factor=factor: 2 * (1 + factor) * saved[0] * g)
        report = check_function(function, torch.square, x, seed=2, tolerance=1e-4)
        assert (rule in {f.rule for f in report.failures}) == seen, report
        assert report.ok != seen


class Once(Function):
    """Frees what it saved when its backward has run."""

    factor = 2.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        kept, ctx.kept = ctx.kept, None
        return Once.factor * kept * g


@pytest.mark.parametrize(("factor", "ok"), [(2.0, True), (2.001, False)])
def test_a_backward_that_runs_once_only(monkeypatch: Any, factor: float, ok: bool) -> None:
    monkeypatch.setattr(Once, "factor", factor)
    x = [torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()]
    report = check_function(Once.apply, None, x, seed=3)
    assert report.ok == ok, report
    assert report.gradcheck.startswith("passed" if ok else "failed")


class Arcsine(Function):
    """Raises outside of its domain, where others give NaN."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if bool((x.abs() > 1).any()):
            raise ValueError("outside of [-1, 1]")
        ctx.save_for_backward(x)
        return x.asin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return Arcsine.factor * g / (1 - x * x).sqrt()


@pytest.mark.parametrize("factor", [1.0, 1.01])
@pytest.mark.parametrize("numbers", [4, 2**18])
def test_a_function_that_raises_around_the_point(monkeypatch: Any, numbers: int, factor: float) -> None:
    monkeypatch.setattr(Arcsine, "factor", factor)
    x = torch.linspace(-0.5, 0.999, numbers).reshape(2, -1).requires_grad_()
    reports = [check_function(Arcsine.apply, reference, [x], seed=0) for reference in (torch.asin, None)]
    verdicts = [report.verdict for report in reports]
    right = [Verdict.PASSED, Verdict.PASSED if numbers == 4 else Verdict.INCONCLUSIVE]
    wrong = [Verdict.FAILED, Verdict.FAILED if numbers == 4 else Verdict.INCONCLUSIVE]
    assert verdicts == (right if factor == 1.0 else wrong)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_an_infinite_scatter_excuses_nothing(factor: float) -> None:
    class Exp(Function):
        """``exp(x) y``, whose gradient in ``x`` is ``factor`` times the right one where ``y`` needs none."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            ctx.save_for_backward(x, y)
            return x.exp() * y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            x, y = ctx.saved_tensors
            return g * y * (1.0 if ctx.needs_input_grad[1] else factor) * x.exp(), g * x.exp()

    # An ulp more, and the first exponential overflows.
    inputs = [torch.tensor(x, requires_grad=True) for x in ([88.72283, 88.0, 87.0], [0.3, -0.2, 0.1])]
    failures = {finding.rule for finding in check_function(Exp.apply, None, inputs, seed=1).failures}
    assert failures == (set() if factor == 1 else {"needs_input_grad"})
