"""Planted bugs: a public corpus of faulty backwards, each tagged with the condition under which it shows.

A check that has never been seen to fail is no check. :func:`run_selftest` plants the corpus in this package's backward,
:func:`for_target` what fits anywhere in your Function. :func:`planted` and :func:`planting` plant one for a ``with``.
"""

from lean_mnist.mutants.corpus import FUNCTION_MUTANTS as FUNCTION_MUTANTS
from lean_mnist.mutants.corpus import MUTANTS as MUTANTS
from lean_mnist.mutants.corpus import mutant_named as mutant_named
from lean_mnist.mutants.planting import planted as planted
from lean_mnist.mutants.planting import planting as planting
from lean_mnist.mutants.selftest import for_target as for_target
from lean_mnist.mutants.selftest import run_selftest as run_selftest
from lean_mnist.mutants.situations import CONDITIONS as CONDITIONS
