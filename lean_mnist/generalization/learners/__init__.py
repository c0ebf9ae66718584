"""Perceptrons that predict, update on a mistake, and learn by folding the update; each knows its size in bits.

Everything is float32 and every sum runs in the stated order, so that a result is the same on every machine: a mistake
decided by the last bit of a sum changes all that is learnt after it.
"""

from __future__ import annotations

from lean_mnist.generalization.learners.base import Examples, Learner, correct
from lean_mnist.generalization.learners.experiments import LEARNERS, MLCERT, LearnerSettings, certify_learner
from lean_mnist.generalization.learners.files import read_examples
from lean_mnist.generalization.learners.kernel import KernelPerceptron
from lean_mnist.generalization.learners.linear import Perceptron
from lean_mnist.generalization.learners.sums import KERNELS
from lean_mnist.generalization.learners.support import BudgetKernelPerceptron, DescriptionKernelPerceptron

__all__ = [
    "KERNELS",
    "LEARNERS",
    "MLCERT",
    "BudgetKernelPerceptron",
    "DescriptionKernelPerceptron",
    "Examples",
    "KernelPerceptron",
    "Learner",
    "LearnerSettings",
    "Perceptron",
    "certify_learner",
    "correct",
    "read_examples",
]
