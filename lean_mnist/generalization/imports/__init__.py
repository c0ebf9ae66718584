"""Networks trained elsewhere: read without running anything, believed as far as shapes and data bear them out."""

from __future__ import annotations

from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.imports.network import ImportedNetwork, Scaling
from lean_mnist.generalization.imports.onnx import read_onnx
from lean_mnist.generalization.imports.pickles import read_arrays
from lean_mnist.generalization.imports.safetensors import read_safetensors
from lean_mnist.generalization.imports.tensors import network_from_tensors, read_network, read_state_dict
from lean_mnist.generalization.imports.verify import Verified, verify_on_data

__all__ = [
    "ImportedNetwork",
    "Scaling",
    "Verified",
    "network_from_tensors",
    "read_arrays",
    "read_mlcert",
    "read_network",
    "read_onnx",
    "read_safetensors",
    "read_state_dict",
    "verify_on_data",
]
