"""Planting a mutant: in the real chain rule, for the length of a ``with``, or in a copy of anybody's Function."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants.mutant import Fault, Mutant
from lean_mnist.nn import functions


class Plant:
    """A mutant that is planted: active, unless suspended."""

    def __init__(self) -> None:
        self.active = True

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Within this context the right backward runs, and a fault that remembers sees nothing of it."""
        before, self.active = self.active, False
        try:
            yield
        finally:
            self.active = before


@contextlib.contextmanager
def planted(mutant: Mutant) -> Iterator[Plant]:
    """Plant ``mutant`` in the chain rule or in our own Functions; whatever happens inside, it is gone afterwards."""
    plant = Plant()
    with contextlib.ExitStack() as stack:
        _INSTALL[mutant.site](stack, mutant, plant)
        yield plant


def plant_in(function: type[Function], mutant: Mutant) -> type[Function]:
    """A subclass of ``function`` whose backward (or ``vjp``) has the fault; ``function`` itself stays as it is.

    Raises ``ArgumentError`` if ``function`` is no ``autograd.Function`` or the mutant needs to know the mathematics.
    """
    if not (isinstance(function, type) and issubclass(function, Function)):
        raise ArgumentError(f"function: expected a subclass of torch.autograd.Function, found {function!r}")
    if not mutant.generic:
        raise ArgumentError(
            f"mutant: {mutant.name} is a fault of the chain rule; only those of site 'node' fit anywhere"
        )
    name = _backward_name(function)
    faulty = staticmethod(_wrap(getattr(function, name), mutant.new_fault(), Plant()))
    return type(f"{function.__name__}With{mutant.name.title().replace('-', '')}", (function,), {name: faulty})


def _backward_name(function: type[Function]) -> str:
    return "vjp" if function.vjp is not Function.vjp else "backward"


def _wrap(original: Callable[..., Any], fault: Fault, plant: Plant) -> Callable[..., Any]:
    @functools.wraps(original)
    def faulty(*arguments: Any) -> Any:
        if plant.active and not _other_arithmetic(arguments[0]):
            return fault(original, *arguments)
        return original(*arguments)

    return faulty


def _other_arithmetic(argument: Any) -> bool:
    """Whether the chain rule is run on anything but tensors: on balls, fractions or expressions.

    A mutant stands for faulty code that runs on tensors. The enclosure keeps the right formula; the self-test gives it
    no credit for that, since a fault in the formula itself would be in the enclosure too.
    """
    while isinstance(argument, tuple) and argument:
        argument = argument[0]
    return not isinstance(argument, (Tensor, FunctionCtx))


def _install_function(module: Any, name: str) -> Callable[..., None]:
    """Replace a function of the chain rule wherever one of our modules has a name for it.

    A fault gives new tensors, whatever place was named for the gradients to be written ``into``.
    """

    def install(stack: contextlib.ExitStack, mutant: Mutant, plant: Plant) -> None:
        original = getattr(module, name)
        signature = inspect.signature(original)
        faulty = _wrap(original, mutant.new_fault(), plant)

        @functools.wraps(original)
        def with_all_arguments(*given: Any, **named: Any) -> Any:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            return faulty(*(value for name, value in bound.arguments.items() if name != "into"))

        for owner in _our_modules():
            for alias in [alias for alias, value in vars(owner).items() if value is original]:
                stack.enter_context(_replaced(owner, alias, with_all_arguments))

    return install


def _our_modules() -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "lean_mnist"]


def _install_activation(stack: contextlib.ExitStack, mutant: Mutant, plant: Plant) -> None:
    original = ACTIVATIONS[mutant.activation]
    backward = _wrap(original.backward, mutant.new_fault(), plant)

    def keep_z(z: Any) -> tuple[Any, Any]:
        h, saved = original.forward(z)
        return h, saved if _other_arithmetic(z) else z

    # z and h = ReLU(z) have the same mask, so the right backward is right on either; faults want to see z.
    forward = keep_z if mutant.activation in ("relu", "leaky-relu") else original.forward
    faulty = Activation(original.name, forward, backward)
    stack.callback(ACTIVATIONS.__setitem__, mutant.activation, original)
    ACTIVATIONS[mutant.activation] = faulty


def _install_loss(stack: contextlib.ExitStack, mutant: Mutant, plant: Plant) -> None:
    original = losses.softmax_cross_entropy
    fault = mutant.new_fault()

    @functools.wraps(original)
    def faulty(*arguments: Any, **options: Any) -> Any:
        rule = original(*arguments, **options)
        return rule._replace(backward=_wrap(rule.backward, fault, plant))

    for owner in _our_modules():
        if vars(owner).get("softmax_cross_entropy") is original:
            stack.enter_context(_replaced(owner, "softmax_cross_entropy", faulty))


def _install_node(stack: contextlib.ExitStack, mutant: Mutant, plant: Plant) -> None:
    for value in list(vars(functions).values()):
        if isinstance(value, type) and issubclass(value, Function) and value is not Function:
            faulty = staticmethod(_wrap(value.backward, mutant.new_fault(), plant))
            stack.enter_context(_replaced(value, "backward", faulty))


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = vars(owner)[name]  # not getattr, which would unwrap a staticmethod
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


_INSTALL: dict[str, Callable[[contextlib.ExitStack, Mutant, Plant], None]] = {
    "dense": _install_function(dense, "dense_backward"),
    "mean": _install_function(losses, "mean_backward"),
    "network": _install_function(mlp, "mlp_backward"),
    "activation": _install_activation,
    "loss": _install_loss,
    "node": _install_node,
}
