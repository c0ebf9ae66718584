"""The nodes of an autograd graph, and those that come from a ``torch.autograd.Function`` written in Python."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction


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
