"""Evaluation of a network on a split: counts, calibration, the report of ``lean_mnist.evaluate`` and its pictures."""
