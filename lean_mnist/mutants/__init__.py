"""Planted bugs: a public corpus of faulty backwards, each tagged with the condition under which it shows.

A check that has never been seen to fail is no check. :func:`run_selftest` plants the corpus in this package's own
backward and trains with the checks that a run uses, and checks whole Functions, right and faulty;
:func:`for_target` plants what fits anywhere in your Function.
:func:`planted` and :func:`planting` plant a mutant, or any replacement, for the length of a ``with``.
"""

from lean_mnist.mutants.conditions import CONDITIONS
from lean_mnist.mutants.corpus import FUNCTION_MUTANTS, MUTANTS, mutant_named
from lean_mnist.mutants.mutant import Mutant
from lean_mnist.mutants.planting import plant_in, planted, planting
from lean_mnist.mutants.report import SelftestReport
from lean_mnist.mutants.selftest import run_selftest
from lean_mnist.mutants.target import for_target

__all__ = [
    "CONDITIONS",
    "FUNCTION_MUTANTS",
    "MUTANTS",
    "Mutant",
    "SelftestReport",
    "for_target",
    "mutant_named",
    "plant_in",
    "planted",
    "planting",
    "run_selftest",
]
