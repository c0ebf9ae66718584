"""The form of a fault for the self-test of obligations, and the replacements that make one."""

import contextlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lean_mnist.chainrule import dense, losses
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.mutants.mutant import Part
from lean_mnist.mutants.planting import Replacements, planting_all

RIGHT = dict(ACTIVATIONS)


@dataclass(frozen=True)
class Fault:
    """A fault, what it replaces, and the obligations that must fail with it."""

    name: str
    replacements: Replacements
    fails: tuple[str, ...]

    def planted(self) -> contextlib.AbstractContextManager[None]:
        """Plant it for the length of a ``with``."""
        return planting_all(self.replacements)


def fault(name: str, replacements: Replacements, fails: str) -> Fault:
    """A row of the table: ``fails`` has spaces between the obligations."""
    return Fault(name, replacements, tuple(fails.split()))


def changed(target: str, change: Callable[..., Any]) -> Replacements:
    """A function of the package whose result is ``change(right result, *arguments)``."""
    original = pkgutil.resolve_name(f"lean_mnist.{target}")
    return {target: lambda *given, **named: change(original(*given, **named), *given)}


def changed_gradients(target: str, change: Callable[[Any], Any]) -> Replacements:
    """A backward that returns a tuple, of each gradient in which it makes ``change(gradient)``."""
    return changed(target, lambda found, *_: tuple(None if g is None else change(g) for g in found))


def dense_fault(part: Part, change: Callable[..., Any]) -> Replacements:
    """``change(right gradient, tape, dz)`` of one gradient of a dense layer, in whatever numbers."""
    return {"chainrule.dense.dense_backward": partial(part.fault_of(change), dense.dense_backward)}


def activation_fault(name: str, backward: Callable[[Any, Any], Any], forward: Any = None) -> Replacements:
    """An activation with this backward, and forward if given."""
    faulty = Activation(name, forward or RIGHT[name].forward, backward)
    return {f"chainrule.activations.ACTIVATIONS.{name}": faulty}


def loss_fault(backward: Callable[..., Any] | None = None, forward: Callable[..., Any] | None = None) -> Replacements:
    """Softmax cross-entropy with ``backward(right, tape, dloss)`` or ``forward(right, logits, labels)``."""

    def wrong(right: losses.Loss, *_: Any) -> losses.Loss:
        return losses.Loss(
            partial(forward, right) if forward else right.forward,
            partial(backward, right) if backward else right.backward,
        )

    return changed("chainrule.losses.softmax_cross_entropy", wrong)


def option_fault(option: str, factor: float, dtype: torch.dtype | None = None) -> Replacements:
    """Softmax cross-entropy whose backward, of tensors of ``dtype`` or of any array, scales an option by ``factor``."""
    original = losses.softmax_cross_entropy

    def wrong(label_smoothing: float = 0.0, logit_penalty: float = 0.0) -> losses.Loss:
        options = {"label_smoothing": label_smoothing, "logit_penalty": logit_penalty}
        right, other = original(**options), original(**{**options, option: factor * options[option]})

        def backward(tape: Any, d_loss: Any) -> Any:
            wanted = dtype is None or getattr(tape[0], "dtype", None) is dtype
            return (other if wanted else right).backward(tape, d_loss)

        return losses.Loss(right.forward, backward)

    return {"chainrule.losses.softmax_cross_entropy": wrong}


def weights_times(factor: float, where: Callable[[int, Any], bool]) -> Replacements:
    """A network's backward that scales the gradient of the ``n``-th weight where ``where(n, layers)``."""

    def wrong(found: Any, tape: Any, layers: Any, *_: Any) -> Any:
        pairs = enumerate(found.layers)
        scaled = ((w * factor if w is not None and where(n, layers) else w, b) for n, (w, b) in pairs)
        return found._replace(layers=tuple(scaled))

    return changed("chainrule.mlp.mlp_backward", wrong)


def only_in(dtype: torch.dtype, change: Callable[[Any], Any]) -> Callable[..., Any]:
    """``change`` of what comes first, if it is a tensor of ``dtype``."""
    return lambda g, *_: change(g) if isinstance(g, torch.Tensor) and g.dtype == dtype else g


def on_torch(name: str, method: Callable[..., Any]) -> Replacements:
    """Another primitive of tensors."""
    return {f"chainrule.arrays._TorchPrimitives.{name}": method}


def small_counts_as_negative(limit: float, dtype: torch.dtype | None = None) -> Replacements:
    """On tensors, of ``dtype`` or of any, a mask that takes what is at most ``limit`` for not positive."""
    original = type(primitives(torch.zeros(1))).where_nonpositive

    def wrong(self: Any, condition: Any, then: Any, otherwise: Any) -> Any:
        if dtype in (None, condition.dtype):
            return torch.where(condition <= limit, then, otherwise)
        return original(self, condition, then, otherwise)

    return on_torch("where_nonpositive", wrong)
