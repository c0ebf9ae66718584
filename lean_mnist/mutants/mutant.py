"""The form of a planted bug: a name, its true class, the part of a backward that it changes, and when it shows."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule.dense import DenseGradients, DenseTape
from lean_mnist.crosscheck.diagnosis import Kind

Fault = Callable[..., Any]
"""``fault(original, *arguments)``: what a faulty backward returns, given the right one and what it was called with."""
Change = TypeVar("Change", bound=Callable[..., Any])


@dataclass(frozen=True)
class PlantedBug:
    """A fault of a backward: what is wrong, and when it shows."""

    name: str
    description: str
    kinds: tuple[Kind, ...]  # that a diagnosis may honestly give it: one, or two where both say what the code does
    group: str
    condition: str  # the situation in which the gradient is wrong
    source: str = field(default="", kw_only=True)  # ``owner/repo#number`` where it replays one that was shipped

    @property
    def held_out(self) -> bool:
        """Written after all others had been measured, to show that the checks were not fitted to the corpus."""
        return self.group == "held-out"


@dataclass(frozen=True)
class Mutant(PlantedBug):
    """A faulty backward in the chain rule or in a Function, and how it is planted; shows in one of ``CONDITIONS``."""

    site: str  # an entry of ``planting.SITES``, the backward that is replaced
    new_fault: Callable[[], Fault]  # a fresh one, since some remember earlier calls
    activation: str = "relu"  # whose backward a fault at ``"activation"`` replaces
    equivalent_when: str = ""  # the configurations for which it is right after all
    ours_only: bool = False  # it breaks what this package's Functions promise, and others need not

    @property
    def generic(self) -> bool:
        """True if it can be planted in any ``autograd.Function``, not only in the chain rule."""
        return self.site == "node"


class Memory:
    """Values that a fault keeps from one call to the next; each planting begins with a new one."""

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}
        self.random = torch.Generator().manual_seed(0)
        self.count = itertools.count(1).__next__  # the number of this call

    def swap(self, key: Any, value: Any) -> Any:
        """The value kept under ``key`` by the last call, or ``value`` the first time; keeps ``value`` for the next."""
        kept = self.kept.get(key, value)
        self.kept[key] = value
        return kept


class Part(NamedTuple):
    """A part of a backward at a site; ``fault_of`` turns a change of the part into a fault."""

    site: str
    fault_of: Callable[[Callable[..., Any]], Fault] = lambda change: change


def _dense_field(field: str) -> Part:
    def fault_of(change: Callable[..., Tensor]) -> Fault:
        def fault(original: Any, tape: DenseTape, d_z: Tensor, *needs: tuple[bool, bool, bool]) -> DenseGradients:
            gradients: DenseGradients = original(tape, d_z, *needs)
            right = getattr(gradients, field)
            return gradients if right is None else gradients._replace(**{field: change(right, tape, d_z)})

        return fault

    return Part("dense", fault_of)


def _rounded_factors(rounded: Callable[[Tensor], Tensor]) -> Fault:
    def fault(original: Any, tape: DenseTape, d_z: Tensor, needs: tuple[bool, bool, bool]) -> DenseGradients:
        gradients = original(DenseTape(*map(rounded, tape)), rounded(d_z), needs)
        return DenseGradients(*(None if g is None else g.to(d_z.dtype) for g in gradients))

    return fault


def _loss_formula(formula: Callable[..., Tensor]) -> Fault:
    def fault(original: Any, tape: tuple[Tensor, ...], d_loss_B: Tensor) -> Tensor:
        p_BC, labels_B, s_BC = tape
        d_s_BC = formula(p_BC, F.one_hot(labels_B, p_BC.shape[1]).to(p_BC.dtype), s_BC)
        return d_s_BC * d_loss_B[:, None]

    return fault


def _of_result(change: Callable[..., Any]) -> Fault:
    return lambda original, *arguments: change(original(*arguments), *arguments)


# What a change is given, and what it returns. The backwards themselves are said in planting.SITES.
WEIGHT, BIAS, INPUT = (_dense_field(field) for field in ("weight_HD", "bias_H", "x_BD"))  # (gradient, tape, dz)
FACTORS = Part("dense", _rounded_factors)  # (factor) -> factor, for each factor of the three products of a layer
DENSE = Part("dense")  # (original, tape, dz, needs) -> DenseGradients
ACTIVATION = Part("activation")  # (original, saved, dh) -> dz
SLOPE = Part("activation", _of_result)  # (right dz, saved, dh) -> dz
LOSS = Part("loss")  # (original, (p, labels, s), dloss) -> ds
LOSS_GRADIENT = Part("loss", _of_result)  # (right ds, (p, labels, s), dloss) -> ds
LOSS_FORMULA = Part("loss", _loss_formula)  # (p, y, s), y the one-hot labels -> ds for an upstream gradient of 1
MEAN = Part("mean", _of_result)  # (right dloss, loss, dmean) -> dloss
NETWORK = Part("network")  # (original, tape, layers, …) -> MLPGradients
NETWORK_GRADIENTS = Part("network", _of_result)  # (right MLPGradients, tape, layers, …) -> MLPGradients
# (g) -> g, for each gradient that a node returns, and for each upstream gradient that it is given
GRADIENT = Part("node", lambda change: lambda backward, ctx, *g: map_gradients(change, backward(ctx, *g)))
UPSTREAM = Part("node", lambda change: lambda backward, ctx, *g: backward(ctx, *map_gradients(change, g)))
NODE = Part("node")  # (backward, ctx, *upstream) -> gradients


class Group:
    """Mutants of one group, in the order in which they are added."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mutants: list[Mutant] = []

    def __call__(
        self,
        part: Part,
        name: str,
        kinds: Kind | tuple[Kind, ...],
        description: str = "",
        shows: str = "always",
        *,
        unless: str = "",
        remembers: bool = False,
        activation: str = "relu",
        **more: Any,
    ) -> Callable[[Change], Change]:
        """Decorator of the change that makes the mutant.

        Args: ``description``, by default the first line of the change's docstring; ``shows`` and ``unless``, the
        mutant's ``condition`` and ``equivalent_when``; ``remembers``, to give the change a :class:`Memory` first;
        ``more``, other attributes of :class:`Mutant`.
        """

        def add(change: Change) -> Change:
            def new_fault() -> Fault:
                return part.fault_of(partial(change, Memory()) if remembers else change)

            shown = shows if activation == "relu" else f"activation {activation}"
            more.update(activation=activation, equivalent_when=unless)
            said = description or description_of(change)
            self.mutants.append(Mutant(name, said, as_tuple(kinds), self.name, shown, part.site, new_fault, **more))
            return change

        return add


def description_of(fault: Callable[..., Any]) -> str:
    """The first line of the docstring, as a part of a sentence."""
    said = (fault.__doc__ or "").partition("\n")[0].rstrip(".")
    return said[:1].lower() + said[1:]


def as_tuple(kinds: Kind | tuple[Kind, ...]) -> tuple[Kind, ...]:
    """One class, or several, as a tuple."""
    return kinds if isinstance(kinds, tuple) else (kinds,)


def map_gradients(change: Callable[[Tensor], Tensor], gradients: Any) -> tuple[Any, ...]:
    """``change`` of each tensor of what a backward returned, which may be one tensor or a tuple with ``None`` in it."""
    found = gradients if isinstance(gradients, tuple) else (gradients,)
    return tuple(change(g) if isinstance(g, Tensor) else g for g in found)


def key_of(*tensors: Any) -> tuple[Any, ...]:
    """Shapes and dtypes, under which a fault that remembers keeps its values."""
    return tuple((t.shape, t.dtype) if isinstance(t, Tensor) else None for t in tensors)


def with_entry(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of ``tensor`` with ``value`` at ``index``."""
    copy = tensor.clone()
    copy[index] = value
    return copy
