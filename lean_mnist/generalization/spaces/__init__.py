"""Finite hypothesis spaces: networks written in a fixed number of bits, and prefix codes for them.

A bound that holds for every member of a space at once pays for the logarithm of its size, or, with a code that was
fixed before the data were seen, for the length of the one member's code word.
"""

from __future__ import annotations

from lean_mnist.generalization.spaces.codes import (
    Bits,
    Code,
    EnumerativeCode,
    FixedLengthCode,
    PrefixCode,
    kraft_sum,
)
from lean_mnist.generalization.spaces.encoding import code_length, decode, decode_words, encode, encode_words
from lean_mnist.generalization.spaces.files import network_hash, read_network, write_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import ENCODINGS, NetworkSpace, QuantizedLayer, QuantizedNetwork

__all__ = [
    "ENCODINGS",
    "Bits",
    "Code",
    "EnumerativeCode",
    "FixedLengthCode",
    "IntegerNetwork",
    "NetworkSpace",
    "PrefixCode",
    "QuantizedLayer",
    "QuantizedNetwork",
    "code_length",
    "decode",
    "decode_words",
    "encode",
    "encode_words",
    "kraft_sum",
    "network_hash",
    "read_network",
    "write_network",
]
