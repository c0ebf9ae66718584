"""A call of a module: recorded with what is needed to make it again, and as a function of tensors in any precision."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.monitor.module_copies import (
    ModuleCopy,
    is_compiled,
    is_record,
    items_of,
    require_usable,
    tensors_in,
)
from lean_mnist.crosscheck.monitor.reasons import NotApplicable, Reason
from lean_mnist.crosscheck.subjects.calls import Subject
from lean_mnist.crosscheck.subjects.nodes import custom_nodes
from lean_mnist.crosscheck.subjects.numbers import nearly_same
from lean_mnist.torch_internals import compiled_original, function_of

ModuleReference = Callable[..., Any]  # (module, *arguments of its forward) -> what its forward returns
# Functions of PyTorch's own that move tensors between devices and processes, and compute nothing.
_TRANSPORT = ("torch.distributed.", "torch.nn.parallel.")
_COMPILER = ("torch._functorch.", "torch._dynamo.", "torch._inductor.")


def floating(outputs: Any) -> list[Tensor]:
    """The floating tensors in the result of a module."""
    return [y for y in tensors_in(outputs) if y.is_floating_point()]


def nodes_to_check(outputs: Sequence[Tensor], before: set[Any]) -> list[Any]:
    """The custom nodes behind ``outputs`` and not behind ``before``, without those of PyTorch's own transport."""
    return [node for node in custom_nodes(outputs, before) if not _made_in(node, _TRANSPORT)]


def _made_in(node: Any, modules: tuple[str, ...]) -> bool:
    return getattr(function_of(node), "__module__", "").startswith(modules)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it replaced, of those that ``tensors_in`` finds."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping) or is_record(value):
        changed = copy.copy(value)
        put = changed.__setitem__ if isinstance(value, Mapping) else functools.partial(object.__setattr__, changed)
        for key, item in items_of(value):
            put(key, _mapped(item, change))
        return changed
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
        original = compiled_original(module)
        self.path, self.called, self.arguments = path, module, arguments
        self.module = module if original is None else original
        self._given = list(tensors_in(arguments))
        self.before = {x.grad_fn for x in self._given if x.grad_fn is not None}
        self._versions = [x._version for x in self._given]
        self._devices = {x.device for x in (*self._given, *module.parameters(), *module.buffers())}
        self._random = {"cpu": torch.get_rng_state()}
        self._random.update({str(d): torch.cuda.get_rng_state(d) for d in self._devices if d.type == "cuda"})

    def returned(
        self, step: int, outputs: Sequence[Tensor], nodes: Sequence[Any], own: Sequence[int], *, copy_parameters: bool
    ) -> "RecordedCall":
        """The call, with the ``step`` that it belongs to and the custom nodes that it made, ``own`` among them.

        Arguments, buffers and outputs are copied, parameters only where they are likely to change before the check.
        Raises ``NotApplicable`` where they cannot be read any more, or were changed by the call.
        """
        parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        require_usable([*self._given, *parameters.values(), *self.module.buffers(), *outputs])
        if [x._version for x in self._given] != self._versions:
            raise NotApplicable(Reason.CHANGED, "the call writes into its arguments")
        if copy_parameters:
            parameters = {name: _copied(p) for name, p in parameters.items()}
        kinds = {d.type for d in self._devices if torch.amp.is_autocast_available(d.type)}
        return RecordedCall(
            step=step,
            path=self.path,
            module=self.module,
            arguments=_mapped(self.arguments, _copied),
            parameters=parameters,
            versions=[p._version for p in parameters.values()],
            buffers={name: b.detach().clone() for name, b in self.module.named_buffers()},
            outputs=[y.detach().clone() for y in outputs],
            random=self._random,
            autocast={kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds},
            nodes=[type(node).__name__ for node in nodes],
            functions={k: function_of(nodes[k]) or type(None) for k in own},
            compiled=any(_made_in(node, _COMPILER) for node in nodes) or is_compiled(self.called),
        )


@dataclass(eq=False)
class RecordedCall:
    """One call of a module that made custom nodes, and, once the backward came by, its gradients."""

    step: int
    path: str
    module: nn.Module
    arguments: tuple[Any, dict[str, Any]]  # detached copies, which know whether they need a gradient
    parameters: dict[str, Tensor]
    versions: list[int]  # of the parameters
    buffers: dict[str, Tensor]
    outputs: list[Tensor]  # the floating ones, detached copies
    random: dict[str, Tensor]  # states of the generators before the call, by device
    autocast: dict[str, tuple[bool, torch.dtype]]
    nodes: list[str]  # names of the custom nodes
    functions: dict[int, type[Any]]  # the Functions of those that no submodule made
    compiled: bool = False  # it ran compiled, so that its Functions are out of sight
    remark: str = ""
    upstream: dict[int, Tensor] = field(default_factory=dict)  # by output
    node_gradients: dict[int, tuple[Tensor | None, ...]] = field(default_factory=dict)  # by custom node
    backward: int | None = None  # the number of the backward that they are from
    late: bool = False  # a backward came by others of its forward, and not by it

    @property
    def name(self) -> str:
        """The module's path and type."""
        return f"{self.path or 'the model'} ({type(self.module).__name__}){self.remark}"

    @property
    def backward_ran(self) -> bool:
        """True if a backward came through its nodes; or to its outputs, where the nodes are out of sight."""
        return bool(self.node_gradients or (self.compiled and self.upstream))

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

    def listen(
        self, outputs: Sequence[Tensor], nodes: Sequence[Any], arrived: "Callable[[RecordedCall], bool]", timed: Any
    ) -> None:
        """Keep the gradients that come to ``outputs``, and those that its own of ``nodes`` return.

        ``arrived`` says of each backward that comes by whether it is the one to listen to.
        """

        def keep_upstream(k: int, gradient: Tensor | None) -> None:
            if gradient is not None and arrived(self):
                self.upstream.setdefault(k, gradient.detach().clone())

        def keep_gradients(k: int, gradients: tuple[Tensor | None, ...], _: Any) -> None:
            if arrived(self):
                self.node_gradients.setdefault(k, tuple(None if g is None else g.detach().clone() for g in gradients))

        for k, y in enumerate(outputs):
            if y.grad_fn is not None:
                y.register_hook(timed(functools.partial(keep_upstream, k)))
        for k in self.functions:
            nodes[k].register_hook(timed(functools.partial(keep_gradients, k)))

    def require_unchanged(self) -> None:
        """Raise ``NotApplicable`` if its parameters are not what they were at the call."""
        require_usable(self.parameters.values())
        if [p._version for p in self.parameters.values()] != self.versions:
            raise NotApplicable(Reason.CHANGED, "its parameters, before the backward ended")

    def under_autocast(self, *, enabled: bool = True) -> AbstractContextManager[Any]:
        """Autocast as it was at the call, or none at all; whatever it is where the backward was called."""
        stack = ExitStack()
        for kind, (was_enabled, dtype) in self.autocast.items():
            stack.enter_context(torch.autocast(kind, dtype, enabled=enabled and was_enabled))
        return stack

    def gives_again(self, outputs: Sequence[Tensor], unit: float) -> bool:
        """True if ``outputs`` are those that were recorded, but for rounding in another order."""
        return len(outputs) == len(self.outputs) and all(
            nearly_same(y, before, unit, 1.0) for y, before in zip(outputs, self.outputs, strict=True)
        )

    def as_function(
        self, copied: ModuleCopy, *, call: ModuleReference | None = None, in_float32: bool = False
    ) -> Subject:
        """The call of ``copied``, as a function of ``checked_tensors``, with its own random numbers and autocast.

        Given float64 it runs in float64, without autocast; so it does ``in_float32`` where that is asked for. ``call``
        is what is called instead of the copy, given the copy and its arguments. The tensors stay in the copy until the
        next call.
        """
        tensors = list(self.checked_tensors.values())
        own = torch.float32 if in_float32 else tensors[0].dtype
        inputs = sum(x.requires_grad for x in tensors_in(self.arguments))
        names = list(self.checked_tensors)[inputs:]
        run = copied.module if call is None else functools.partial(call, copied.module)
        fixed = {n: x for n, x in (*self.parameters.items(), *self.buffers.items()) if n not in set(names)}

        def function(*given: Tensor) -> list[Tensor]:
            in64 = given[0].dtype == torch.float64 != own
            dtype = torch.float64 if in64 else torch.float32 if in_float32 else None

            def cast(x: Tensor) -> Tensor:
                x = x.detach().clone()
                return x.to(dtype) if dtype is not None and x.is_floating_point() else x

            moving = iter(given[:inputs])
            arguments, named = _mapped(self.arguments, lambda x: next(moving) if x.requires_grad else cast(x))
            copied.set({name: cast(x) for name, x in fixed.items()} | dict(zip(names, given[inputs:], strict=True)))
            for device, numbers in self.random.items():
                if device == "cpu":
                    torch.set_rng_state(numbers)
                else:
                    torch.cuda.set_rng_state(numbers, torch.device(device))
            with self.under_autocast(enabled=dtype is None):
                return floating(run(*arguments, **named))

        at = [x.detach().to(own) for x in tensors] if in_float32 else tensors
        return Subject(function, "module", at, tuple(range(len(tensors))))


def _matmul_in_tf32() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # where it was set by the newer interface, which the older one refuses to read
        return bool(torch.backends.cuda.matmul.fp32_precision != "ieee")
