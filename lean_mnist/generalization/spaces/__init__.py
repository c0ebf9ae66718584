"""Finite hypothesis spaces: networks written in a fixed number of bits, and the length of their words in a prefix code.

A bound that holds for every member of a space at once pays for the logarithm of its size, or, with a code that was
fixed before the data were seen, for the length of the one member's code word.
"""

from __future__ import annotations

from lean_mnist.generalization.spaces.encoding import MOST_CODED_BITS, code_length, decode, encode, enumerative_length
from lean_mnist.generalization.spaces.files import network_hash, read_network, write_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import ENCODINGS, NetworkSpace, QuantizedLayer, QuantizedNetwork

__all__ = [
    "ENCODINGS",
    "MOST_CODED_BITS",
    "IntegerNetwork",
    "NetworkSpace",
    "QuantizedLayer",
    "QuantizedNetwork",
    "code_length",
    "decode",
    "encode",
    "enumerative_length",
    "network_hash",
    "read_network",
    "write_network",
]
