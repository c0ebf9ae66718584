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

from lean_mnist.crosscheck.calls import Subject, norm

ModuleReference = Callable[..., Any]  # (module, *arguments of its forward) -> what its forward returns

_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


@dataclass
class Recorded:
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
    task: int | None = None  # the backward that they are from

    @property
    def device(self) -> torch.device:
        return self.outputs[0].device

    @property
    def name(self) -> str:
        return f"{self.path or 'the model'} ({type(self.module).__name__})"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in its nested tuples, lists and dictionaries replaced."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, mapped(item, change)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(item, change) for item in value)
    return value


def kept(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(x.requires_grad)


def floating(outputs: Any) -> list[Tensor]:
    return [y for y in tensors_in(outputs) if y.is_floating_point()]


def random_states(devices: set[torch.device]) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    states.update({str(d): torch.cuda.get_rng_state(d) for d in devices if d.type == "cuda"})
    return states


def restore_random(states: Mapping[str, Tensor]) -> None:
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, torch.device(device))


def autocast_states(devices: set[torch.device]) -> dict[str, tuple[bool, torch.dtype]]:
    kinds = {d.type for d in devices if torch.amp.is_autocast_available(d.type)}
    return {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds}


def under_autocast(recorded: Recorded, *, enabled: bool = True) -> AbstractContextManager[Any]:
    """Autocast as it was at the call, or none at all; whatever it is where the backward was called."""
    stack = ExitStack()
    for kind, (was_enabled, dtype) in recorded.autocast.items():
        stack.enter_context(torch.autocast(kind, dtype, enabled=enabled and was_enabled))
    return stack


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


class WithReference(nn.Module):
    def __init__(self, module: nn.Module, reference: ModuleReference) -> None:
        super().__init__()
        self.module, self.reference = module, reference

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.reference(self.module, *arguments, **named)


def checked_tensors(recorded: Recorded) -> tuple[list[str], list[Tensor]]:
    """Names and values of the inputs and parameters that need a gradient."""
    inputs = [x for x in tensors_in(recorded.arguments) if x.requires_grad]
    parameters = {name: p for name, p in recorded.parameters.items() if p.requires_grad}
    return [*(f"input {i}" for i in range(len(inputs))), *parameters], [*inputs, *parameters.values()]


def replayable(
    recorded: Recorded,
    module: nn.Module,
    names: list[str],
    tensors: list[Tensor],
    *,
    prefix: str = "",
    in_float32: bool = False,
) -> Subject:
    """The call as a function of ``checked_tensors``, with its own random numbers, buffers and autocast.

    Given float64 it runs in float64, without autocast; so it does ``in_float32`` where that is asked for.
    """
    own = torch.float32 if in_float32 else tensors[0].dtype
    inputs = sum(x.requires_grad for x in tensors_in(recorded.arguments))

    def function(*given: Tensor) -> list[Tensor]:
        in64 = given[0].dtype == torch.float64 != own
        dtype = torch.float64 if in64 else torch.float32 if in_float32 else None

        def cast(x: Tensor) -> Tensor:
            x = x.detach().clone()
            return x.to(dtype) if dtype is not None and x.is_floating_point() else x

        moving = iter(given[:inputs])
        arguments, named = mapped(recorded.arguments, lambda x: next(moving) if x.requires_grad else cast(x))
        state = {prefix + name: cast(x) for name, x in (*recorded.parameters.items(), *recorded.buffers.items())}
        state.update(zip([prefix + name for name in names[inputs:]], given[inputs:], strict=True))
        restore_random(recorded.random)
        with under_autocast(recorded, enabled=dtype is None):
            return floating(functional_call(module, state, arguments, named))

    at = [x.detach().to(own) for x in tensors] if in_float32 else list(tensors)
    return Subject(function, "module", at, tuple(range(len(tensors))))


def coarsest(recorded: Recorded) -> float:
    """The largest unit of rounding that autocast or TF32 brings in; 0 if neither does."""
    units = [torch.finfo(dtype).eps / 2 for enabled, dtype in recorded.autocast.values() if enabled]
    if recorded.device.type == "cuda" and _matmul_in_tf32():
        units.append(2.0**-11)
    return max(units, default=0.0)


def _matmul_in_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # where it was set by the newer interface, which the older one refuses to read
        return bool(torch.backends.cuda.matmul.fp32_precision != "ieee")


def gives_again(outputs: Sequence[Tensor], recorded: Recorded, unit: float) -> bool:
    """Whether ``outputs`` are those that were recorded, but for rounding in another order."""
    if len(outputs) != len(recorded.outputs):
        return False
    pairs = zip(outputs, recorded.outputs, strict=True)
    return all(a.shape == b.shape and not norm(a.double() - b.double()) > 1e3 * unit * (1 + norm(b)) for a, b in pairs)
