"""The form of a planted bug that is a whole Function: right or faulty, with what it is checked against.

Those of ``mutant.Mutant`` change a part of a backward of ours. These are for situations that ours never meet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lean_mnist.crosscheck.diagnosis import Kind
from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.crosscheck.report import Report
from lean_mnist.mutants.mutant import PlantedBug, as_tuple, description_of

Apply = Callable[..., Any]
Make = Callable[[bool], Apply]
"""``make(wrong)``: a fresh function, faulty or right."""
Formula = Callable[..., Any]


@dataclass(frozen=True)
class FunctionMutant(PlantedBug):
    """A Function with a fault, and the same without."""

    make: Make  # the faulty function for ``True``, the right one for ``False``, which the same check must pass
    inputs: Callable[[], Any]
    check: Callable[..., Report]
    options: Mapping[str, Any]  # of the check

    def report(self, wrong: bool, seed: int) -> Report:
        """The report on the faulty function, or on the right one."""
        return self.check(self.make(wrong), inputs=self.inputs(), seed=seed, fail_on="warning", **self.options)


class FunctionGroup:
    """Whole Functions of one group, in the order added; ``shapes`` and ``options`` hold for each that says no other."""

    def __init__(self, name: str, *shapes: tuple[int, ...], **options: Any) -> None:
        self.name, self._shapes, self._options = name, shapes, {"check": check_function, **options}
        self.mutants: list[FunctionMutant] = []

    def add(
        self,
        name: str,
        kinds: Kind | tuple[Kind, ...],
        shows: str,
        description: str,
        make: Make,
        *shapes: tuple[int, ...],
        inputs: Callable[[], Any] | None = None,
        **options: Any,
    ) -> None:
        """Add what ``make`` makes; ``inputs`` are Gaussian of ``shapes`` unless given, ``options`` are the check's."""
        own = {**self._options, **options}
        given, check = inputs or partial(gaussian, *(shapes or self._shapes)), own.pop("check")
        mutant = FunctionMutant(name, description, as_tuple(kinds), self.name, shows, make, given, check, own)
        self.mutants.append(mutant)

    def __call__(
        self, name: str, kinds: Kind | tuple[Kind, ...], shows: str, *shapes: tuple[int, ...], **options: Any
    ) -> Callable[[Make], Make]:
        """Decorator of ``make``, whose docstring is the description; see :meth:`add`."""

        def add(make: Make) -> Make:
            self.add(name, kinds, shows, description_of(make), make, *shapes, **options)
            return make

        return add

    def by_formulas(
        self,
        name: str,
        kinds: Kind | tuple[Kind, ...],
        shows: str,
        description: str,
        value: Formula,
        right: Formula,
        wrong: Formula,
        *shapes: tuple[int, ...],
        **options: Any,
    ) -> None:
        """Add a Function of this ``value(*inputs)``, whose gradients are ``right`` or ``wrong(upstream, *inputs)``."""

        def make(faulty: bool) -> Apply:
            return by_formulas(value, wrong if faulty else right)

        self.add(name, kinds, shows, description, make, *shapes, reference=value, **options)


def gaussian(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gaussian inputs that need a gradient."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def function(forward: Formula, backward: Formula, **methods: Formula) -> Apply:
    """``apply`` of a Function with these static methods."""
    named = {"forward": forward, "backward": backward, **methods}
    owner: Any = type("WholeFunction", (Function,), {name: staticmethod(method) for name, method in named.items()})
    return owner.apply


def by_formulas(value: Formula, gradient: Formula) -> Apply:
    """The Function ``value(*inputs)`` whose gradients are ``gradient(upstream, *inputs)``."""

    def forward(ctx: Any, *inputs: Tensor) -> Any:
        ctx.save_for_backward(*inputs)
        return value(*inputs)

    return function(forward, lambda ctx, g: gradient(g, *ctx.saved_tensors))
