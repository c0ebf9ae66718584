"""What a planted bug is, and the small tools that the corpus is written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lean_mnist.chainrule.dense import DenseGradients, DenseTape

Fault = Callable[..., Any]
"""``fault(original, *arguments)``: what a faulty backward returns, given the right one and what it was called with."""

SITES = {
    "dense": "chainrule.dense.dense_backward(tape, d_z, needs) -> DenseGradients",
    "activation": "an activation's backward(saved, d_h) -> d_z; ReLU's is given z in place of h",
    "loss": "the loss rule's backward(tape, d_loss_B) -> d_s_BC",
    "mean": "chainrule.losses.mean_backward(loss_B, d_mean) -> d_loss_B",
    "network": "chainrule.mlp.mlp_backward(tape, layers, activation, d_logits, needs) -> MLPGradients",
    "node": "the backward(ctx, *upstream) -> gradients of an autograd.Function: ours, or anybody's",
}
"""Where a fault can be planted; each names the backward that it replaces."""


@dataclass(frozen=True)
class Mutant:
    """A faulty backward: what is wrong, when it shows, and how it is planted.

    ``new_fault`` makes a fresh fault, since some remember earlier calls. ``condition`` names an entry of
    ``conditions.CONDITIONS``. ``source`` is ``owner/repo#number`` where the fault replays one that was shipped.
    ``equivalent_when`` says for which configurations the faulty backward is right after all; empty if for none.
    ``kinds`` are those (``crosscheck.diagnosis.Kind``) that a diagnosis may honestly give the fault: one, or two where
    both say what the code does.
    """

    name: str
    description: str
    group: str
    condition: str
    site: str
    new_fault: Callable[[], Fault]
    activation: str = "relu"  # whose backward a fault at "activation" replaces
    source: str = ""
    equivalent_when: str = ""
    kinds: tuple[str, ...] = ()
    written_after_freeze: bool = False
    ours_only: bool = False  # a fault against what this package's Functions promise, and others need not

    @property
    def generic(self) -> bool:
        """Whether it can be planted in any ``autograd.Function``, not only in the chain rule."""
        return self.site == "node"


def corpus(group: str, site: str) -> Callable[..., Mutant]:
    """``mutant(name, description, fault, condition="always", ...)`` for mutants of one group and site.

    ``fault`` is a function, or a class with ``__call__`` where the fault remembers earlier calls: each planting then
    begins with a new instance.
    """

    def mutant(name: str, description: str, fault: Fault | type, condition: str = "always", **more: Any) -> Mutant:
        new_fault = fault if isinstance(fault, type) else lambda: fault
        return Mutant(name, description, group, condition, more.pop("site", site), new_fault, **more)

    return mutant


def after(change: Callable[..., Any]) -> Fault:
    """The fault that returns ``change(result, *arguments)`` of the right backward's result."""

    def fault(original: Any, *arguments: Any) -> Any:
        return change(original(*arguments), *arguments)

    return fault


def on_weight(change: Callable[[Tensor, DenseTape, Tensor], Tensor]) -> Fault:
    """At "dense": ``change(dW, tape, dz)`` in place of the weight's gradient."""
    return _on_field("weight_HD", change)


def on_bias(change: Callable[[Tensor, DenseTape, Tensor], Tensor]) -> Fault:
    """At "dense": ``change(db, tape, dz)`` in place of the bias's gradient."""
    return _on_field("bias_H", change)


def on_input(change: Callable[[Tensor, DenseTape, Tensor], Tensor]) -> Fault:
    """At "dense": ``change(dx, tape, dz)`` in place of the gradient that is handed to the layer below."""
    return _on_field("x_BD", change)


def _on_field(field: str, change: Callable[[Tensor, DenseTape, Tensor], Tensor]) -> Fault:
    def fault(original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients: DenseGradients = original(tape, d_z, needs)
        right = getattr(gradients, field)
        return gradients if right is None else gradients._replace(**{field: change(right, tape, d_z)})

    return fault


def each_gradient(change: Callable[[Tensor], Tensor]) -> Fault:
    """At "node": ``change`` of every gradient that is returned."""

    def fault(backward: Any, ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        return map_gradients(change, backward(ctx, *upstream))

    return fault


def upstream_first(change: Callable[[Tensor], Tensor]) -> Fault:
    """At "node": the right backward, run on ``change`` of each upstream gradient."""

    def fault(backward: Any, ctx: Any, *upstream: Any) -> Any:
        return backward(ctx, *(change(g) if isinstance(g, Tensor) else g for g in upstream))

    return fault


def map_gradients(change: Callable[[Tensor], Tensor], gradients: Any) -> tuple[Any, ...]:
    """``change`` of each tensor of what a backward returned, which may be one tensor or a tuple with ``None`` in it."""
    found = gradients if isinstance(gradients, tuple) else (gradients,)
    return tuple(change(g) if isinstance(g, Tensor) else g for g in found)


def with_entry(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of ``tensor`` with ``value`` at ``index``."""
    copy = tensor.clone()
    copy[index] = value
    return copy
