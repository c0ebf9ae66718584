"""The array primitives that the chain rule is written over, for each kind of array it runs on.

Operators (``+ - * / @``), ``.T``, ``.shape``, ``.sum(axis)`` and ``[:, None]`` mean the same on every kind of array and
are used as they are. What does not is here. A new kind of array (an interval, a ball) joins by giving its
class an attribute ``__primitives__`` that holds an object with these methods.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

from lean_mnist.errors import ArgumentError

Array = Any  # a torch tensor, a NumPy object array, or a class with ``__primitives__``


class Primitives(Protocol):
    """Operations that every kind of array has besides arithmetic; where one has a body, it suits most kinds."""

    exp: Callable[[Array], Array]
    log: Callable[[Array], Array]
    tanh: Callable[[Array], Array]
    erf: Callable[[Array], Array]

    def affine(self, x_BD: Array, weight_HD: Array, bias_H: Array | None) -> Array:
        """``x Wᵀ + b``."""
        z_BH = x_BD @ weight_HD.T
        return z_BH if bias_H is None else z_BH + bias_H

    def where_nonpositive(self, condition: Array, then: Array | int, otherwise: Array) -> Array:
        """``then`` where ``condition <= 0``, elsewhere ``otherwise``, also where the condition is NaN."""

    def sigmoid(self, x: Array) -> Array:
        """``1 / (1 + e^−x)``."""
        return 1 / (1 + self.exp(-x))

    def row_shift(self, x_BC: Array) -> Array:
        """A number a row, ``(B, 1)`` or one for all, by which its entries can be shifted: their maximum, or 0."""

    def spread(self, value: Array, like_B: Array) -> Array:
        """``value`` for every entry of ``like (B,)``."""

    def divide(self, value: Array, by: int) -> Array:
        """``value / by``."""
        return value / by

    def take_label(self, x_BC: Array, labels_B: Array) -> Array:
        """The entry of each row at its label, ``(B,)``."""

    def one_hot(self, labels_B: Array, like_BC: Array) -> Array:
        """1 at the label of each row and 0 elsewhere, ``(B, C)``."""

    def constant(self, value: float, like: Array) -> Any:
        """A number that is written in a formula, as decimals."""

    def pi(self, like: Array) -> Any:
        """π."""


def primitives(x: Array) -> Primitives:
    """The primitives for arrays of the kind of ``x``; ``ArgumentError`` if that kind is unknown."""
    if isinstance(x, torch.Tensor):
        return _TORCH
    if isinstance(x, np.ndarray) and x.dtype == object:
        return _OBJECTS
    own: Primitives | None = getattr(type(x), "__primitives__", None)
    if own is None:
        raise ArgumentError(
            f"the chain rule runs on torch tensors and on NumPy object arrays of fractions or expressions, "
            f"not on {type(x).__name__}{f' of {x.dtype}' if isinstance(x, np.ndarray) else ''}"
        )
    return own


def check_same_kind(x: Array, weight: Array, bias: Array | None, name: str = "") -> None:
    """Raise ``ArgumentError`` unless all arrays are of one kind, so that none is silently converted."""
    kind = primitives(x)
    for part, other in (("weight", weight), ("bias", bias)):
        if other is not None and primitives(other) is not kind:
            raise ArgumentError(f"{name}{part}: expected the kind of array that x is, found {type(other).__name__}")


def check_upstream(name: str, gradient: Array, shape: tuple[int, ...]) -> None:
    """Raise ``ArgumentError`` unless an upstream gradient has exactly ``shape``: it must not broadcast."""
    if tuple(gradient.shape) != tuple(shape):
        raise ArgumentError(f"{name}: expected shape {tuple(shape)}, found {tuple(gradient.shape)}")


class _TorchPrimitives(Primitives):
    """Tensors of any floating dtype, on any device; every method is differentiable where its formula is."""

    def affine(self, x_BD: torch.Tensor, weight_HD: torch.Tensor, bias_H: torch.Tensor | None) -> torch.Tensor:
        return x_BD @ weight_HD.T if bias_H is None else torch.addmm(bias_H, x_BD, weight_HD.T)

    # A NaN is not nonpositive, so it is handed on rather than hidden behind a zero.
    def where_nonpositive(self, condition: Array, then: Array | int, otherwise: Array) -> torch.Tensor:
        if isinstance(then, int) and then == 0:  # in one pass: where(condition <= 0, 0, otherwise)
            if otherwise is condition:
                return torch.clamp_min(condition, 0)
            return torch.ops.aten.threshold_backward(otherwise, condition, 0)
        return torch.where(condition <= 0, then, otherwise)

    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    tanh = staticmethod(torch.tanh)
    erf = staticmethod(torch.erf)

    def sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    # The shift cancels out of every formula it is used in, so no derivative is taken through it.
    def row_shift(self, x_BC: torch.Tensor) -> torch.Tensor:
        return x_BC.detach().amax(dim=1, keepdim=True)

    def spread(self, value: torch.Tensor, like_B: torch.Tensor) -> torch.Tensor:
        return value.expand(like_B.shape)

    def divide(self, value: Any, by: int) -> Any:
        # By a tensor: each division by a Python number makes one first, which takes longer than to divide.
        return value / torch.full((), by, dtype=value.dtype, device=value.device)

    def take_label(self, x_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        return x_BC.gather(1, labels_B.unsqueeze(1)).squeeze(1)

    def one_hot(self, labels_B: torch.Tensor, like_BC: torch.Tensor) -> torch.Tensor:
        classes = torch.eye(like_BC.shape[1], dtype=like_BC.dtype, device=like_BC.device)
        return classes.index_select(0, labels_B)

    def constant(self, value: float, like: torch.Tensor) -> float:
        return value

    def pi(self, like: torch.Tensor) -> float:
        return float(np.pi)


def _is_symbolic(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "sympy"


def _sympy_for(x: np.ndarray, what: str) -> Any:
    if x.size and not any(_is_symbolic(value) for value in x.flat):
        raise ArgumentError(f"{what} is not rational, so fractions cannot hold it: use ReLU and the squared error")
    import sympy

    return sympy


def _by_sympy(name: str, x: np.ndarray) -> np.ndarray:
    """SymPy's function of this name, of every entry."""
    values: np.ndarray = np.frompyfunc(getattr(_sympy_for(x, name), name), 1, 1)(x)
    return values


class _ObjectPrimitives(Primitives):
    """NumPy object arrays whose elements are ``Fraction`` (or ``int``), or SymPy expressions."""

    def where_nonpositive(self, condition: np.ndarray, then: Array | int, otherwise: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = np.frompyfunc(_choose_nonpositive, 3, 1)(condition, then, otherwise)
        return chosen

    exp, log, tanh, erf = (staticmethod(functools.partial(_by_sympy, name)) for name in ("exp", "log", "tanh", "erf"))

    # Exact and symbolic arithmetic cannot overflow, so there is nothing to shift away.
    def row_shift(self, x_BC: np.ndarray) -> int:
        return 0

    def spread(self, value: Any, like_B: np.ndarray) -> np.ndarray:
        return np.full(like_B.shape, value, dtype=object)

    def divide(self, value: Any, by: int) -> Any:
        return value * Fraction(1, by)

    def take_label(self, x_BC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
        _check_labels(labels_B, x_BC)
        return x_BC[np.arange(len(labels_B)), labels_B]

    def one_hot(self, labels_B: np.ndarray, like_BC: np.ndarray) -> np.ndarray:
        _check_labels(labels_B, like_BC)
        encoded = np.full(like_BC.shape, Fraction(0), dtype=object)
        encoded[np.arange(len(labels_B)), labels_B] = Fraction(1)
        return encoded

    # The decimal the caller wrote (0.01), not the binary number nearest to it, is what a formula means.
    def constant(self, value: float, like: np.ndarray) -> Any:
        exact = Fraction(repr(value))
        return _sympy_for(like, "a constant").Rational(exact) if like.size and _is_symbolic(like.flat[0]) else exact

    def pi(self, like: np.ndarray) -> Any:
        return _sympy_for(like, "pi").pi


def _check_labels(labels_B: np.ndarray, like_BC: np.ndarray) -> None:
    classes = like_BC.shape[1]
    for label in labels_B:  # NumPy would take -1 for the last class
        if not 0 <= label < classes:
            raise ArgumentError(f"labels: expected numbers from 0 to {classes - 1}, found {label}")


def _choose_nonpositive(condition: Any, then: Any, otherwise: Any) -> Any:
    if _is_symbolic(condition):
        import sympy

        return sympy.Piecewise((then, condition <= 0), (otherwise, True))
    return then if condition <= 0 else otherwise


_TORCH = _TorchPrimitives()
_OBJECTS = _ObjectPrimitives()
