"""The enumerative code's lengths: they are those of a prefix code, and of what a network's codes cost."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError
from lean_mnist.generalization.spaces.encoding import code_length, enumerative_length
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork


@pytest.mark.parametrize(("alphabet", "count"), [(2, 9), (3, 6), (4, 4), (1, 3)])
def test_a_prefix_code_of_these_lengths_exists(alphabet: int, count: int) -> None:
    for n in range(count + 1):
        lengths = [enumerative_length(symbols, alphabet) for symbols in itertools.product(range(alphabet), repeat=n)]
        kraft = sum(Fraction(1, 2**length) for length in lengths)
        assert Fraction(1, 4) < kraft <= 1  # and nothing is given away but the two roundings


@pytest.mark.parametrize("alphabet", [2, 4, 16, 256])
@pytest.mark.parametrize("count", [60, 700, 4096, 4097, 9000])  # up to 4096 the numbers decide, then logarithms
def test_lengths_of_long_sequences(alphabet: int, count: int) -> None:
    print("seed 5")
    symbols = np.minimum(np.random.default_rng(5).geometric(0.3, count) - 1, alphabet - 1)
    counts = np.bincount(symbols, minlength=alphabet)
    sequences = math.factorial(count) // math.prod(math.factorial(int(n)) for n in counts)
    tables = math.comb(count + alphabet - 1, alphabet - 1)
    assert enumerative_length(symbols, alphabet) == (sequences - 1).bit_length() + (tables - 1).bit_length()


def test_a_network_pays_for_each_layer_and_for_what_is_not_coded() -> None:
    random = np.random.default_rng(4)
    halves = random.normal(0, 1, (2, 2)).astype(np.float16)
    bias = random.normal(0, 1, (2, 3)).astype(np.float16)
    layers = tuple(
        QuantizedLayer(random.integers(0, 4, shape).astype(np.uint16), 2, pair[0], pair[1], own)
        for shape, pair, own in zip(((3, 20), (3, 3)), halves, bias, strict=True)
    )
    words = [enumerative_length(layer.codes.ravel(), 4) for layer in layers]
    assert code_length(QuantizedNetwork(layers)) == 2 * (2 * 16 + 3 * 16) + sum(words)


def test_impossible_widths() -> None:
    layer = QuantizedLayer(np.zeros((2, 2), np.uint16), 9, np.float16(0), np.float16(1))
    with pytest.raises(ArgumentError, match="bits: 9, expected at most 8 for an enumerative code"):
        code_length(QuantizedNetwork((layer,)))


def test_logarithms_decide_only_what_they_can() -> None:
    for exponent in range(13, 20):  # 2^e sequences, for which the logarithm is a whole number
        assert enumerative_length([0] * ((1 << exponent) - 1) + [1], 2) == exponent + exponent + 1
    assert enumerative_length([0] * 100_000, 1) == 0
