"""Networks of few bits, and what the examples they were learned from prove about them."""

from __future__ import annotations

from lean_mnist.generalization.quantize.claims import TrainingClaim, TrainingClaims, training_claims
from lean_mnist.generalization.quantize.networks import (
    fold_scaling,
    quantize_layers,
    quantize_model,
    quantized_network,
)

__all__ = [
    "TrainingClaim",
    "TrainingClaims",
    "fold_scaling",
    "quantize_layers",
    "quantize_model",
    "quantized_network",
    "training_claims",
]
