"""Perceptrons trained by one mistake after another, each with the size of its parameters in bits."""
