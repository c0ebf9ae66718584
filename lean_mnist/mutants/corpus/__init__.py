"""The corpus of planted bugs, put together from its groups."""

from lean_mnist.errors import ArgumentError, nearest
from lean_mnist.mutants.corpus import chain_rule, formulas, functions, held_out, nodes, shipped, written_forms
from lean_mnist.mutants.mutant import Mutant
from lean_mnist.mutants.whole_function import FunctionMutant

_GROUPS = (
    *(chain_rule.PRODUCTS, chain_rule.ACTIVATIONS, chain_rule.LOSSES, chain_rule.NETWORKS, chain_rule.MEMORY),
    *(nodes.ANY_NODE, nodes.CONTRACTS, shipped.GROUP, held_out.GROUP),
)
_FUNCTION_GROUPS = (
    *(formulas.SIZES, formulas.SCALES, formulas.VALUES),
    *(functions.RANDOM, functions.STATE, functions.CALLS, functions.METHODS),
    *(written_forms.OPERATORS, written_forms.ARGUMENTS, written_forms.MODULES, written_forms.COMPILED),
)
MUTANTS: tuple[Mutant, ...] = tuple(mutant for group in _GROUPS for mutant in group.mutants)
"""Every mutant of our own backward, group by group."""
FUNCTION_MUTANTS: tuple[FunctionMutant, ...] = tuple(m for group in _FUNCTION_GROUPS for m in group.mutants)
"""Every whole Function with a fault, group by group."""


def mutant_named(name: str) -> Mutant:
    """The mutant called ``name``; ``ArgumentError`` with the nearest name if there is none."""
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    if name not in by_name:
        raise ArgumentError(f"mutant: no {name!r} in the corpus{nearest(name, by_name)}")
    return by_name[name]
