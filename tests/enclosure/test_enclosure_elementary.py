"""Elementary functions against Arb: the one assumption about PyTorch, and the containment that is built on it."""

import random

import numpy as np
import pytest
import torch

pytest.importorskip("flint")

from flint import arb

from lean_mnist.enclosure import rounding
from tests.support.enclosure_arb import FUNCTIONS, points, run_arb, to_arb


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_elementary_function_contains_what_arb_says(seed: int) -> None:
    tally = run_arb(seed, 20_000)
    assert not tally.escaped, f"seed {seed}: {len(tally.escaped)} escaped, first {tally.escaped[0]}"
    assert tally.finite > 0.9 * tally.asked


def worst_ulps(name: str, x: torch.Tensor, computed: torch.Tensor) -> float:
    """The largest error in units of ``2⁻⁵² |f(x)|``, after ``TINY`` is taken off."""
    function = {**FUNCTIONS, "expm1": arb.expm1}[name]
    worst = arb(0)
    for value, found in zip(x.tolist(), computed.tolist(), strict=True):
        true = function(to_arb(value))
        if not abs(found) < np.inf:
            assert not abs(true) < arb(2) ** 1024 * (1 - arb(2) ** -50)
            continue
        beyond = abs(true - arb(found)) - arb(rounding.TINY)
        if beyond > 0:
            worst = worst.max(beyond / abs(true) / arb(rounding.EPSILON))
    return float(worst.mid())


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "tanh", "sigmoid", "erf", "sqrt"])
def test_pytorch_keeps_what_is_assumed_of_it(name: str) -> None:
    x = torch.from_numpy(np.concatenate([points(random.Random(5), 3000), np.linspace(-40, 40, 3001)]))
    if name in ("log", "expm1", "sqrt"):
        x = x.abs() + (2.0**-1074 if name == "log" else 0)
    function = getattr(torch, name)
    ways = {  # vectorised, strided, and number by number, which PyTorch computes by different code
        "vector": (x, function(x)),
        "strided": (x, function(torch.stack([x, x], 1)[:, 0])),
        "short": (x[:501], torch.cat([function(part) for part in x[:501].split(3)])),
        "single": (x[:500], torch.stack([function(value) for value in x[:500]])),
    }
    for way, (inputs, computed) in ways.items():
        ulps = worst_ulps(name, inputs, computed)
        assert ulps < rounding.ELEMENTARY_ULPS / 2, f"{name}, {way}: {ulps} ulps"


def test_a_less_accurate_function_is_found_out() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert worst_ulps("tanh", x, torch.tanh(x) * (1 + 20 * rounding.EPSILON)) > rounding.ELEMENTARY_ULPS
