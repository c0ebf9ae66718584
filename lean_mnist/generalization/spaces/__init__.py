"""Finite hypothesis spaces: networks written in a fixed number of bits, and the length of their words in a prefix code.

A bound that holds for every member of a space at once pays for the logarithm of its size, or, with a code that was
fixed before the data were seen, for the length of the one member's code word.
"""
