"""Finite hypothesis spaces: networks written in a fixed number of bits, and the length of their words in a prefix code.

A bound that holds for every member of a space at once pays for the logarithm of its size, or, with a code that was
fixed before the data were seen, for the length of the one member's code word.
"""

from __future__ import annotations

from lean_mnist.generalization.spaces.encoding import MOST_CODED_BITS, code_length, encode, read_network, write_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork

__all__ = [
    "MOST_CODED_BITS",
    "IntegerNetwork",
    "QuantizedNetwork",
    "code_length",
    "encode",
    "read_network",
    "write_network",
]
