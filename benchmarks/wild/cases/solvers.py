"""Implicit functions: root finding, least squares, differential equations, splines, optimisation layers."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_DEAL, _RESIDUAL = "deepinv.models.deal:", "normflows.flows.residual:"


def _network(*sizes: int) -> nn.Sequential:
    """A small tanh network; ``in_dtype`` gives its twin for inputs of another precision."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    network = nn.Sequential(*layers[:-1])
    for parameter in network.parameters():
        parameter.requires_grad_(False).mul_(0.5)
    return network


def _in_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(network).to(dtype)


def _spline(name: str) -> Call:
    knots, channels = 7, 2
    start = torch.arange(channels) * knots

    def function(x: Tensor, coefficients: Tensor) -> Any:
        low, high = (torch.tensor([value], dtype=x.dtype) for value in (-1.5, 1.5))
        return load(_DEAL + name).apply(x, coefficients, low, high, knots, start)

    x = (torch.rand(2, channels, 1, 2, 2) * 2.2 - 1.1).requires_grad_()
    return Call(function, [x, normal(channels, knots)])


def _denoiser() -> Call:
    data = torch.randn(6, 4)

    def function(x: Tensor, sigma: Tensor) -> Any:
        return load("deepinv.models.mmse:MMSEFunction").apply(x, sigma, data.to(x), x.device, x.dtype, False)

    def reference(x: Tensor, sigma: Tensor) -> Tensor:
        square = (x[:, None] - data.to(x)[None]).square().sum(-1)
        return (-square / (2 * sigma**2 + 1e-12)).softmax(1) @ data.to(x)

    return Call(function, [normal(3, 4), uniform(3, 1, low=0.8, high=1.5)], reference)


def _least_squares() -> Call:
    matrix = torch.randn(5, 3)

    def function(y: Tensor, z: Tensor) -> Any:
        physics = load("deepinv.physics:LinearPhysics")(A=lambda x, **_: x @ matrix.to(x).mT,
                                                        A_adjoint=lambda y, **_: y @ matrix.to(y))  # fmt: skip
        solve = load("deepinv.optim.linear.least_squares:least_squares_implicit_backward")
        return solve(physics, y, z=z, gamma=0.7, solver="CG", max_iter=60, tol=1e-12)

    def reference(y: Tensor, z: Tensor) -> Tensor:
        a = matrix.to(y)
        normal_matrix = a.mT @ a + torch.eye(3, dtype=y.dtype) / 0.7
        return torch.linalg.solve(normal_matrix, (y @ a + z / 0.7).mT).mT

    return Call(function, [normal(2, 5), normal(2, 3)], reference, {"tolerance": 1e-5})


def _radon() -> Call:
    def function(x: Tensor) -> Any:
        angles = torch.linspace(0, 150, 6)
        there = load("deepinv.physics.functional.radon:Radon")(in_size=8, theta=angles, circle=False, dtype=x.dtype)
        back = load("deepinv.physics.functional.radon:IRadon")(in_size=8, theta=angles, circle=False, dtype=x.dtype)
        return load("deepinv.physics.functional.radon:ApplyRadon").apply(x, there, back, False)

    return Call(function, [normal(1, 1, 8, 8)], options={"intended": "an approximate adjoint"})


def _bisection(frozen: bool) -> Call:
    bisect = load("zuko.utils:bisection")
    weight = uniform(3, low=0.5, high=1.5)

    def solve(y: Tensor, w: Tensor) -> Any:
        return bisect(lambda x: x**3 + w * x, y, -5.0, 5.0, n=70, phi=(w,))

    if frozen:
        return Call(lambda y: solve(y, weight.detach().to(y)), [normal(3)])
    return Call(solve, [normal(3), weight], options={"skip": ["needs_input_grad"]})


def _log_det(wrapped: bool) -> Call:
    network, noise = _network(3, 5, 3), torch.randn(4, 3)

    def function(x: Tensor) -> Any:
        estimator, net = load(_RESIDUAL + "basic_logdet_estimator"), _in_dtype(network, x.dtype).requires_grad_()
        wrap = load(_RESIDUAL + "mem_eff_wrapper")
        return wrap(estimator, net, x, 4, noise.to(x), lambda k: 1.0, True)

    return Call(function, [normal(4, 3) if wrapped else normal(1, 3)])


def _ode() -> Call:
    steps = {"method": "rk4", "options": {"step_size": 0.05}}

    def function(y: Tensor, w: Tensor) -> Any:
        times = torch.linspace(0, 1, 3, dtype=y.dtype)
        return load("torchdiffeq:odeint_adjoint")(
            lambda t, v: torch.tanh(v @ w), y, times, adjoint_params=(w,), **steps
        )

    inputs = [normal(2, 3, dtype=torch.float64), normal(3, 3, dtype=torch.float64)]
    return Call(function, inputs, options={"tolerance": 1e-4})


def _event() -> Call:
    """The time at which a falling body hits the ground."""

    def function(state: Tensor) -> Any:
        zero = torch.zeros((), dtype=state.dtype)
        falling = nn.Module()
        falling.forward = lambda t, s: torch.stack([s[1], -torch.ones_like(s[1])])
        time, _ = load("torchdiffeq:odeint_event")(falling, state, zero, event_fn=lambda t, s: s[0], atol=1e-9)
        return time

    start = torch.tensor([1.0, 0.3], dtype=torch.float64, requires_grad=True)
    options = {"tolerance": 1e-5, "skip": ["special values"]}  # at height 0 the event is now
    return Call(function, [start], lambda s: s[1] + (s[1] ** 2 + 2 * s[0]).sqrt(), options)


class _Diffusion(nn.Module):
    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def f(self, t: Any, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight)

    def g(self, t: Any, y: Tensor) -> Tensor:
        return 0.3 * torch.sigmoid(y)


def _sde() -> Call:
    weight = torch.randn(2, 2)

    def function(y: Tensor) -> Any:
        times = torch.tensor([0.0, 0.5], dtype=y.dtype)
        brownian = load("torchsde:BrownianInterval")(0.0, 0.5, size=tuple(y.shape), dtype=y.dtype, entropy=7)
        return load("torchsde:sdeint_adjoint")(_Diffusion(weight.to(y)), y, times, bm=brownian, dt=0.1,
                                               method="reversible_heun",
                                               adjoint_method="adjoint_reversible_heun")[-1]  # fmt: skip

    return Call(function, [normal(3, 2, dtype=torch.float64)], options={"tolerance": 1e-9})


CASES = [
    Case("deepinv", "LinearSplineFunc", Expect.CONTRACT,
         "its backward calls view, and raises for a transposed input", lambda: _spline("LinearSplineFunc")),
    Case("deepinv", "QuadraticSplineFunc", Expect.SECOND, "saves its slope as a constant",
         lambda: _spline("QuadraticSplineFunc")),
    Case("deepinv", "LinearSplineDerivativeFunc", Expect.BUG,
         "the gradient of the coefficients ignores the upstream gradient and has another shape: it raises",
         lambda: _spline("LinearSplineDerivativeFunc")),
    Case("deepinv", "MMSEFunction", Expect.BUG,
         "for sigma = 0 the forward is finite, as 1e-12 is added, and the gradient NaN; second derivatives lack terms",
         _denoiser),
    Case("deepinv", "LeastSquaresSolver", Expect.BUG,
         "adds 1e-8 to squared norms: the gradient is 30 % too small for upstream gradients of 1e-5, and 0 below 1e-7",
         _least_squares),
    Case("deepinv", "ApplyRadon", Expect.INTENDED, "the backward is a rescaled back-projection, by its documentation "
         "not exactly the adjoint", _radon),
    Case("zuko", "Bisection", Expect.RIGHT, "implicit differentiation of a root", lambda: _bisection(False)),
    Case("zuko", "Bisection with frozen parameters", Expect.BUG,
         "the backward asks for gradients of parameters that need none, and raises", lambda: _bisection(True)),
    Case("normflows", "MemoryEfficientLogDetEstimator", Expect.BUG,
         "multiplies the gradients of all examples with the first example's upstream gradient",
         lambda: _log_det(True)),
    Case("torchdiffeq", "OdeintAdjointMethod", Expect.RIGHT, "the adjoint equation, to the solver's tolerance", _ode),
    Case("torchdiffeq", "ImplicitFnGradientRerouting", Expect.SECOND,
         "the time of an event; its derivative is a constant", _event),
    Case("torchsde", "_SdeintAdjointMethod", Expect.RIGHT, "the reversible Heun adjoint", _sde),
]  # fmt: skip
