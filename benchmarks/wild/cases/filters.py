"""Scans, wavelets and recursive filters."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.wild.case import Call, Case, Expect, load, normal, uniform

_DWT, _DTCWT = "pytorch_wavelets.dwt.lowlevel:", "pytorch_wavelets.dtcwt.transform_funcs:"
_INVERSE = "an orthogonal filter: the backward is the inverse transform"
_HIGH_ALONE = "where only the high-pass part needs a gradient, it gets none"
_SYMMETRIC = "the backward is the inverse transform, which is the adjoint for zero and periodic extensions only"


def _scan(a: Tensor, x: Tensor) -> Tensor:
    """The recurrence, step by step."""
    states = [x[:, 0]]
    for step in range(1, x.shape[1]):
        states.append(a[:, step] * states[-1] + x[:, step])
    return torch.stack(states, 1)


def _filters(length: int = 4) -> list[Tensor]:
    return [torch.randn(1, 1, length) for _ in range(2)]


def _orthogonal() -> tuple[Tensor, Tensor]:
    """Daubechies' filter of four taps, low and high; its inverse transform is its adjoint."""
    root = 3**0.5
    low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4 * 2**0.5)
    high = low.flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    return low.flip(0), high.flip(0)


def _mode(mode: str) -> int:
    code: int = load(_DWT + "mode_to_int")(mode)
    return code


def _analysis_1d(mode: str) -> Call:
    low, high = (f.view(1, 1, -1) for f in _orthogonal())
    return Call(lambda x: load(_DWT + "AFB1D").apply(x, low.to(x), high.to(x), _mode(mode)), [normal(1, 2, 12)])


def _analysis_2d(mode: str) -> Call:
    low, high = _orthogonal()
    filters = [f.view(1, 1, *shape) for shape in ((1, -1), (-1, 1)) for f in (low, high)]
    return Call(lambda x: load(_DWT + "AFB2D").apply(x, *(f.to(x) for f in filters), _mode(mode)),
                [normal(1, 2, 8, 8)])  # fmt: skip


def _synthesis_1d(mode: str) -> Call:
    low, high = (f.view(1, 1, -1) for f in _orthogonal())
    return Call(lambda a, b: load(_DWT + "SFB1D").apply(a, b, low.to(a), high.to(a), _mode(mode)),
                [normal(1, 2, 6), normal(1, 2, 6)])  # fmt: skip


def _synthesis_2d(mode: str) -> Call:
    low, high = _orthogonal()
    filters = [f.view(1, 1, *shape) for shape in ((1, -1), (-1, 1)) for f in (low, high)]
    return Call(lambda a, b: load(_DWT + "SFB2D").apply(a, b, *(f.to(a) for f in filters), _mode(mode)),
                [normal(1, 2, 4, 4), normal(1, 2, 3, 4, 4)])  # fmt: skip


def _magnitude() -> Call:
    return Call(lambda x, y: load("pytorch_wavelets.scatternet.lowlevel:SmoothMagFn").apply(x, y, 0.1),
                [normal(3, 4), normal(3, 4)], lambda x, y: (x**2 + y**2 + 0.01).sqrt() - 0.1)  # fmt: skip


def _complex_tree(inverse: bool) -> Call:
    low, high = (f.view(1, 1, -1, 1) for f in (torch.tensor([0.25, 0.5, 0.25]), torch.tensor([-0.25, 0.5, -0.25])))
    mode = 0

    def forward(x: Tensor) -> Any:
        return load(_DTCWT + "FWD_J1").apply(x, low.to(x), high.to(x), False, 2, -1, mode)

    def backward(lows: Tensor, highs: Tensor) -> Any:
        return load(_DTCWT + "INV_J1").apply(lows, highs, low.to(lows), high.to(lows), 2, -1, mode)

    return Call(backward, [normal(1, 1, 8, 8), normal(1, 1, 6, 4, 4, 2)]) if inverse else \
        Call(forward, [normal(1, 1, 8, 8)])  # fmt: skip


def _fir() -> Call:
    apply = load("torchaudio.functional.filtering:DifferentiableFIR").apply
    return Call(apply, [normal(2, 3, 12), normal(3, 4)])


def _iir() -> Call:
    apply = load("torchaudio.functional.filtering:DifferentiableIIR").apply

    def function(x: Tensor, tail: Tensor) -> Any:  # the first coefficient is 1 by contract
        return apply(x, torch.cat([torch.ones_like(tail[:, :1]), tail], 1))

    return Call(function, [normal(2, 3, 12), uniform(3, 2, low=-0.3, high=0.3)])


CASES = [
    Case("mambapy", "PScan", Expect.RIGHT, "the backward is the reversed scan",
         lambda: Call(load("mambapy.pscan:PScan").apply, [uniform(2, 8, 3, 4), normal(2, 8, 3, 4)], _scan)),
    Case("torchaudio", "DifferentiableFIR", Expect.CONTRACT,
         "its backward calls view, and raises for an upstream gradient of other strides", _fir),
    Case("torchaudio", "DifferentiableIIR", Expect.RIGHT, "a recursive filter", _iir),
    Case("pytorch-wavelets", "SmoothMagFn", Expect.BUG,
         "raises where only the second input needs a gradient; for a second derivative the slopes are constants",
         _magnitude),
    Case("pytorch-wavelets", "FWD_J1", Expect.RIGHT, "first level of the dual-tree transform, symmetric filters",
         lambda: _complex_tree(False)),
    Case("pytorch-wavelets", "INV_J1", Expect.RIGHT, "inverse of the first level", lambda: _complex_tree(True)),
    *(Case("pytorch-wavelets", f"{name}, {mode}", expect, fact, partial(make, mode))
      for name, make in (("AFB1D", _analysis_1d), ("AFB2D", _analysis_2d))
      for mode, expect, fact in (("zero", Expect.RIGHT, _INVERSE), ("periodization", Expect.RIGHT, _INVERSE),
                                 ("symmetric", Expect.BUG, _SYMMETRIC), ("reflect", Expect.BUG, _SYMMETRIC))),
    *(Case("pytorch-wavelets", f"{name}, {mode}", Expect.BUG, fact, partial(make, mode))
      for name, make in (("SFB1D", _synthesis_1d), ("SFB2D", _synthesis_2d))
      for mode, fact in (("zero", _HIGH_ALONE), ("periodization", _HIGH_ALONE), ("symmetric", _SYMMETRIC),
                         ("reflect", _SYMMETRIC))),
]  # fmt: skip
