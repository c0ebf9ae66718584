"""Learners that predict, update on a mistake, and learn by folding the update; each knows its size in bits.

Everything is float32 and every sum runs in the stated order, so that a result is the same on every machine: a mistake
decided by the last bit of a sum changes all that is learnt after it.
"""

from __future__ import annotations

from lean_mnist.generalization.learners.base import Examples, Learner, Oracle, accuracy, correct, is_vacuous
from lean_mnist.generalization.learners.certified import UnionBound, union_bound
from lean_mnist.generalization.learners.files import read_examples
from lean_mnist.generalization.learners.kernel import KernelParameters, KernelPerceptron
from lean_mnist.generalization.learners.linear import LinearParameters, Perceptron
from lean_mnist.generalization.learners.sums import KERNELS, linear_kernel, quadratic_kernel
from lean_mnist.generalization.learners.support import (
    BudgetKernelPerceptron,
    DescriptionKernelPerceptron,
    SupportParameters,
)

__all__ = [
    "KERNELS",
    "BudgetKernelPerceptron",
    "DescriptionKernelPerceptron",
    "Examples",
    "KernelParameters",
    "KernelPerceptron",
    "Learner",
    "LinearParameters",
    "Oracle",
    "Perceptron",
    "SupportParameters",
    "UnionBound",
    "accuracy",
    "correct",
    "is_vacuous",
    "linear_kernel",
    "quadratic_kernel",
    "read_examples",
    "union_bound",
]
