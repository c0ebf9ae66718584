"""Questions that make sense: inputs that can be checked, functions that run, repeat themselves and fit each other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.numerics.reference_outputs import reference_outputs
from lean_mnist.crosscheck.subjects.arguments import is_dense, is_float
from lean_mnist.crosscheck.subjects.calls import CallFailed, Evaluated, NotChecked, Subject
from lean_mnist.crosscheck.subjects.numbers import nearly_same, same_bits
from lean_mnist.errors import ArgumentError


def require_callable(name: str, given: object) -> None:
    """Raise ``ArgumentError`` for what cannot be called, or is a Function in place of its ``apply``."""
    if isinstance(given, type) and issubclass(given, torch.autograd.Function):
        raise ArgumentError(
            f"{name}: expected a function, found the class {given.__name__}; give {given.__name__}.apply"
        )
    if not callable(given):
        raise ArgumentError(f"{name}: expected a function, found {type(given).__name__}")


def checked_inputs(inputs: Sequence[Any], names: Sequence[str]) -> tuple[int, ...]:
    """The indices of the inputs that are checked. Raises ``ArgumentError`` where one of them cannot be."""
    checked = tuple(i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad)
    if not checked:
        raise ArgumentError("inputs: expected at least one floating tensor with requires_grad, found none")
    for i in checked:
        x, name = inputs[i], names[i]
        if not is_dense(x):
            kind = "nested" if x.is_nested else x.layout
            raise ArgumentError(f"inputs: expected dense tensors where a gradient is checked, found {name}, {kind}")
        if not is_float(x):
            wanted = "inputs: expected at least 16 bits a number where a gradient is checked"
            raise ArgumentError(f"{wanted}, found {name} in {x.dtype}; give it converted, say by .to(torch.bfloat16)")
        if x.is_meta:
            raise ArgumentError(f"inputs: expected tensors that hold numbers, found {name}, which is on meta")
        if not bool(x.detach().isfinite().all()):
            raise ArgumentError(f"inputs: expected finite numbers where a gradient is checked, found others in {name}")
    return checked


def first_call(subject: Subject, seed: int) -> Evaluated:
    """Call it twice: it runs, depends on an input, and repeats itself; if only with a seed, it gets one."""
    try:
        first = subject.call()
    except CallFailed as failure:
        subject.clones = True  # it may write into its inputs, which autograd refuses for leaves
        try:
            first = subject.call()
        except CallFailed:
            raise ArgumentError(f"function: its {failure}") from failure.error
    if not any(y.requires_grad for y in first.outputs):
        raise ArgumentError("function: expected an output that depends on an input with requires_grad, found none")
    for seeded in (None, seed % 2**63):
        try:
            if seeded is not None:
                subject.seed = seeded
                first = subject.call()
            if _repeats(first, subject.call()):
                return first
        except CallFailed as failure:
            raise ArgumentError(f"function: called again, its {failure}") from failure.error
    raise ArgumentError(
        "function: two calls with the same inputs give different outputs, even after torch.manual_seed: it is "
        "stochastic, or its forward is nondeterministic; have it take its random numbers (or a torch.Generator with a "
        "fixed seed) as an input"
    )


def _repeats(first: Evaluated, again: Evaluated) -> bool:
    """True if outputs are the same, on a CPU bit for bit; elsewhere atomic additions come in any order."""
    return len(first.outputs) == len(again.outputs) and all(
        same_bits(a, b) or (a.device.type != "cpu" and nearly_same(b, a, torch.finfo(a.dtype).eps))
        for a, b in zip(first.outputs, again.outputs, strict=True)
    )


def require_same_shapes(first: Evaluated, reference: Subject) -> None:
    """Raise ``ArgumentError`` unless the reference gives outputs of the shapes and precision of ``first``."""
    try:
        outputs = reference.call().outputs
    except CallFailed:  # in this precision; float64 decides
        outputs = []
    if outputs and not any(y.requires_grad for y in outputs):
        raise ArgumentError(
            f"{reference.role}: expected an output that depends on an input with requires_grad, found none"
        )
    try:
        exact = reference_outputs(reference, [y.dtype for y in first.outputs], torch.Generator()).exact
    except Exception as error:
        if NotChecked.of(error):
            return  # the rules will say so
        raise
    if not exact:
        raise ArgumentError(f"{reference.role}: expected a floating output, found none")
    if [y.shape for y in first.outputs] != [y.shape for y in exact]:
        shapes = [[tuple(y.shape) for y in result] for result in (exact, first.outputs)]
        raise ArgumentError(
            f"function: expected outputs of the {reference.role}'s shapes {shapes[0]}, found {shapes[1]}"
        )
    for y, of_reference in zip(first.outputs, exact, strict=True):
        if torch.finfo(of_reference.dtype).eps > torch.finfo(y.dtype).eps:
            raise ArgumentError(
                f"{reference.role}: expected one that computes in the precision of its inputs, found outputs in "
                f"{of_reference.dtype} from inputs in float64"
            )
