"""Networks out of files: what is announced is held against the tensors that are there, before anything is built."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from msgspec import UNSET, Meta, UnsetType, to_builtins
from torch import Tensor, nn

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.errors import ArgumentError, LeanMnistError, check_choice
from lean_mnist.nn.grid import check_bits
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.quantized import network_of
from lean_mnist.reading.schema import Fields, checked
from lean_mnist.reading.text import printable

Shapes = dict[str, tuple[int, ...]]
Sizes = Annotated[list[Annotated[int, Meta(ge=1, le=1 << 24)]], Meta(min_length=2, max_length=100)]
_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Architecture(Fields):
    """The fields of ``model.architecture``."""

    sizes: Sizes
    activation: str = "relu"
    bias: bool = True
    bits: int | UnsetType = UNSET
    rule: str | UnsetType = UNSET


def shapes_of(sizes: Sequence[int], *, bias: bool = True, prefix: str = "") -> Shapes:
    """The shapes of the parameters of an ``MLP`` by their names, in order."""
    shapes: Shapes = {}
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        shapes[f"{prefix}layers.{i}.weight"] = (after, before)
        if bias:
            shapes[f"{prefix}layers.{i}.bias"] = (after,)
    return shapes


def check_weights(
    weights: Any, shapes: Shapes, about: str, where: str, error: type[LeanMnistError], *, finite: bool = True
) -> None:
    """Raise ``error``, naming the tensor, unless ``weights`` are tensors of these shapes and of one floating dtype."""
    if not isinstance(weights, dict):
        raise error(f"{where}: model: expected names and tensors, found {type(weights).__name__}")
    dtype = next((value.dtype for value in weights.values() if isinstance(value, Tensor)), None)
    for name in [*shapes, *(name for name in weights if name not in shapes)]:
        expected: Any = shapes.get(name, "no such tensor")
        tensor = weights.get(name)
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "none"
        here = f"{where}: {printable(name, 60)}"
        if not isinstance(tensor, Tensor) or expected != found:
            raise error(f"{here}: expected {expected} for {about}, found {found}")
        if tensor.dtype not in _FLOATING or tensor.dtype != dtype:
            raise error(f"{here}: expected floating weights, all of one kind, found {tensor.dtype}")
        if finite and not (math.isfinite(tensor.sum().item()) or torch.isfinite(tensor).all()):
            raise error(f"{here}: expected finite weights, found infinities or NaN")


def saved_network(
    architecture: Any, weights: Any, where: str, error: type[LeanMnistError], *, finite: bool = True, **options: Any
) -> MLP:
    """The network that was saved as ``model.architecture`` and its weights; ``options`` are those of its class.

    Its parameters are the tensors in ``weights``. Raises ``error``, naming what does not fit.
    """
    fields = checked(architecture, Architecture, where, "architecture", error)
    try:
        check_choice("activation", fields.activation, ACTIVATIONS)
        if fields.bits is not UNSET:
            check_bits(fields.bits)
        elif fields.rule is not UNSET:
            raise ArgumentError("rule: expected none without bits")
    except ArgumentError as fault:
        raise error(f"{where}: architecture.{fault}") from None
    shapes = shapes_of(fields.sizes, bias=fields.bias)
    check_weights(weights, shapes, printable(architecture), where, error, finite=finite)
    try:
        with torch.device("meta"):  # no memory, and no initial weights
            model = network_of(to_builtins(fields), **options)
    except ArgumentError as fault:
        raise error(f"{where}: architecture: {fault}") from None
    model.load_state_dict(weights, assign=True)
    return model


def restore_weights(model: nn.Module, weights: Any, about: str, where: str, error: type[LeanMnistError]) -> None:
    """Load ``weights`` into ``model`` and take their dtype; raises ``error`` naming the tensor that does not fit."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_weights(weights, shapes, about, where, error)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
