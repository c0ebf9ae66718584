"""Calls of the function under test, on copied inputs and with a fixed seed, its exceptions separated from ours."""

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from lean_mnist.crosscheck.subjects.arguments import Arguments, floating_outputs, is_float
from lean_mnist.crosscheck.subjects.modules import ModuleFunction
from lean_mnist.crosscheck.subjects.numbers import normal, root_mean_square

Upstream = Sequence["Tensor | None"]
# Where gradients are read: None for what torch.autograd.grad returns, "backward" for .grad after .backward(),
# "main_grad" for an attribute of that name that a backward adds to, or a function from a tensor to its gradient.
SOURCES = ("backward", "main_grad")
GradientSource = str | Callable[[Tensor], "Tensor | None"] | None


class CallFailed(Exception):
    """The function under test raised ``error``, in its forward or its backward."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(f"{stage} raised {type(error).__name__}: {one_line(error)}")
        self.error = error


class NotChecked(Exception):
    """A check ended for a reason that says nothing about the gradient: memory ran out, or time was up."""

    @classmethod
    def of(cls, error: BaseException) -> "NotChecked | None":
        """``error`` as such a reason; ``None`` if it is none. For the CPU's allocator PyTorch has no class."""
        if isinstance(error, NotChecked):
            return error
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        ):
            return cls(f"out of memory ({one_line(error, 120) or type(error).__name__})")
        return None


def one_line(error: object, limit: int = 300) -> str:
    """The text of ``error`` in one line of at most ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclass
class Evaluated:
    """One forward: the arguments given, the floating outputs with their graph, and the tensors to differentiate in."""

    inputs: list[Any]
    outputs: list[Tensor]
    leaves: list[Any]
    source: GradientSource = None
    before: Callable[[], Any] = lambda: None  # called before each backward

    def vjp(
        self, checked: Sequence[int], upstream: Upstream, *, retain_graph: bool = False, create_graph: bool = False
    ) -> list[Tensor | None]:
        """``upstreamᵀ ∂outputs/∂input`` for each of ``checked``; ``None`` where the backward gave none.

        Outputs whose upstream gradient is ``None`` take no part. ``upstream`` is handed on as it is, not copied.
        """
        used = [(y, v) for y, v in zip(self.outputs, upstream, strict=True) if y.requires_grad and v is not None]
        if not used:
            return [None] * len(checked)
        roots, weights = [y for y, _ in used], [v.to(y.dtype) for y, v in used]
        leaves = [self.leaves[i] for i in checked]
        retain_graph = retain_graph or create_graph
        self.before()
        try:
            if self.source is not None:
                return self._by_backward(leaves, roots, weights, retain_graph, create_graph)
            return list(
                torch.autograd.grad(
                    roots, leaves, weights, allow_unused=True, retain_graph=retain_graph, create_graph=create_graph
                )
            )
        except Exception as error:
            raise NotChecked.of(error) or CallFailed("backward", error) from error

    def _by_backward(
        self, leaves: Sequence[Any], roots: list[Tensor], weights: list[Tensor], retain: bool, create: bool
    ) -> list[Tensor | None]:
        for x in leaves:
            x.grad = None
            if self.source == "main_grad":  # in which the programs that have one add up in float32
                x.main_grad = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a graph of gradients in .grad is a cycle; it is cut below
            torch.autograd.backward(roots, weights, retain, create)
        found = [self._read(x) for x in leaves]
        for x in leaves:
            x.grad = None
        return found

    def _read(self, x: Any) -> Tensor | None:
        if callable(self.source):
            found = self.source(x)
            return None if found is None else found.to(x.dtype)
        if self.source == "main_grad" and bool(x.main_grad.any()):
            return cast(Tensor, x.main_grad.to(x.dtype))
        return cast("Tensor | None", x.grad)

    def gradients(
        self, checked: Sequence[int], upstream: Upstream, *, copy: bool = True, retain_graph: bool = False
    ) -> list[Tensor]:
        """``vjp``, detached, zeros where the backward gave none; of copies of ``upstream`` unless told not to copy."""
        given = [None if v is None else v.detach().clone() for v in upstream] if copy else upstream
        return [g.detach() for g in self.filled(checked, self.vjp(checked, given, retain_graph=retain_graph))]

    def filled(self, checked: Sequence[int], found: Sequence[Tensor | None]) -> list[Tensor]:
        """Gradients from ``vjp``, with zeros where the backward gave none."""
        return [torch.zeros_like(self.leaves[i]) if g is None else g for i, g in zip(checked, found, strict=True)]


@dataclass
class Subject:
    """A function at its inputs; those at ``checked`` are the floating tensors that need a gradient."""

    function: Callable[..., Any]
    role: str
    inputs: list[Any]
    checked: tuple[int, ...]
    seed: int | None = None  # set where the function draws random numbers: every forward is seeded with it
    clones: bool = False  # give it clones of leaves, because it writes into its inputs (and says so: mark_dirty)
    arguments: Arguments | None = None  # the structure that its inputs are the leaves of; None where it takes them flat
    source: GradientSource = None
    deadline: float = math.inf  # of time.monotonic(), after which calls raise NotChecked

    def at(self, inputs: Sequence[Any]) -> "Subject":
        """The same function at other inputs."""
        return replace(self, inputs=list(inputs))

    @property
    def given(self) -> Sequence[int]:
        """The indices of the inputs that the caller makes, in whatever layout; a module makes its own tensors."""
        return range(len(self.inputs) - (self.function.own if isinstance(self.function, ModuleFunction) else 0))

    def reseed(self) -> None:
        """Put the random generators where they were before the forward, if it draws random numbers."""
        if self.seed is not None:
            seed_everything(self.seed)

    def __call__(self, *arguments: Any) -> Any:
        """The function's result, whatever it is, on the very tensors given (clones, where it needs them)."""
        self.reseed()
        given = [x.clone() if self.clones and isinstance(x, Tensor) else x for x in arguments]
        return self._called(self.function, given)

    def _called(self, function: Callable[..., Any], flat: Sequence[Any]) -> Any:
        if time.monotonic() > self.deadline:
            raise NotChecked("not checked: time limit")
        return function(*flat) if self.arguments is None else self.arguments.call(function, flat)

    def call(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        dtype: torch.dtype | None = None,
        needing: Iterable[int] | None = None,
        copy: bool = True,
    ) -> Evaluated:
        """A forward on copies of ``inputs`` (its own if ``None``), floating ones in ``dtype``.

        ``needing``: the indices of the inputs that require a gradient, by default all of ``checked``. ``copy=False``
        hands over the very tensors given, for what depends on their layout. Raises ``CallFailed``.
        """
        needing = self.checked if needing is None else tuple(needing)
        given = self.inputs if inputs is None else inputs
        leaves = [as_leaf(x, dtype, i in needing, copy) for i, x in enumerate(given)]
        with torch.enable_grad():
            arguments = [x.clone() if self.clones and i in needing else x for i, x in enumerate(leaves)]
            self.reseed()
            outputs = self._outputs(lambda: self._called(self.function, arguments))
            evaluated = Evaluated(arguments, outputs, leaves, self.source)
        if isinstance(self.function, ModuleFunction):  # a backward that computes something again reads parameters
            evaluated.before = functools.partial(self._called, self.function.put, arguments)
        if self.seed is not None:  # between forward and backward a program draws others
            seed_everything(self.seed + 1)
        return evaluated

    def values(self, inputs: Sequence[Any]) -> list[Tensor]:
        """Its floating outputs alone, without a graph, on the very tensors given. Raises ``CallFailed``."""
        # They say that they need a gradient, as in training, where a function looks at that.
        given = [x.detach().requires_grad_() if i in self.checked else x for i, x in enumerate(inputs)]
        with torch.no_grad():
            return self._outputs(lambda: self(*given))

    def _outputs(self, run: Callable[[], Any]) -> list[Tensor]:
        try:
            result = run()
        except Exception as error:
            raise NotChecked.of(error) or CallFailed("forward", error) from error
        return floating_outputs(result, self.role)

    def refused_by_grad(self, ask: Callable[[], object]) -> str:
        """The reason why ``torch.autograd.grad`` does not run through it where ``.backward()`` does, as it does then.

        ``ask`` calls it and its backward.
        Empty where it does, or where gradients are read from another ``source`` already. Raises ``CallFailed``.
        """
        if self.source is not None:
            return ""
        try:
            ask()
        except CallFailed as failure:
            self.source = "backward"
            try:
                ask()
            except CallFailed:
                raise failure from None
            return one_line(failure, 120)
        return ""

    def vjp(
        self,
        upstream: Upstream,
        inputs: Sequence[Any] | None = None,
        *,
        dtype: torch.dtype | None = None,
        needing: Iterable[int] | None = None,
    ) -> list[Tensor]:
        """Gradients by a fresh forward and backward, for all of ``checked``; zeros where there is none."""
        evaluated = self.call(inputs, dtype=dtype, needing=needing)
        return evaluated.gradients([i for i in self.checked if needing is None or i in set(needing)], upstream)

    def moved(self, generator: torch.Generator, by: float, dtype: torch.dtype | None = None) -> list[Any]:
        """Its inputs, with the checked ones (in ``dtype``) moved at random by about ``by`` of their size."""
        inputs = list(self.inputs)
        for i in self.checked:
            x = inputs[i].detach()
            step = x.abs() + (x == 0) * root_mean_square(x)
            inputs[i] = (x.double() + by * step.double() * normal(x.shape, generator, x.device)).to(dtype or x.dtype)
        return inputs


def as_leaf(x: Any, dtype: torch.dtype | None, needs_gradient: bool, copy: bool = True) -> Any:
    """A tensor, detached, in ``dtype`` if it is floating or complex; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    if dtype is None or not (is_float(x) or x.is_complex()):
        dtype = x.dtype
    dtype = dtype.to_complex() if x.is_complex() else dtype
    return x.detach().to(dtype, copy=copy).requires_grad_(needs_gradient)


def seed_everything(seed: int) -> None:
    """Seed PyTorch's global generators in use; ``torch.manual_seed`` also notes it for every device not in use yet."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def generators_put_back() -> AbstractContextManager[None]:
    """A block that leaves the generators that ``seed_everything`` seeds where they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])
