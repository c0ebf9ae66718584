"""Networks trained elsewhere: read without running anything, and certified on data."""

from __future__ import annotations

from lean_mnist.generalization.imports.certified import NetworkFile, certify_reading, import_network, kind_of, read_for
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.imports.network import ImportedNetwork, Scaling
from lean_mnist.generalization.imports.verify import verify_on_data

__all__ = [
    "ImportedNetwork",
    "NetworkFile",
    "Scaling",
    "certify_reading",
    "import_network",
    "kind_of",
    "read_for",
    "read_mlcert",
    "verify_on_data",
]
