"""From floating-point weights to a few bits: after training, or while training with a straight-through gradient."""

from __future__ import annotations

from lean_mnist.generalization.quantize.grid import Grid, grid_of
from lean_mnist.generalization.quantize.modules import QuantizedMLP, fake_quantize
from lean_mnist.generalization.quantize.post_training import fold_scaling, quantize_layers, quantize_model
from lean_mnist.generalization.quantize.straight_through import quantize_backward, quantize_forward
from lean_mnist.generalization.quantize.training import QuantizedTraining, train_quantized

__all__ = [
    "Grid",
    "QuantizedMLP",
    "QuantizedTraining",
    "fake_quantize",
    "fold_scaling",
    "grid_of",
    "quantize_backward",
    "quantize_forward",
    "quantize_layers",
    "quantize_model",
    "train_quantized",
]
