"""Functions written in Python: the nodes that they leave in an autograd graph, and their calls seen from inside."""

from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from lean_mnist.torch_internals import function_of


def ancestors(outputs: Iterable[Tensor], stop: AbstractSet[Any] = frozenset()) -> list[Any]:
    """The nodes between ``outputs`` and those in ``stop`` (which stay out), in an order that only the graph decides."""
    return reached_from([y.grad_fn for y in outputs if y.grad_fn is not None], stop)


def reached_from(nodes: Iterable[Any], stop: AbstractSet[Any] = frozenset()) -> list[Any]:
    """``nodes``, and those that their gradients go on to."""
    visited = dict[Any, None]()
    pending = list(nodes)[::-1]
    while pending:
        node = pending.pop()
        if node not in visited and node not in stop:
            visited[node] = None
            pending.extend(parent for parent, _ in reversed(node.next_functions) if parent is not None)
    return list(visited)


def leaves_reached_from(nodes: Iterable[Any]) -> list[Tensor]:
    """The leaves to whose gradients those of ``nodes`` contribute."""
    reached = [node for node in reached_from(nodes) if not isinstance(node, BackwardCFunction)]
    return list({id(node.variable): node.variable for node in reached if hasattr(node, "variable")}.values())


def custom_nodes(outputs: Iterable[Tensor], stop: AbstractSet[Any] = frozenset()) -> list[Any]:
    """Those of ``ancestors`` whose backward is written in Python: each has a class made for its Function."""
    return [node for node in ancestors(outputs, stop) if issubclass(type(node), BackwardCFunction)]


def kept_tensors(node: Any) -> list[Tensor]:
    """The tensors that a custom node keeps for its backward: saved ones, and attributes of ``ctx``."""
    saved = [x for x in node.saved_tensors if x is not None]
    return [*saved, *(x for x in vars(node).values() if isinstance(x, Tensor))]


Seen = Callable[[type[Any], Any, list[Any]], "Callable[[Any], None] | None"]
"""Called with the class, its ``ctx`` (the node to be) and the arguments; what it returns is called with the result."""


def loaded_functions() -> list[type[Any]]:
    """Every class of a Function that is loaded and has a forward, its own or inherited, but for PyTorch's."""
    found, pending = list[type[Any]](), list[type[Any]](Function.__subclasses__())
    while pending:
        function = pending.pop()
        pending.extend(function.__subclasses__())
        if function.forward is not Function.forward and function.__module__.partition(".")[0] != "torch":
            found.append(function)
    return list(dict.fromkeys(found))


@contextmanager
def intercepted(functions: Collection[type[Any]], seen: Seen) -> Iterator[None]:
    """Have ``seen`` told of every call of ``functions`` inside of the block, before the forward computes.

    A call of a class that is derived from one of them is none of that one.
    """
    before = []
    for function in dict.fromkeys(functions):
        name = "forward" if getattr(function, "setup_context", None) is Function.setup_context else "setup_context"
        before.append((function, name, vars(function).get(name), getattr(function, name)))
    for function, name, _, method in before:
        setattr(function, name, staticmethod(_telling(function, method, name, seen)))
    try:
        yield
    finally:
        for function, name, original, _ in before:
            if original is None:
                delattr(function, name)
            else:
                setattr(function, name, original)


def _telling(function: type[Any], method: Any, name: str, seen: Seen) -> Any:
    def telling(ctx: Any, *given: Any, **named: Any) -> Any:
        called = function_of(ctx)
        if called is not None and called is not function and issubclass(called, function):
            return method(ctx, *given, **named)
        afterwards = name == "setup_context"  # which is given the result, and returns nothing
        then = seen(function, ctx, list(given[0] if afterwards else given))
        result = method(ctx, *given, **named)
        if then is not None:
            then(given[1] if afterwards else result)
        return result

    return telling
