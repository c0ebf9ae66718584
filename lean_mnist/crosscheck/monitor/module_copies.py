"""A copy of a module to call again, whose parameters stay set while a backward runs, and what may not be touched."""

import copy
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.monitor.reasons import NotApplicable, Reason
from lean_mnist.crosscheck.subjects.modules import TensorPlaces
from lean_mnist.torch_internals import COMPILED_CALL, compiled_original

_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)


class ModuleCopy(TensorPlaces):
    """A copy without hooks and without compilation, sharing memory with its original.

    What ``copy.deepcopy`` refuses (locks, handles of operators) is shared with the original.
    """

    def __init__(self, module: nn.Module) -> None:
        copied, copies = _copy_of(module)
        super().__init__(copied)
        # Parameters that it reaches by other ways than its parts.
        self.others = [x for x in copies if isinstance(x, nn.Parameter)]


def _copy_of(module: nn.Module) -> tuple[nn.Module, Iterable[Any]]:
    """The copy, and everything that was copied with it."""
    parts = [part for part in module.modules() if compiled_original(part) is None]
    memo: dict[int, Any] = {id(part): object.__new__(type(part)) for part in parts}
    for part in module.modules():
        original = compiled_original(part)
        if original is not None:
            memo[id(part)] = memo[id(original)]
    for x in (*module.parameters(), *module.buffers()):
        memo[id(x)] = x.detach().requires_grad_(x.requires_grad)
    for part in parts:
        own = vars(memo[id(part)])
        for name, value in _state(part).items():
            if name.endswith(_HOOKS) and isinstance(value, dict):
                own[name] = type(value)()
            elif name != COMPILED_CALL:
                own[name] = value if isinstance(value, _PLAIN) else _attribute(value, memo)
    copied = memo[id(module)]
    assert isinstance(copied, nn.Module)
    return copied, memo.values()


def _state(part: nn.Module) -> dict[str, Any]:
    """Its attributes, as it gives them itself where it leaves some out of its copies (a trainer, a process group)."""
    own = getattr(type(part), "__getstate__", None)
    given = None if own in (None, getattr(object, "__getstate__", None)) else part.__getstate__()
    return given if isinstance(given, dict) else vars(part)


def _attribute(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, Tensor) and id(value) not in memo:
        require_usable([value])
        return value.detach().clone().requires_grad_(value.requires_grad)
    tried = dict(memo)  # a copy that fails half-way leaves halves in it
    try:
        copied = copy.deepcopy(value, tried)
    except Exception:
        return value
    memo.update(tried)
    return copied


def is_compiled(module: nn.Module) -> bool:
    """True if ``module`` or a part of it runs compiled, so that hooks of its parts are not called."""
    return any(compiled_original(part) is not None or calls_compiled(part) for part in module.modules())


def calls_compiled(module: nn.Module) -> bool:
    """True after ``module.compile()``, which takes its own hooks out of sight, too."""
    return vars(module).get(COMPILED_CALL) is not None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)) or is_record(value):
        for _, item in items_of(value):
            yield from tensors_in(item)


def is_record(value: Any) -> bool:
    """True for an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def items_of(value: Any) -> list[tuple[Any, Any]]:
    """Keys and items of a mapping, names and values of a dataclass's fields, indices and items of a sequence."""
    if isinstance(value, Mapping):
        return list(value.items())
    if is_record(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return list(enumerate(value))


def require_usable(tensors: Iterable[Tensor]) -> None:
    """Raise ``NotApplicable`` for tensors that hold no numbers to read, or not all of them."""
    for x in tensors:
        kind = f"{type(x).__name__} with layout {x.layout}"
        distributed = sys.modules.get("torch.distributed.tensor")  # where nobody imported it, there are none
        if x.layout != torch.strided or x.is_nested or (distributed and isinstance(x, distributed.DTensor)):
            raise NotApplicable(Reason.UNUSUAL_TENSORS, kind)
        if _is_freed(x):
            raise NotApplicable(Reason.FREED, f"of shape {tuple(x.shape)}")


def _is_freed(x: Tensor) -> bool:
    """True if its storage is smaller than its numbers, so that reading them would crash."""
    if x.numel() == 0 or x.is_meta:
        return False
    last = x.storage_offset() + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.untyped_storage().nbytes() < (last + 1) * x.element_size()
