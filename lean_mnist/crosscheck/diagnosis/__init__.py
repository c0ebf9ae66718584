"""The likely class of a fault, from the wrong tensor beside the right one: a hint for a person, never a verdict."""

from lean_mnist.crosscheck.diagnosis.case import Pointwise as Pointwise
from lean_mnist.crosscheck.diagnosis.case import Product as Product
from lean_mnist.crosscheck.diagnosis.case import region_of as region_of
from lean_mnist.crosscheck.diagnosis.diagnose import diagnose as diagnose
from lean_mnist.crosscheck.diagnosis.diagnose import factor_in_words as factor_in_words
from lean_mnist.crosscheck.diagnosis.kinds import Basis as Basis
from lean_mnist.crosscheck.diagnosis.kinds import Candidate as Candidate
from lean_mnist.crosscheck.diagnosis.kinds import Diagnosis as Diagnosis
from lean_mnist.crosscheck.diagnosis.kinds import Kind as Kind
