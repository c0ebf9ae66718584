"""The corpus, put together."""

from __future__ import annotations

from dataclasses import replace

from lean_mnist.errors import ArgumentError, nearest
from lean_mnist.mutants import (
    activations,
    contracts,
    escapes,
    later,
    losses,
    memory,
    network,
    nodes,
    products,
)
from lean_mnist.mutants.kinds import TRUE_KINDS
from lean_mnist.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = tuple(
    replace(mutant, kinds=TRUE_KINDS[mutant.name])
    for group in (products, activations, losses, network, memory, nodes, contracts, escapes, later)
    for mutant in group.MUTANTS
)
"""Every mutant, group by group."""


def mutant_named(name: str) -> Mutant:
    """The mutant called ``name``; ``ArgumentError`` with the nearest name if there is none."""
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    if name not in by_name:
        raise ArgumentError(f"mutant: no {name!r} in the corpus{nearest(name, by_name)}")
    return by_name[name]
