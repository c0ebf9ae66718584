"""The nodes of an autograd graph that come from a ``torch.autograd.Function`` written in Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction


def custom_nodes(outputs: Iterable[Tensor], stop: set[Any]) -> list[Any]:
    """Those between ``outputs`` and the nodes in ``stop`` (which stay out), in an order that only the graph decides."""
    visited: set[Any] = set()
    pending = [y.grad_fn for y in outputs if y.grad_fn is not None][::-1]
    found = []
    while pending:
        node = pending.pop()
        if node in visited or node in stop:
            continue
        visited.add(node)
        if issubclass(type(node), BackwardCFunction):  # of a class made for the Function when it was defined
            found.append(node)
        pending.extend(parent for parent, _ in reversed(node.next_functions) if parent is not None)
    return found


def kept_tensors(node: Any) -> list[Tensor]:
    """What a custom node keeps for its backward: its saved tensors, and tensors that are attributes of ``ctx``."""
    saved = [x for x in node.saved_tensors if x is not None]
    return [*saved, *(x for x in vars(node).values() if isinstance(x, Tensor))]
