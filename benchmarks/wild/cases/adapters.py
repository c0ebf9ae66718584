"""Low-rank adapters, and maps onto the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_LOHA, _ENTMAX, _LOSSES = "peft.tuners.loha.layer:", "entmax.activations:", "entmax.losses:"
_SECOND = "saves what depends on the input as a constant, so that a second derivative lacks terms"


def _hada() -> Call:
    one = torch.tensor(1.0)
    inputs = [normal(4, 2), normal(2, 3), normal(4, 2), normal(2, 3)]
    return Call(lambda a, b, c, d: load(_LOHA + "HadaWeight").apply(a, b, c, d, one.to(a)), inputs,
                lambda a, b, c, d: (a @ b) * (c @ d))  # fmt: skip


def _hada_cp() -> Call:
    def reference(t1: Tensor, a1: Tensor, b1: Tensor, t2: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        first, second = (torch.einsum("ijkl,jr,ip->prkl", t, b, a) for t, a, b in ((t1, a1, b1), (t2, a2, b2)))
        return first * second

    def function(*x: Tensor) -> Tensor:
        found: Tensor = load(_LOHA + "HadaWeightCP").apply(*x, torch.tensor(1.0).to(x[0]))
        return found

    shapes = ((2, 2, 3, 3), (2, 4), (2, 5)) * 2
    names = ["t1", "w1a", "w1b", "t2", "w2a", "w2b"]
    return Call(function, [normal(*shape) for shape in shapes], reference, {"names": names})


def _rand_lora() -> Call:
    basis = torch.randn(4, 1, 6)
    return Call(lambda scale, gamma: load("peft.tuners.randlora.layer:UniqueBaseGrad").apply(
        basis.to(scale), scale, gamma), [normal(4, 2), normal(2, 6)],
        lambda scale, gamma: scale[:, :, None] * basis.to(scale) * gamma[None])  # fmt: skip


def _velora() -> Call:
    embed = torch.randn(3)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        apply = load("peft.tuners.lora.velora:VeloraFunction").apply
        found: Tensor = apply(x, weight, bias, (embed / embed.norm()).to(x), 2, 1.0)
        return found

    options = {"intended": "weight gradient from compressed activations"}
    return Call(function, [normal(4, 6), normal(5, 6), normal(5)], torch.nn.functional.linear, options)


def _loss(name: str, *more: object) -> Call:
    target = torch.tensor([1, 0, 3])
    return Call(lambda x: load(_LOSSES + name).apply(x, target, *more), [normal(3, 4)])


CASES = [
    Case("peft", "HadaWeight", Expect.RIGHT, "product of two low-rank products", _hada),
    Case("peft", "HadaWeightCP", Expect.BUG,
         "the gradients of w1a and w2a are made with the other factor's tensor", _hada_cp),
    Case("peft", "UniqueBaseGrad", Expect.RIGHT, "RandLora: a shared basis without gradient", _rand_lora),
    Case("peft", "BlockCircularConvolution", Expect.BUG,
         "C3A: the gradient of x is a correlation with w where the forward's adjoint is a convolution",
         lambda: Call(load("peft.tuners.c3a.utils:BlockCircularConvolution").apply, [normal(4, 6), normal(5, 2, 3)])),
    Case("peft", "VeloraFunction", Expect.INTENDED,
         "the weight's gradient is computed from activations that were compressed on purpose", _velora),
    Case("entmax", "SparsemaxFunction", Expect.RIGHT, "projection onto the simplex: piecewise linear",
         lambda: Call(lambda x: load(_ENTMAX + "SparsemaxFunction").apply(x, -1), [normal(4, 6)])),
    Case("entmax", "Entmax15Function", Expect.SECOND, _SECOND,
         lambda: Call(lambda x: load(_ENTMAX + "Entmax15Function").apply(x, -1), [normal(4, 6)])),
    Case("entmax", "EntmaxBisectFunction", Expect.SECOND, _SECOND,
         lambda: Call(lambda x, a: load("entmax.root_finding:EntmaxBisectFunction").apply(x, a, -1),
                      [normal(4, 6), uniform(4, 1, low=1.4, high=1.8)])),
    Case("entmax", "SparsemaxBisectFunction", Expect.RIGHT, "projection onto the simplex by bisection",
         lambda: Call(lambda x: load("entmax.root_finding:SparsemaxBisectFunction").apply(x, -1), [normal(4, 6)])),
    Case("entmax", "NormmaxBisectFunction", Expect.RIGHT, "of the output alone, which is saved with its graph",
         lambda: Call(lambda x: load("entmax.root_finding:NormmaxBisectFunction").apply(x, 2.0, -1), [normal(4, 6)])),
    Case("entmax", "BudgetBisectFunction", Expect.RIGHT, "projection onto the capped simplex by bisection",
         lambda: Call(lambda x: load("entmax.root_finding:BudgetBisectFunction").apply(x, 2.0, -1), [normal(4, 6)])),
    Case("entmax", "SparsemaxLossFunction", Expect.SECOND, _SECOND, lambda: _loss("SparsemaxLossFunction")),
    Case("entmax", "Entmax15LossFunction", Expect.SECOND, _SECOND, lambda: _loss("Entmax15LossFunction")),
    Case("entmax", "EntmaxBisectLossFunction", Expect.SECOND, _SECOND,
         lambda: _loss("EntmaxBisectLossFunction", 1.5)),
    Case("sparsemax", "SparsemaxFunction", Expect.RIGHT, "projection onto the simplex: piecewise linear",
         lambda: Call(lambda x: load("sparsemax.sparsemax:SparsemaxFunction").apply(x, -1), [normal(4, 6)])),
]  # fmt: skip
