"""A recorded call of a module as a function of tensors, which can be made again in any precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lean_mnist.crosscheck.functions.calls import Subject, norm
from lean_mnist.crosscheck.functions.recording import (
    Recorded,
    floating,
    mapped,
    restore_random,
    tensors_in,
    under_autocast,
)

ModuleReference = Callable[..., Any]  # (module, *arguments of its forward) -> what its forward returns


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
