"""Real inputs and upstream gradients of Functions, kept as bundles while somebody else's loop trains.

Some faults show only at real activations. ``check_function(…, inputs=path)`` or ``python -m lean_mnist.check path
module:Function`` asks them again.
"""

import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lean_mnist.crosscheck.bundles.bundle import FUNCTION, envelope, storable, write_bundle
from lean_mnist.crosscheck.subjects.arguments import Arguments
from lean_mnist.crosscheck.subjects.calls import one_line
from lean_mnist.crosscheck.subjects.nodes import intercepted, loaded_functions
from lean_mnist.errors import ArgumentError, require_count


@dataclass
class Recording:
    """The bundles written so far, and how many calls were not kept, by the reason."""

    folder: Path
    calls: int
    paths: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    _seen: Counter[str] = field(default_factory=Counter)  # by name, which those made in a factory share
    _waiting: dict[Any, tuple[Path, dict[str, Any], list[bool]]] = field(default_factory=dict)  # by node

    def __str__(self) -> str:
        skipped = "".join(f"; {number} not kept: {reason}" for reason, number in self.skipped.items())
        return f"{len(self.paths)} calls recorded in {self.folder}{skipped}"

    def _called(self, function: type[Any], ctx: Any, arguments: list[Any]) -> Callable[[Any], None] | None:
        """Keep copies of the arguments until the backward comes by; nothing raised here reaches the loop."""
        needs, name = ctx.needs_input_grad, f"{function.__module__}:{function.__qualname__}"
        if self._seen[name] >= self.calls or not any(needs) or torch.compiler.is_compiling():
            return None
        if not all(map(storable, arguments)):
            self.skipped[f"{function.__name__} has arguments that are neither tensors nor plain values"] += 1
            return None
        file = re.sub(r"[^\w.-]+", "_", f"{name.replace(':', '.')}-{self._seen[name]}.pt")
        self._seen[name] += 1
        floating = list[bool]()  # which outputs are, to which a gradient can come

        def returned(result: Any) -> None:
            outputs = result if isinstance(result, (tuple, list)) else [result]
            floating.extend(isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex()) for y in outputs)

        try:
            own = Arguments.of(arguments)
            copies = [x.detach().clone() if isinstance(x, Tensor) else x for x in own.flat(arguments)]
            # Autograd differentiates in no tensor of a list.
            each = [len(Arguments.of([x]).names) for x in arguments]
            content = {
                **envelope(FUNCTION),
                "function": f"{name}.apply",
                "reference": None,
                "inputs": own.nested(copies),
                "requires_grad": [need for need, leaves in zip(needs, each, strict=True) for _ in range(leaves)],
                "seed": secrets.randbits(48),
                "verdict": "recorded",
                "report": "",
            }
            ctx.register_prehook(lambda upstream: self._write(ctx, upstream))
        except Exception as error:  # out of memory
            self.skipped[f"{function.__name__}: {one_line(error, 120)}"] += 1
            return None
        self._waiting[ctx] = self.folder / file, content, floating
        return returned

    def _write(self, ctx: Any, upstream: Sequence[Tensor | None] = ()) -> None:
        """Write the call, with ``upstream`` as further probes if a backward came by."""
        if ctx not in self._waiting:  # a second backward
            return
        path, content, floating = self._waiting.pop(ctx)
        came = [None if v is None else v.detach() for v, y in zip(upstream, floating, strict=False) if y]
        try:
            write_bundle(path, {**content, "options": {"upstream": [came]} if came else {}})
            self.paths.append(path)
        except Exception as error:  # a full disk stops no training
            self.skipped[f"{path.name}: {one_line(error, 120)}"] += 1


@contextmanager
def record(folder: str | Path, functions: Collection[type[Any]] = (), *, calls: int = 4) -> Iterator[Recording]:
    """Write the first ``calls`` calls of each Function inside of the block to ``folder``, a bundle each.

    A bundle, ``module.Name-0.pt``, has copies of the arguments, and the upstream gradients if a backward came by. What
    runs compiled by ``torch.compile`` is not seen, nor are operators of ``torch.library``.

    Args:
        folder: made if it is not there.
        functions: classes of Functions, by default all that are loaded and not PyTorch's own.

    Raises ``ArgumentError`` for what is no Function; while training, nothing.
    """
    if not isinstance(functions, Iterable):
        raise ArgumentError(f"functions: expected a list of classes of torch.autograd.Function, found {functions!r}")
    for function in functions:
        if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
            raise ArgumentError(f"functions: expected classes of torch.autograd.Function, found {function!r}")
    require_count(calls=calls)
    recording = Recording(Path(folder), calls)
    recording.folder.mkdir(parents=True, exist_ok=True)
    with intercepted(functions or loaded_functions(), recording._called):
        try:
            yield recording
        finally:
            for ctx in list(recording._waiting):  # no backward came by
                recording._write(ctx)
