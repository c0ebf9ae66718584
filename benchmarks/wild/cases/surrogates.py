"""Spiking networks: the forward is a step, the backward the slope of something smooth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.wild.case import Call, Case, Expect, load, normal

_SNN, _NORSE, _SINABS = "snntorch.surrogate:", "norse.torch.functional.", "sinabs.activation:"
_SPIKING = "spikingjelly.activation_based.surrogate:"
_SURROGATE, _SLOPE = "a surrogate gradient", "the slope of the smooth function that it documents"
_INTENDED = {"intended": "surrogate"}


def _spikes() -> Tensor:
    """Membrane potentials on both sides of the threshold, none at it."""
    return torch.tensor([[-1.3, -0.4, -0.07, 0.02], [0.09, 0.35, 0.8, 1.7]], requires_grad=True)


def _smooth(path: str, smooth: Callable[[Tensor], Tensor], *more: Any, x: Tensor | None = None) -> Call:
    function = load(path).apply
    return Call(lambda v: function(v, *more), [_spikes() if x is None else x], options={"derivative_of": smooth})


def _surrogate(path: str, *more: Any) -> Call:
    function = load(path).apply
    return Call(lambda v: function(v, *more), [_spikes()], options=_INTENDED)


def _stochastic() -> Call:
    function = load(_SNN + "StochasticSpikeOperator").apply
    return Call(lambda v: function(v, 0.0, 0.2), [_spikes()],
                options={**_INTENDED, "skip": ["upstream gradient", "replay"]})  # fmt: skip


def _norse(name: str) -> Call:
    function = load(f"{_NORSE}threshold:{name}").apply
    return Call(lambda x: function(x, torch.tensor(1.0).to(x)), [_spikes()], options=_INTENDED)


def _spikingjelly(name: str, **options: Any) -> Call:
    """The package has each surrogate's smooth function; it is what the slope must belong to."""
    surrogate = load(_SPIKING + name)
    smooth = surrogate(spiking=False)
    return Call(surrogate(spiking=True), [_spikes()], options={"derivative_of": smooth, **options})


def _multi_spike(name: str, *between: Any) -> Call:
    function, slope = load(_SINABS + name).apply, load(_SINABS + "SingleExponential")()
    return Call(lambda v: function(v, *between, 1.0, slope), [_spikes()], options=_INTENDED)


def _fast_sigmoid(x: Tensor) -> Tensor:
    return x / (1 + 25 * x.abs())


def _atan(x: Tensor) -> Tensor:
    return (torch.pi / 2 * 2.0 * x).atan() / torch.pi


_SPIKINGJELLY = ("PiecewiseQuadratic", "PiecewiseExp", "Sigmoid", "SoftSign", "ATan",
                 "NonzeroSignLogAbs", "Erf", "PiecewiseLeakyReLU", "QPseudoSpike", "LeakyKReLU",
                 "LogTailedReLU", "Rect")  # fmt: skip

CASES = [
    Case("snntorch", "StraightThroughEstimator", Expect.INTENDED, "passes the gradient through a step",
         lambda: _surrogate(_SNN + "StraightThroughEstimator")),
    Case("snntorch", "Triangular", Expect.INTENDED, _SURROGATE, lambda: _surrogate(_SNN + "Triangular", 1.0)),
    Case("snntorch", "FastSigmoid", Expect.INTENDED, _SLOPE,
         lambda: _smooth(_SNN + "FastSigmoid", _fast_sigmoid, 25)),
    Case("snntorch", "ATan", Expect.INTENDED, _SLOPE, lambda: _smooth(_SNN + "ATan", _atan, 2.0)),
    Case("snntorch", "Heaviside", Expect.INTENDED, _SURROGATE, lambda: _surrogate(_SNN + "Heaviside")),
    Case("snntorch", "Sigmoid", Expect.INTENDED, _SLOPE,
         lambda: _smooth(_SNN + "Sigmoid", lambda x: (25 * x).sigmoid(), 25)),
    Case("snntorch", "Sigmoid, potentials below -3.6", Expect.BUG,
         "exp(-25 x) overflows in float32, and the slope is inf/inf = NaN instead of 0",
         lambda: _smooth(_SNN + "Sigmoid", lambda x: (25 * x).sigmoid(), 25,
                         x=torch.tensor([-4.0, -0.3, 0.2, 1.0], requires_grad=True))),
    Case("snntorch", "SpikeRateEscape", Expect.INTENDED, _SURROGATE,
         lambda: _surrogate(_SNN + "SpikeRateEscape", 1.0, 25.0)),
    Case("snntorch", "StochasticSpikeOperator", Expect.INTENDED,
         "draws its slopes below the threshold anew in every backward", _stochastic),
    Case("snntorch", "LeakySpikeOperator", Expect.BUG, "the backward gives one gradient for two inputs, and raises",
         lambda: _surrogate(_SNN + "LeakySpikeOperator", 0.1)),
    Case("snntorch", "SparseFastSigmoid", Expect.INTENDED, _SURROGATE,
         lambda: _surrogate(_SNN + "SparseFastSigmoid", 25.0, 0.0)),
    Case("snntorch", "StateQuant", Expect.INTENDED, "passes the gradient through a quantiser",
         lambda: Call(lambda x: load("snntorch.functional.quant:StateQuant").apply(x, torch.linspace(-2, 2, 9).to(x)),
                      [normal(3, 4)], options={"intended": "straight-through"})),
    *(Case("norse", name, Expect.INTENDED, _SURROGATE, partial(_norse, name))
      for name in ("HeaviErfc", "HeaviTanh", "HeaviCirc", "HeaviTent")),
    Case("norse", "SuperSpike", Expect.INTENDED, _SLOPE,
         lambda: _smooth(_NORSE + "superspike:SuperSpike", lambda x: x / (1 + 10 * x.abs()), 10.0)),
    Case("sinabs", "Quantize", Expect.INTENDED, "passes the gradient through floor",
         lambda: Call(load(_SINABS + "Quantize").apply, [normal(3, 4)], options={"intended": "straight-through"})),
    Case("sinabs", "StochasticRounding", Expect.INTENDED, "passes the gradient through random rounding",
         lambda: Call(load(_SINABS + "StochasticRounding").apply, [normal(3, 4)],
                      options={"intended": "straight-through"})),
    Case("sinabs", "SingleSpike", Expect.INTENDED, _SURROGATE, lambda: _multi_spike("SingleSpike")),
    Case("sinabs", "MultiSpike", Expect.INTENDED, _SURROGATE, lambda: _multi_spike("MultiSpike")),
    *(Case("spikingjelly", name, Expect.INTENDED, _SLOPE, partial(_spikingjelly, name))
      for name in _SPIKINGJELLY),
    Case("spikingjelly", "S2NN", Expect.INTENDED, "the slope of its smooth function, with 1e-5 against division by 0",
         lambda: _spikingjelly("S2NN", tolerance=1e-4)),
    Case("spikingjelly", "SuperSpike", Expect.INTENDED, _SURROGATE,
         lambda: Call(load(_SPIKING + "SuperSpike")(spiking=True), [_spikes()], options=_INTENDED)),
]  # fmt: skip
