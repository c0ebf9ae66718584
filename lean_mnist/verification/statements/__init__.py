"""The obligations of every group, in the order of the table; SymPy is imported with them."""

from lean_mnist.verification.statements import (
    layers,
    linear_algebra,
    loss,
    network,
    optimizer,
    original,
    tensors,
    training,
    types,
)
from lean_mnist.verification.statements.original import VACUOUS as VACUOUS

GROUPS = tuple(
    module.OBLIGATIONS
    for module in (network, linear_algebra, layers, loss, training, tensors, types, optimizer, original)
)
