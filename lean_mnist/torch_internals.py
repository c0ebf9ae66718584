"""Everything private that is used of PyTorch: nothing else in this package names an underscore of ``torch``.

Each entry says its purpose, the versions it was tried on, and the behaviour where it is missing.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten
from torch.utils._pytree import tree_leaves as tree_leaves


def flatten_tree(arguments: Any) -> tuple[list[tuple[Any, str]], list[Any], Any]:
    """Paths, leaves and structure of a list or dict; what holds no tensor is a leaf (PyTorch's pytree, 2.6 to 2.14).

    A path is the key of an item of ``arguments`` and the rest of the way to the leaf, as in ``["a"][0]``.
    """

    def is_leaf(x: Any) -> bool:
        return x is not arguments and not any(isinstance(y, Tensor) for y in tree_leaves(x))

    found, structure = tree_flatten_with_path(arguments, is_leaf=is_leaf)
    paths = [(getattr(path[0], "key", getattr(path[0], "idx", None)), keystr(path[1:])) for path, _ in found]
    return paths, [leaf for _, leaf in found], structure


unflatten_tree = tree_unflatten


class DispatchMode(TorchDispatchMode):
    """A mode that sees every kernel PyTorch runs while it is active (``__torch_dispatch__``; 2.6 to 2.14).

    It takes no part in compilation, and says so: asking whether it does would import PyTorch's compiler.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def operation_name(kernel: Any) -> str:
    """The name of a kernel that a dispatch mode is given, ``"mm"`` for ``aten::mm`` (2.6 to 2.14)."""
    return str(kernel._schema.name).removeprefix("aten::")


def operator_of(function: Any) -> Any:
    """The overload behind ``torch.library.custom_op`` or ``torch.ops``, ``None`` for other functions (2.6 to 2.14)."""
    if isinstance(function, torch._library.custom_ops.CustomOpDef):
        return function._opoverload
    if isinstance(function, torch._ops.OpOverloadPacket) and len(function.overloads()) == 1:
        return getattr(function, function.overloads()[0])
    return function if isinstance(function, torch._ops.OpOverload) else None


def returns_a_view(kernel: Any) -> bool:
    """True if a result of a kernel shares memory with an argument, as a view or because it was written in place."""
    return any(returned.alias_info is not None for returned in kernel._schema.returns)


def has_no_memory(x: Tensor) -> bool:
    """True if ``x`` is one of autograd's zeros, of which only the shape exists (2.6 to 2.14)."""
    return bool(x._is_zerotensor())


def fused_sgd(
    parameters: list[Tensor], gradients: list[Tensor], momentum_buffers: list[Tensor], **options: Any
) -> None:
    """The kernel of ``torch.optim.SGD(fused=True)``, options as of it (2.6 to 2.14; nothing stands in for it).

    Making an optimizer of ``torch.optim`` imports PyTorch's compiler, two seconds and 150 MB, and its step is slower.
    """
    torch._fused_sgd_(parameters, gradients, momentum_buffers, **options)


def has_bfloat16_products() -> bool:
    """True if the processor multiplies bfloat16 by instructions of its own; true where PyTorch cannot tell."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return known is None or bool(known())


def use_deterministic_algorithms(mode: bool, warn_only: bool) -> None:
    """``torch.use_deterministic_algorithms``, without importing PyTorch's compiler to tell it (2.6 to 2.14)."""
    set_them = getattr(torch._C, "_set_deterministic_algorithms", torch.use_deterministic_algorithms)
    set_them(mode, warn_only=warn_only)


def current_backward() -> int:
    """A number for the backward pass that is running, −1 outside of one (2.6 to 2.14; nothing stands in for it)."""
    return int(torch._C._current_graph_task_id())


def queue_after_backward(callback: Callable[[], None]) -> None:
    """Have the engine call back at the end of the running backward, unless it raises (2.6 to 2.14)."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def function_of(node: Any) -> type[Any] | None:
    """The ``torch.autograd.Function`` that made a node of the graph, ``None`` for other nodes (2.6 to 2.14)."""
    return getattr(type(node), "_forward_cls", None)


COMPILED_CALL = "_compiled_call_impl"  # the attribute that ``module.compile()`` sets: hooks are called inside of it


def compiled_original(module: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile(module)`` wraps; ``None`` for any other module (2.6 to 2.14).

    Where PyTorch's compiler was not imported there is none, and it is not imported for this.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return module._orig_mod if compiler is not None and isinstance(module, compiler.OptimizedModule) else None


def running_calls(module: nn.Module) -> int:
    """The number of calls of ``module`` on this thread's stack, of those that run its hooks (2.6 to 2.14)."""
    number, frame = 0, inspect.currentframe()
    while frame is not None:
        number += frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is module
        frame = frame.f_back
    return number


def tensor_stores(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters and the buffers of ``module`` itself, by name, to be changed in place (2.6 to 2.14)."""
    return module._parameters, module._buffers


def uncompiled_calls() -> AbstractContextManager[Any]:
    """A context in which compiled code runs as it was written (2.6 to 2.14)."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def graphs_compiled() -> int:
    """The number of graphs that ``torch.compile`` has compiled in this process (2.6 to 2.14); does not import it."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else int(compiler.counters["stats"]["unique_graphs"])


def compiling_often() -> AbstractContextManager[Any]:
    """A context in which no code is run uncompiled because it was compiled so often already (2.6 to 2.14)."""
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if config is None:
        return nullcontext()
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    return config.patch({limit: max(64, getattr(config, limit))})


def counting(backend: Any, **fixed: Any) -> tuple[Callable[..., Any], list[int]]:
    """A backend of ``torch.compile`` that calls ``backend``, and how large the graphs are that it compiled so far.

    Nothing compiled before is used again with it, so that a graph is compiled for whatever runs compiled (2.6 to 2.14).
    """
    lookup = importlib.import_module("torch._dynamo").lookup_backend
    compiler, graphs = lookup(backend), list[int]()

    def compile_graph(graph: Any, *arguments: Any, **options: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return compiler(graph, *arguments, **options, **fixed)

    return compile_graph, graphs


def uncompiled(function: Any) -> Any:
    """The function or module that ``torch.compile`` made ``function`` of; itself if it did not (2.6 to 2.14)."""
    return getattr(function, "_torchdynamo_orig_callable", getattr(function, "_orig_mod", function))
