"""Finite hypothesis spaces: networks of a fixed number of bits, and the length of their words in a prefix code."""
