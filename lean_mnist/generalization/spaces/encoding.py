"""A quantised network as bits, and back: the fixed encoding of its space, and code words of a prefix code.

The fixed encoding writes, layer by layer: shift and scale (16 bits each), the codes row by row (b bits each, most
significant first), the biases (16 bits each). It has exactly ``space.size_in_bits`` bits. With a prefix code the codes
of a layer are one word of that code instead; everything else stays.
"""

from __future__ import annotations

import numpy as np

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.spaces.codes import Bits, Code, FixedLengthCode
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, NetworkSpace, QuantizedLayer, QuantizedNetwork


def encode(network: QuantizedNetwork) -> bytes:
    """The fixed encoding, filled up with zero bits to whole bytes."""
    text = encode_words(network, FixedLengthCode(network.space.bits)).text
    assert len(text) == network.space.size_in_bits
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def decode(content: bytes, space: NetworkSpace) -> QuantizedNetwork:
    """The inverse of :func:`encode`; ``DataError`` for another length, padding that is not 0, or infinities or NaN."""
    expected = -(-space.size_in_bits // 8)
    if len(content) != expected:
        raise DataError(f"network: {len(content)} bytes, expected {expected} for {space.size_in_bits} bits")
    text = format(int.from_bytes(content, "big"), f"0{8 * expected}b")
    if "1" in text[space.size_in_bits :]:
        raise DataError("network: its last bits, which only fill up a byte, are not 0")
    return decode_words(Bits(text[: space.size_in_bits]), space, FixedLengthCode(space.bits))


def encode_words(network: QuantizedNetwork, code: Code) -> Bits:
    """The bits of ``network`` with its codes written by ``code``; their number is the length that a bound pays."""
    _check_alphabet(network.space, code)
    bits = Bits()
    for layer in network.layers:
        for half in (layer.shift, layer.scale):
            bits.write(int(half.view(np.uint16)), FLOAT16_BITS)
        code.write(layer.codes.ravel().tolist(), bits)
        for pattern in [] if layer.bias is None else layer.bias.view(np.uint16).tolist():
            bits.write(pattern, FLOAT16_BITS)
    return bits


def decode_words(bits: Bits, space: NetworkSpace, code: Code) -> QuantizedNetwork:
    """The inverse of :func:`encode_words`; ``DataError`` where the bits are no network of ``space``, or too many."""
    _check_alphabet(space, code)
    layers = []
    for units, inputs in space.layer_shapes:
        shift, scale = _halves([bits.read(FLOAT16_BITS), bits.read(FLOAT16_BITS)])
        codes = np.array(code.read(units * inputs, bits), np.uint16).reshape(units, inputs)
        bias = _halves([bits.read(FLOAT16_BITS) for _ in range(units)]) if space.biases else None
        try:
            layers.append(QuantizedLayer(codes, space.bits, shift, scale, bias, space.encoding))
        except ArgumentError as error:
            raise DataError(f"network, layer {len(layers)}: {error}") from None
    if bits.left:
        raise DataError(f"network: {bits.left} bits left over, expected none")
    return QuantizedNetwork(tuple(layers), space.denominator)


def code_length(network: QuantizedNetwork, code: Code) -> int:
    """The number of bits of :func:`encode_words`, without writing them."""
    _check_alphabet(network.space, code)
    space = network.space
    words = sum(code.length(layer.codes.ravel().tolist()) for layer in network.layers)
    weights = sum(units * inputs for units, inputs in space.layer_shapes)
    return space.size_in_bits - weights * space.bits + words


def _halves(patterns: list[int]) -> np.ndarray:
    return np.array(patterns, np.uint16).view(np.float16)


def _check_alphabet(space: NetworkSpace, code: Code) -> None:
    if code.alphabet != 1 << space.bits:
        raise ArgumentError(f"code: {code.alphabet} symbols, expected {1 << space.bits} for {space.bits} bits")
