"""The corpus, put together."""

from __future__ import annotations

from lean_mnist.crosscheck.mutants import (
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
from lean_mnist.crosscheck.mutants.mutant import Mutant
from lean_mnist.errors import ArgumentError, nearest

MUTANTS: tuple[Mutant, ...] = (
    *products.MUTANTS,
    *activations.MUTANTS,
    *losses.MUTANTS,
    *network.MUTANTS,
    *memory.MUTANTS,
    *nodes.MUTANTS,
    *contracts.MUTANTS,
    *escapes.MUTANTS,
    *later.MUTANTS,
)
"""Every mutant, group by group."""


def mutant_named(name: str) -> Mutant:
    """The mutant called ``name``; ``ArgumentError`` with the nearest name if there is none."""
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    if name not in by_name:
        raise ArgumentError(f"mutant: no {name!r} in the corpus{nearest(name, by_name)}")
    return by_name[name]
