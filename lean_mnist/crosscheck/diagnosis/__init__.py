"""The likely class of a fault, from the wrong tensor beside the right one: a hint for a person, never a verdict."""

from lean_mnist.crosscheck.diagnosis.case import Pointwise, Product
from lean_mnist.crosscheck.diagnosis.diagnose import diagnose
from lean_mnist.crosscheck.diagnosis.explanations import factor_in_words
from lean_mnist.crosscheck.diagnosis.kinds import Basis, Candidate, Diagnosis, Kind
from lean_mnist.crosscheck.diagnosis.regions import region_of

__all__ = [
    "Basis",
    "Candidate",
    "Diagnosis",
    "Kind",
    "Pointwise",
    "Product",
    "diagnose",
    "factor_in_words",
    "region_of",
]
