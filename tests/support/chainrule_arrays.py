"""Arrays for the tests of the chain rule: seeded fractions, and a mode in which no tensor operation may run."""

import itertools
import random
from fractions import Fraction
from typing import Any

import numpy as np

from lean_mnist.torch_internals import DispatchMode


def fractions_of(values: Any) -> Any:
    """A NumPy object array of fractions from nested lists of numbers or strings such as ``"1/3"``."""
    array = np.array(values, dtype=object)
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        result[index] = Fraction(array[index])
    return result


def random_fractions(rng: random.Random, *shape: int) -> Any:
    """Fractions between −2 and 2 with small denominators; never 0, so that no unit sits on a kink by construction."""
    result = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        result[index] = Fraction(rng.choice([-1, 1]) * rng.randint(1, 26), 13)
    return result


def random_layers(rng: random.Random, sizes: tuple[int, ...], bias: bool = True) -> Any:
    """Layers (weight, bias or ``None``) of fractions for the given sizes."""
    return [
        (random_fractions(rng, after, before), random_fractions(rng, after) if bias else None)
        for before, after in itertools.pairwise(sizes)
    ]


class NoArithmetic(DispatchMode):
    """Inside this context any operation on a tensor is an error; reading a shape, dtype or device is not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> None:
        raise AssertionError(f"{func} ran before the arguments were checked")
