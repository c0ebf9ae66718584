"""``check_module``: a module with its parameters as the subject of ``check_function``."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lean_mnist.crosscheck.function_check import check_function
from lean_mnist.crosscheck.report import FunctionReport
from lean_mnist.crosscheck.subjects.arguments import Arguments, Inputs
from lean_mnist.crosscheck.subjects.modules import ModuleFunction, TensorPlaces
from lean_mnist.errors import ArgumentError

Reference = nn.Module | Callable[..., Any]


def check_module(
    module: nn.Module, inputs: Inputs, reference: Reference | None = None, **options: Any
) -> FunctionReport:
    """Check the gradients of ``module``, in the inputs and parameters that require one, as ``check_function`` does.

    It runs as it is, with its hooks, in its mode, and with its buffers as they are at every call; parameters and
    buffers are put back in the end. The report calls parameters by their names.

    Args:
        module: any module; in training mode its random numbers are seeded before every call.
        inputs: arguments of its forward, a list or a mapping of keywords.
        reference: a module in plain PyTorch whose parameters have the same names, or a function of the module, whose
            parameters it reads, and of the inputs. Without it the backward is held against the forward.
        options: of ``check_function``. ``names`` are those of the inputs, whose indices come before the parameters'.

    Raises ``ArgumentError`` as ``check_function`` does.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"module: expected a torch.nn.Module, found {type(module).__name__}")
    lazy = [name for name, p in module.named_parameters() if is_lazy(p)]
    if lazy:
        raise ArgumentError(f"module: expected initialised parameters, found {lazy[0]}, lazy; call the module once")
    names = Arguments.of(inputs, options.pop("names", None)).top
    keywords, given = (list(inputs), list(inputs.values())) if isinstance(inputs, Mapping) else (None, list(inputs))
    places = TensorPlaces(module)
    own = list(places.tensors)
    other: ModuleFunction | None = None
    if isinstance(reference, nn.Module):
        theirs = TensorPlaces(reference)
        if list(theirs.tensors) != own:
            raise ArgumentError(
                f"reference: expected parameters and buffers {', '.join(own)}, found {', '.join(theirs.tensors)}"
            )
        other = ModuleFunction(reference, theirs, own, keywords)
    elif reference is not None:
        # While it runs, the module holds the tensors to compute with.
        other = ModuleFunction(functools.partial(reference, module), places, own, keywords)
    try:
        values, options["names"] = [*given, *places.tensors.values()], [*names, *own]
        return check_function(ModuleFunction(module, places, own, keywords), other, values, **options)
    finally:
        places.set(places.tensors)
        if isinstance(reference, nn.Module):
            theirs.set(theirs.tensors)
