"""Prefix codes for sequences of small integers, fixed before the data are seen.

A set of code words of which none begins another has ``Σ 2^−length ≤ 1`` (Kraft, 1949), which is what a code-length
bound rests on. Here every word is written and read back, its length is its number of bits, and no table is taken for
granted.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol

from lean_mnist.errors import ArgumentError, DataError


class Bits:
    """Bits that are written at the end and read from the beginning; reading past the end raises ``DataError``."""

    def __init__(self, text: str = "") -> None:
        if set(text) - {"0", "1"}:
            raise DataError(f"bits: {text[:20]!r}, expected only the characters 0 and 1")
        self._parts, self._text, self._place = [text], text, 0

    def __len__(self) -> int:
        """How many bits were written in all."""
        return sum(map(len, self._parts))

    @property
    def text(self) -> str:
        """All bits, as the characters 0 and 1."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        self._text = self._parts[0]
        return self._text

    @property
    def left(self) -> int:
        """How many bits were not read yet."""
        return len(self) - self._place

    def write(self, value: int, width: int) -> None:
        """The ``width`` lowest bits of ``value``, most significant first; ``ArgumentError`` if it needs more."""
        if value < 0 or value >> width:
            raise ArgumentError(f"value: {value}, expected 0 to 2^{width} − 1")
        if width:
            self._parts.append(format(value, f"0{width}b"))

    def read(self, width: int) -> int:
        """The next ``width`` bits as a number."""
        text = self.text if len(self._parts) > 1 or self._place == 0 else self._text
        if self._place + width > len(text):
            raise DataError(f"bits: {len(text) - self._place} left, expected at least {width}")
        self._place += width
        return int(text[self._place - width : self._place], 2) if width else 0


class Code(Protocol):
    """A prefix code for sequences of ``count`` symbols, each 0 … alphabet − 1; the reader knows ``count``."""

    @property
    def alphabet(self) -> int: ...
    def length(self, symbols: Sequence[int]) -> int: ...
    def write(self, symbols: Sequence[int], bits: Bits) -> None: ...
    def read(self, count: int, bits: Bits) -> list[int]: ...


class FixedLengthCode:
    """``width`` bits a symbol, whatever the symbol."""

    def __init__(self, width: int) -> None:
        if not 1 <= width <= 16:
            raise ArgumentError(f"width: {width}, expected a number from 1 to 16")
        self.width, self.alphabet = width, 1 << width

    def length(self, symbols: Sequence[int]) -> int:
        _check_symbols(symbols, self.alphabet)
        return self.width * len(symbols)

    def write(self, symbols: Sequence[int], bits: Bits) -> None:
        for symbol in symbols:
            bits.write(symbol, self.width)

    def read(self, count: int, bits: Bits) -> list[int]:
        return [bits.read(self.width) for _ in range(count)]


class PrefixCode:
    """One code word a symbol, canonical for the given lengths: shorter words first, then smaller symbols.

    A symbol of length 0 has no word and cannot be written. Raises ``ArgumentError`` where ``Σ 2^−length > 1``, for then
    there is no such code.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths or any(length < 0 for length in lengths) or not any(lengths):
            raise ArgumentError(f"lengths: {list(lengths)[:8]}, expected numbers of at least 0, not all 0")
        total = kraft_sum(length for length in lengths if length)
        if total > 1:
            raise ArgumentError(f"lengths: Kraft's sum is {total}, expected at most 1")
        self.alphabet, self.lengths = len(lengths), tuple(lengths)
        self._words: dict[int, tuple[int, int]] = {}
        word, before = 0, 0
        for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
            word <<= length - before
            self._words[symbol], before = (word, length), length
            word += 1
        self._symbols = {word: symbol for symbol, word in self._words.items()}

    @classmethod
    def huffman(cls, counts: Sequence[int]) -> PrefixCode:
        """The shortest prefix code for symbols of these frequencies (Huffman, 1952); every symbol gets a word.

        The counts must come from something other than the network that is then coded, or the code was not fixed before.
        """
        if len(counts) < 2 or any(count < 0 for count in counts):
            raise ArgumentError(f"counts: {list(counts)[:8]}, expected two or more numbers of at least 0")
        heap: list[tuple[int, int, tuple[int, ...]]] = [
            (count, symbol, (symbol,)) for symbol, count in enumerate(counts)
        ]
        heapq.heapify(heap)
        lengths, number = [0] * len(counts), itertools.count(len(counts))
        while len(heap) > 1:
            (first, _, left), (second, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left + right:
                lengths[symbol] += 1
            heapq.heappush(heap, (first + second, next(number), left + right))
        return cls(lengths)

    def length(self, symbols: Sequence[int]) -> int:
        return sum(self._word(symbol)[1] for symbol in symbols)

    def write(self, symbols: Sequence[int], bits: Bits) -> None:
        for symbol in symbols:
            bits.write(*self._word(symbol))

    def read(self, count: int, bits: Bits) -> list[int]:
        longest, symbols = max(self.lengths), []
        for _ in range(count):
            word, length = 0, 0
            while (word, length) not in self._symbols or length == 0:
                if length == longest:
                    raise DataError(f"bits: {word:0{length}b} begins no code word, expected one of this code")
                word, length = word << 1 | bits.read(1), length + 1
            symbols.append(self._symbols[word, length])
        return symbols

    def _word(self, symbol: int) -> tuple[int, int]:
        if symbol not in self._words:
            raise ArgumentError(f"symbols: {symbol}, expected one that has a code word")
        return self._words[symbol]


class EnumerativeCode:
    """First how often each symbol occurs, then which of the sequences with these counts it is (Cover, 1973).

    For n symbols of an alphabet of K: ``⌈log2 C(n + K − 1, K − 1)⌉ + ⌈log2 (n! / Π n_k!)⌉`` bits. It needs no table of
    frequencies, so nothing about the sequence has to be known beforehand, and it costs little more than its entropy.
    """

    def __init__(self, alphabet: int) -> None:
        if not 1 <= alphabet <= 256:
            raise ArgumentError(f"alphabet: {alphabet}, expected a number from 1 to 256")
        self.alphabet = alphabet

    def length(self, symbols: Sequence[int]) -> int:
        _check_symbols(symbols, self.alphabet)
        counts = self._counts(symbols)
        return self._counts_width(len(symbols)) + _width(_multinomial(counts))

    def write(self, symbols: Sequence[int], bits: Bits) -> None:
        _check_symbols(symbols, self.alphabet)
        counts = self._counts(symbols)
        bits.write(_rank_counts(counts), self._counts_width(len(symbols)))
        bits.write(_rank(symbols, counts), _width(_multinomial(counts)))

    def read(self, count: int, bits: Bits) -> list[int]:
        number = bits.read(self._counts_width(count))
        if number >= _multisets(count, self.alphabet):
            raise DataError(f"bits: {number} is no number of a table of counts, expected fewer")
        counts = _unrank_counts(number, count, self.alphabet)
        sequences = _multinomial(counts)
        rank = bits.read(_width(sequences))
        if rank >= sequences:
            raise DataError(
                f"bits: {rank.bit_length()} bits are no number of a sequence with these counts, expected fewer"
            )
        return _unrank(rank, counts)

    def _counts(self, symbols: Sequence[int]) -> list[int]:
        counts = [0] * self.alphabet
        for symbol in symbols:
            counts[symbol] += 1
        return counts

    def _counts_width(self, count: int) -> int:
        return _width(_multisets(count, self.alphabet))


def kraft_sum(lengths: Iterable[int]) -> Fraction:
    """``Σ 2^−length``, exactly; a prefix code with these lengths exists if and only if it is at most 1."""
    counted: dict[int, int] = {}
    for length in lengths:
        counted[length] = counted.get(length, 0) + 1
    return sum((Fraction(number, 1 << length) for length, number in counted.items()), Fraction(0))


def _check_symbols(symbols: Sequence[int], alphabet: int) -> None:
    for symbol in symbols:
        if not 0 <= symbol < alphabet:
            raise ArgumentError(f"symbols: {symbol}, expected 0 to {alphabet - 1}")


def _width(choices: int) -> int:
    """``⌈log2 choices⌉``."""
    return (choices - 1).bit_length()


def _multisets(count: int, alphabet: int) -> int:
    return math.comb(count + alphabet - 1, alphabet - 1)


def _multinomial(counts: Sequence[int]) -> int:
    result, total = 1, 0
    for count in counts:
        total += count
        result *= math.comb(total, count)
    return result


def _rank_counts(counts: Sequence[int]) -> int:
    """Its number among the tables with the same sum, in lexicographic order."""
    rank, left = 0, sum(counts)
    for place, count in enumerate(counts[:-1], 1):
        others = len(counts) - place
        # Σ_{smaller} C(left − smaller + others − 1, others − 1), by the hockey-stick identity
        rank += math.comb(left + others, others) - math.comb(left - count + others, others)
        left -= count
    return rank


def _unrank_counts(rank: int, total: int, alphabet: int) -> list[int]:
    counts, left = [], total
    for place in range(1, alphabet):
        others = alphabet - place
        low, high = 0, left  # the largest count whose predecessors number at most rank
        while low < high:
            middle = (low + high + 1) // 2
            if math.comb(left + others, others) - math.comb(left - middle + others, others) <= rank:
                low = middle
            else:
                high = middle - 1
        rank -= math.comb(left + others, others) - math.comb(left - low + others, others)
        counts.append(low)
        left -= low
    return [*counts, left]


# Sequences are ranked in lexicographic order. With N sequences left over n symbols, those that begin with k number
# N · n_k / n, which is exact; so a rank is one multiplication and one division a symbol.
def _rank(symbols: Sequence[int], counts: Sequence[int]) -> int:
    left, rank = list(counts), 0
    sequences, total = _multinomial(counts), len(symbols)
    for symbol in symbols:
        rank += sequences * sum(left[:symbol]) // total
        sequences = sequences * left[symbol] // total
        left[symbol] -= 1
        total -= 1
    return rank


def _unrank(rank: int, counts: Sequence[int]) -> list[int]:
    left, symbols = list(counts), []
    sequences, total = _multinomial(counts), sum(counts)
    while total:
        symbol = below = 0
        while rank >= sequences * (below + left[symbol]) // total:
            below += left[symbol]
            symbol += 1
        rank -= sequences * below // total
        sequences = sequences * left[symbol] // total
        symbols.append(symbol)
        left[symbol] -= 1
        total -= 1
    return symbols
