"""Prefix codes: every word comes back, its length is its number of bits, and Kraft's sum is at most 1."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.spaces import (
    Bits,
    Code,
    EnumerativeCode,
    FixedLengthCode,
    PrefixCode,
    QuantizedLayer,
    QuantizedNetwork,
    code_length,
    decode_words,
    encode_words,
    kraft_sum,
)

CODES = [
    (EnumerativeCode(2), 9),
    (EnumerativeCode(3), 6),
    (EnumerativeCode(4), 4),
    (EnumerativeCode(1), 3),
    (FixedLengthCode(1), 7),
    (FixedLengthCode(2), 4),
    (PrefixCode((1, 2, 3, 3)), 5),
    (PrefixCode.huffman((7, 1, 1)), 5),
    (PrefixCode((3, 3)), 4),
]


def word(code: Code, symbols: tuple[int, ...]) -> str:
    bits = Bits()
    code.write(symbols, bits)
    return bits.text


@pytest.mark.parametrize(("code", "count"), CODES)
def test_all_words_of_a_small_code(code: Code, count: int) -> None:
    for n in range(count + 1):
        words = {}
        for symbols in itertools.product(range(code.alphabet), repeat=n):
            text = word(code, symbols)
            assert len(text) == code.length(symbols)
            bits = Bits(text + "10110")
            assert code.read(n, bits) == list(symbols)
            assert bits.left == 5  # what follows is left alone
            words[symbols] = text
        assert len(set(words.values())) == len(words)
        ordered = sorted(words.values())
        assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))
        assert kraft_sum(map(len, words.values())) <= 1


def test_kraft_refuses_what_is_no_code() -> None:
    assert kraft_sum([1, 2, 2]) == 1
    assert kraft_sum([1, 1, 2]) == Fraction(5, 4)
    with pytest.raises(ArgumentError, match="lengths: Kraft's sum is 5/4, expected at most 1"):
        PrefixCode((1, 1, 2))


@pytest.mark.parametrize(("alphabet", "count", "seed"), [(2, 500, 0), (4, 700, 1), (16, 300, 2), (256, 60, 3)])
def test_enumerative_code_of_long_sequences(alphabet: int, count: int, seed: int) -> None:
    print(f"seed {seed}")
    symbols = np.minimum(np.random.default_rng(seed).geometric(0.4, count) - 1, alphabet - 1).tolist()
    code, bits = EnumerativeCode(alphabet), Bits()
    code.write(symbols, bits)
    assert len(bits) == code.length(symbols)
    assert code.read(count, bits) == symbols
    counts = np.bincount(symbols, minlength=alphabet)
    sequences = math.factorial(count) // math.prod(math.factorial(int(n)) for n in counts)
    tables = math.comb(count + alphabet - 1, alphabet - 1)
    assert len(bits) == (sequences - 1).bit_length() + (tables - 1).bit_length()


def test_huffman_is_as_short_as_its_lengths_allow() -> None:
    counts = (50, 20, 20, 6, 3, 1)
    code = PrefixCode.huffman(counts)
    assert kraft_sum(code.lengths) == 1
    mean = sum(n * length for n, length in zip(counts, code.lengths, strict=True)) / 100
    entropy = -sum(n / 100 * math.log2(n / 100) for n in counts)
    assert entropy <= mean < entropy + 1
    lengths = itertools.product(range(1, 6), repeat=6)
    best = min(
        sum(n * length for n, length in zip(counts, each, strict=True)) for each in lengths if kraft_sum(each) <= 1
    )
    assert mean * 100 == pytest.approx(best)


@pytest.mark.parametrize("code", [FixedLengthCode(2), EnumerativeCode(4), PrefixCode((1, 2, 3, 3))])
def test_networks_as_code_words(code: Code) -> None:
    random = np.random.default_rng(4)
    halves = random.normal(0, 1, (2, 2)).astype(np.float16)
    bias = random.normal(0, 1, (2, 3)).astype(np.float16)
    shapes = ((3, 20), (3, 3))
    layers = tuple(
        QuantizedLayer(random.integers(0, 4, shape).astype(np.uint16), 2, *pair, own)
        for shape, pair, own in zip(shapes, halves, bias, strict=True)
    )
    network = QuantizedNetwork(layers)
    bits = encode_words(network, code)
    assert len(bits) == code_length(network, code)
    if isinstance(code, FixedLengthCode):
        assert len(bits) == network.space.size_in_bits
    back = decode_words(Bits(bits.text), network.space, code)
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(network.layers, back.layers, strict=True))
    with pytest.raises(DataError, match="1 bits left over"):
        decode_words(Bits(bits.text + "0"), network.space, code)
    with pytest.raises(DataError, match="left, expected at least"):
        decode_words(Bits(bits.text[:-1]), network.space, code)


def test_bits_that_are_no_word() -> None:
    with pytest.raises(DataError, match="is no number of a table of counts"):
        EnumerativeCode(3).read(4, Bits("1111" + "0" * 20))
    with pytest.raises(DataError, match="are no number of a sequence"):
        EnumerativeCode(2).read(3, Bits("01" + "11"))
    with pytest.raises(DataError, match="11 begins no code word"):
        PrefixCode((1, 2)).read(1, Bits("11"))
    with pytest.raises(DataError, match="bits: 1 left, expected at least 2"):
        FixedLengthCode(2).read(2, Bits("011"))
    with pytest.raises(DataError, match="only the characters 0 and 1"):
        Bits("012")


def test_impossible_codes_and_symbols() -> None:
    with pytest.raises(ArgumentError, match="alphabet: 257"):
        EnumerativeCode(257)
    with pytest.raises(ArgumentError, match="width: 0"):
        FixedLengthCode(0)
    with pytest.raises(ArgumentError, match="symbols: 4, expected 0 to 3"):
        EnumerativeCode(4).length([0, 4])
    with pytest.raises(ArgumentError, match="symbols: 1, expected one that has a code word"):
        PrefixCode((1, 0, 1)).length([1])
    with pytest.raises(ArgumentError, match="counts"):
        PrefixCode.huffman((3,))
    with pytest.raises(ArgumentError, match="value: 4, expected 0 to 2\\^2"):
        Bits().write(4, 2)
    network = QuantizedNetwork((QuantizedLayer(np.zeros((2, 2), np.uint16), 3, np.float16(0), np.float16(1)),))
    with pytest.raises(ArgumentError, match="code: 4 symbols, expected 8 for 3 bits"):
        encode_words(network, EnumerativeCode(4))
