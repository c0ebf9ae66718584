"""The calls of given Functions, seen from inside of them: whoever calls, and by whatever name."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd import Function

Seen = Callable[[type[Any], Any, list[Any]], "Callable[[Any], None] | None"]
"""Called with the class, its ``ctx`` (the node to be) and the arguments; what it returns is called with the result."""


def loaded_functions() -> list[type[Any]]:
    """Every class of a Function that is loaded and has a forward of its own, but for PyTorch's."""
    found, pending = list[type[Any]](), list[type[Any]](Function.__subclasses__())
    while pending:
        function = pending.pop()
        pending.extend(function.__subclasses__())
        if "forward" in vars(function) and function.__module__.partition(".")[0] != "torch":
            found.append(function)
    return list(dict.fromkeys(found))


@contextmanager
def intercepted(functions: Collection[type[Any]], seen: Seen) -> Iterator[None]:
    """Have ``seen`` told of every call of ``functions`` inside of the block, before the forward computes."""
    before = []
    for function in functions:
        name = "forward" if getattr(function, "setup_context", None) is Function.setup_context else "setup_context"
        before.append((function, name, vars(function).get(name)))
        setattr(function, name, staticmethod(_telling(function, getattr(function, name), name, seen)))
    try:
        yield
    finally:
        for function, name, original in before:
            if original is None:
                delattr(function, name)
            else:
                setattr(function, name, original)


def _telling(function: type[Any], method: Any, name: str, seen: Seen) -> Any:
    def telling(ctx: Any, *given: Any, **named: Any) -> Any:
        afterwards = name == "setup_context"  # which is given the result, and returns nothing
        then = seen(function, ctx, list(given[0] if afterwards else given))
        result = method(ctx, *given, **named)
        if then is not None:
            then(given[1] if afterwards else result)
        return result

    return telling
