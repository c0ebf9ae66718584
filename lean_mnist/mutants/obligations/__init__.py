"""The self-test of obligations: wrong formulas, tensors and claims, and the obligations that must fail of each."""

from lean_mnist.mutants.obligations.faults import FAULTS as FAULTS
from lean_mnist.mutants.obligations.selftest import check_obligations as check_obligations
