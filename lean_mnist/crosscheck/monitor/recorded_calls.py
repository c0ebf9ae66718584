"""A call of a module: recorded with what is needed to make it again, and as a function of tensors in any precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lean_mnist.crosscheck.subjects.calls import Subject, norm

ModuleReference = Callable[..., Any]  # (module, *arguments of its forward) -> what its forward returns
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def floating(outputs: Any) -> list[Tensor]:
    """The floating tensors in the result of a module."""
    return [y for y in tensors_in(outputs) if y.is_floating_point()]


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in its nested tuples, lists and dictionaries replaced."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, _mapped(item, change)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, change) for item in value)
    return value


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


class StartedCall:
    """A call of a module that has not returned yet, and the state that a forward may change."""

    def __init__(self, path: str, module: nn.Module, arguments: tuple[Any, dict[str, Any]]) -> None:
        self.path, self.module, self.arguments = path, module, arguments
        given = list(tensors_in(arguments))
        self.before = {x.grad_fn for x in given if x.grad_fn is not None}
        self._versions = [(x, x._version) for x in given]
        self._devices = {x.device for x in (*given, *module.parameters(), *module.buffers())}
        self._random = {"cpu": torch.get_rng_state()}
        self._random.update({str(d): torch.cuda.get_rng_state(d) for d in self._devices if d.type == "cuda"})

    @property
    def changed(self) -> bool:
        """True if its arguments were changed in place."""
        return any(x._version != version for x, version in self._versions)

    def returned(self, step: int, outputs: Sequence[Tensor], nodes: Sequence[Any]) -> RecordedCall:
        """The call on copies, with the ``step`` that it belongs to and the custom nodes that it made."""
        kinds = {d.type for d in self._devices if torch.amp.is_autocast_available(d.type)}
        return RecordedCall(
            step=step,
            path=self.path,
            module=self.module,
            arguments=_mapped(self.arguments, _copied),
            parameters={name: _copied(p) for name, p in self.module.named_parameters()},
            buffers={name: b.detach().clone() for name, b in self.module.named_buffers()},
            outputs=[y.detach().clone() for y in outputs],
            random=self._random,
            autocast={kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds},
            nodes=[type(node).__name__ for node in nodes],
        )


@dataclass
class RecordedCall:
    """One call of a module that made custom nodes, and, once the backward came by, its gradients."""

    step: int
    path: str
    module: nn.Module
    arguments: tuple[Any, dict[str, Any]]  # detached copies, which know whether they need a gradient
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    outputs: list[Tensor]  # the floating ones, detached copies
    random: dict[str, Tensor]  # states of the generators before the call, by device
    autocast: dict[str, tuple[bool, torch.dtype]]
    nodes: list[str]  # names of the custom nodes
    upstream: dict[int, Tensor] = field(default_factory=dict)  # by output
    node_gradients: dict[int, tuple[Tensor | None, ...]] = field(default_factory=dict)  # by custom node
    backward: int | None = None  # the number of the backward that they are from

    @property
    def name(self) -> str:
        """The module's path and type."""
        return f"{self.path or 'the model'} ({type(self.module).__name__})"

    @property
    def autocast_dtypes(self) -> list[torch.dtype]:
        """The dtypes of the autocasts under which it ran."""
        return [dtype for enabled, dtype in self.autocast.values() if enabled]

    @property
    def coarsest(self) -> float:
        """The largest unit of rounding that autocast or TF32 brings in; 0 if neither does."""
        units = [torch.finfo(dtype).eps / 2 for dtype in self.autocast_dtypes]
        if self.outputs[0].device.type == "cuda" and _matmul_in_tf32():
            units.append(2.0**-11)
        return max(units, default=0.0)

    @property
    def checked_tensors(self) -> dict[str, Tensor]:
        """The inputs and parameters that need a gradient, by name."""
        inputs = {f"input {i}": x for i, x in enumerate(x for x in tensors_in(self.arguments) if x.requires_grad)}
        return {**inputs, **{name: p for name, p in self.parameters.items() if p.requires_grad}}

    def under_autocast(self, *, enabled: bool = True) -> AbstractContextManager[Any]:
        """Autocast as it was at the call, or none at all; whatever it is where the backward was called."""
        stack = ExitStack()
        for kind, (was_enabled, dtype) in self.autocast.items():
            stack.enter_context(torch.autocast(kind, dtype, enabled=enabled and was_enabled))
        return stack

    def gives_again(self, outputs: Sequence[Tensor], unit: float) -> bool:
        """True if ``outputs`` are those that were recorded, but for rounding in another order."""
        return len(outputs) == len(self.outputs) and all(
            a.shape == b.shape and not norm(a.double() - b.double()) > 1e3 * unit * (1 + norm(b))
            for a, b in zip(outputs, self.outputs, strict=True)
        )

    def as_function(self, module: nn.Module, *, prefix: str = "", in_float32: bool = False) -> Subject:
        """The call of ``module``, as a function of ``checked_tensors``, with its own random numbers and autocast.

        Given float64 it runs in float64, without autocast; so it does ``in_float32`` where that is asked for.
        ``prefix`` is where the recorded module stands in ``module``.
        """
        tensors = list(self.checked_tensors.values())
        own = torch.float32 if in_float32 else tensors[0].dtype
        inputs = sum(x.requires_grad for x in tensors_in(self.arguments))
        names = list(self.checked_tensors)[inputs:]

        def function(*given: Tensor) -> list[Tensor]:
            in64 = given[0].dtype == torch.float64 != own
            dtype = torch.float64 if in64 else torch.float32 if in_float32 else None

            def cast(x: Tensor) -> Tensor:
                x = x.detach().clone()
                return x.to(dtype) if dtype is not None and x.is_floating_point() else x

            moving = iter(given[:inputs])
            arguments, named = _mapped(self.arguments, lambda x: next(moving) if x.requires_grad else cast(x))
            state = {prefix + name: cast(x) for name, x in (*self.parameters.items(), *self.buffers.items())}
            state.update(zip([prefix + name for name in names], given[inputs:], strict=True))
            for device, numbers in self.random.items():
                if device == "cpu":
                    torch.set_rng_state(numbers)
                else:
                    torch.cuda.set_rng_state(numbers, torch.device(device))
            with self.under_autocast(enabled=dtype is None):
                return floating(functional_call(module, state, arguments, named))

        at = [x.detach().to(own) for x in tensors] if in_float32 else tensors
        return Subject(function, "module", at, tuple(range(len(tensors))))


class WithReference(nn.Module):
    """A module whose forward is that of a reference, which reads the weights of the module it is given."""

    def __init__(self, module: nn.Module, reference: ModuleReference) -> None:
        super().__init__()
        self.module, self.reference = module, reference

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The reference's result."""
        return self.reference(self.module, *arguments, **named)


def copy_of(module: nn.Module) -> nn.Module:
    """A copy without hooks (which may lead anywhere), sharing the parameters' memory; to be called functionally.

    Raises whatever ``copy.deepcopy`` does, as for a module that holds a tensor with a graph.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if name.endswith(_HOOKS) and isinstance(value, dict):
                memo[id(value)] = type(value)()
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, memo)


def _matmul_in_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # where it was set by the newer interface, which the older one refuses to read
        return bool(torch.backends.cuda.matmul.fp32_precision != "ieee")
