"""Planting a bug: in this package, for the length of a ``with``, or in a copy of anybody's Function."""

import contextlib
import functools
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.errors import ArgumentError
from lean_mnist.mutants.corpus import mutant_named
from lean_mnist.mutants.mutant import Fault, Mutant
from lean_mnist.nn import functions

Replacements = dict[str, Any]  # by target, as of `planting`


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
def planting(target: str, replacement: Any) -> Iterator[None]:
    """Replace what ``target`` names inside this package; whatever happens inside, it is as before afterwards.

    ``target`` is a dotted path within ``lean_mnist``: a function, ``"chainrule.dense.dense_backward"``, wherever a
    module of the package has a name for it; an attribute of a class, ``"nn.functions.MLPFunction.backward"``; an entry
    of a dictionary, ``"chainrule.activations.ACTIVATIONS.relu"``.
    """
    path, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(f"lean_mnist.{path}")
    places: list[tuple[Any, str]] = [(owner, name)]
    if inspect.ismodule(owner):
        original = getattr(owner, name)
        ours = [module for key, module in list(sys.modules.items()) if key.partition(".")[0] == "lean_mnist"]
        places = [(module, alias) for module in ours for alias, value in vars(module).items() if value is original]
    with contextlib.ExitStack() as stack:
        for place, alias in places:
            stack.enter_context(_replaced(place, alias, replacement))
        yield


@contextlib.contextmanager
def planting_all(replacements: Replacements) -> Iterator[None]:
    """Plant several at once; see :func:`planting`."""
    with contextlib.ExitStack() as stack:
        for target, replacement in replacements.items():
            stack.enter_context(planting(target, replacement))
        yield


def _replaced(owner: Any, name: str, value: Any) -> contextlib.AbstractContextManager[Any]:
    if isinstance(owner, dict):
        assert name in owner, name
        return mock.patch.dict(owner, {name: value})
    static = isinstance(vars(owner)[name], staticmethod)  # getattr would unwrap it
    return mock.patch.object(owner, name, staticmethod(value) if static else value)


@contextlib.contextmanager
def planted(mutant: Mutant | str) -> Iterator[Plant]:
    """Plant a mutant, or the one of that name, in the chain rule or in our own Functions.

    Whatever happens inside, it is gone afterwards. Raises ``ArgumentError`` if the corpus has no such name.
    """
    chosen = mutant_named(mutant) if isinstance(mutant, str) else mutant
    plant = Plant()
    with planting_all(SITES[chosen.site](chosen, plant)):
        yield plant


def plant_in(function: type[Function], mutant: Mutant) -> type[Function]:
    """A subclass of ``function`` whose backward (or ``vjp``) has the fault; ``function`` itself stays as it is.

    Raises ``ArgumentError`` if the mutant needs to know the mathematics.
    """
    if not mutant.generic:
        raise ArgumentError(
            f"mutant: {mutant.name} is a fault of the chain rule; only those of site 'node' fit anywhere"
        )
    name = "vjp" if function.vjp is not Function.vjp else "backward"
    faulty = staticmethod(_wrap(getattr(function, name), mutant.new_fault(), Plant()))
    return type(f"{function.__name__}With{mutant.name.title().replace('-', '')}", (function,), {name: faulty})


def _wrap(original: Callable[..., Any], fault: Fault, plant: Plant) -> Callable[..., Any]:
    @functools.wraps(original)
    def faulty(*arguments: Any) -> Any:
        if plant.active and not _other_arithmetic(arguments[0]):
            return fault(original, *arguments)
        return original(*arguments)

    return faulty


def _other_arithmetic(argument: Any) -> bool:
    """True if the chain rule is run on balls, fractions or expressions: a mutant stands for code that runs on tensors.

    The self-test gives the enclosure no credit for that, since a fault in the formula would be in it too.
    """
    while isinstance(argument, tuple) and argument:
        argument = argument[0]
    return not isinstance(argument, (Tensor, FunctionCtx))


def _of_function(module: Any, name: str) -> Callable[[Mutant, Plant], Replacements]:
    """A function of the chain rule, which a fault is given all arguments of, those left out included."""

    def replacements(mutant: Mutant, plant: Plant) -> Replacements:
        original = getattr(module, name)
        signature = inspect.signature(original)
        faulty = _wrap(original, mutant.new_fault(), plant)

        @functools.wraps(original)
        def with_all_arguments(*given: Any, **named: Any) -> Any:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            return faulty(*bound.arguments.values())

        return {f"{module.__name__.partition('.')[2]}.{name}": with_all_arguments}

    return replacements


def _of_activation(mutant: Mutant, plant: Plant) -> Replacements:
    original = ACTIVATIONS[mutant.activation]

    def keep_z(z: Any) -> tuple[Any, Any]:
        h, saved = original.forward(z)
        return h, saved if _other_arithmetic(z) else z

    # z and h = ReLU(z) have the same mask, so the right backward is right on either; faults want to see z.
    forward = keep_z if mutant.activation in ("relu", "leaky-relu") else original.forward
    backward = _wrap(original.backward, mutant.new_fault(), plant)
    return {f"chainrule.activations.ACTIVATIONS.{mutant.activation}": Activation(original.name, forward, backward)}


def _of_loss(mutant: Mutant, plant: Plant) -> Replacements:
    original, fault = losses.softmax_cross_entropy, mutant.new_fault()

    @functools.wraps(original)
    def faulty(*arguments: Any, **options: Any) -> Any:
        rule = original(*arguments, **options)
        return rule._replace(backward=_wrap(rule.backward, fault, plant))

    return {"chainrule.losses.softmax_cross_entropy": faulty}


def _of_nodes(mutant: Mutant, plant: Plant) -> Replacements:
    return {
        f"nn.functions.{name}.backward": _wrap(value.backward, mutant.new_fault(), plant)
        for name, value in vars(functions).items()
        if isinstance(value, type) and issubclass(value, Function) and value is not Function
    }


SITES: dict[str, Callable[[Mutant, Plant], Replacements]] = {
    "dense": _of_function(dense, "dense_backward"),  # (tape, d_z, needs) -> DenseGradients
    "activation": _of_activation,  # an activation's backward(saved, d_h) -> d_z; ReLU's is given z in place of h
    "loss": _of_loss,  # the loss rule's backward(tape, d_loss_B) -> d_s_BC
    "mean": _of_function(losses, "mean_backward"),  # (loss_B, d_mean) -> d_loss_B
    "network": _of_function(mlp, "mlp_backward"),  # (tape, layers, activation, d_logits, needs) -> MLPGradients
    "node": _of_nodes,  # the backward(ctx, *upstream) -> gradients of an autograd.Function: ours, or anybody's
}
"""Backwards that a fault can be planted in, and what is replaced to plant it."""
