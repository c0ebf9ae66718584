"""``GradientMonitor``: checks the hand-written gradients of any model, while somebody else's loop trains it.

At scheduled forward passes it finds the ``torch.autograd.Function`` nodes in the graph and the innermost submodule
whose call made each, keeps what is needed to make that call again, and listens to the nodes in the backward. When the
backward has run, and before it returns (so before ``optimizer.step``), it checks each such call: ``call_check``. All
other steps cost one count.

Limits. Functions called outside of the model's forward (a loss of your own) are not seen: wrap them in a module of the
model, or use ``check_function``. A submodule with dropout is replayed with its own random numbers; one that changes
its own state in a forward so that the same call gives other outputs (spectral normalisation) is reported as not
applicable, as is one that cannot be copied. Batch normalisation in training mode is replayed, its running statistics
untouched. A module that takes float32 alone is checked by differences in float32, which see errors of about 1e-3;
under autocast they are checked in float32, and what autocast gave within bfloat16's precision of that. Gradients are
checked as the submodule's: a fault that another part of the same submodule compensates is none. ``torch.compile``
merges Functions into its own graph, where they cannot be found; a model without any is warned of once. Where a module
runs collective operations, its replay runs them too, on every process alike.
"""

from __future__ import annotations

import functools
import secrets
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist import torch_internals
from lean_mnist.crosscheck.monitor.call_check import check_recorded
from lean_mnist.crosscheck.monitor.recorded_calls import ModuleReference, RecordedCall, StartedCall, floating
from lean_mnist.crosscheck.report import ModuleReport
from lean_mnist.crosscheck.subjects.nodes import custom_nodes
from lean_mnist.errors import ArgumentError, GradientMismatch

KEPT_REPORTS = 10_000
PENDING_FORWARDS = 16  # of which the backward has not come by yet; the oldest are let go


class GradientMonitor:
    """Checks the custom Functions of ``model`` at scheduled forward passes; the module's text says how, and limits.

    Args:
        model: any module, on any device.
        every: check every so many forwards with gradients enabled, the first one included; or a function from the
            number of such a forward (from 0) to whether it is checked.
        reference: by submodule path or by type, the same in plain PyTorch, ``(module, *arguments) -> outputs``, which
            reads the weights from the module it is given; adds a comparison to the last digits that rounding leaves.
        on_mismatch: ``"raise"`` ``GradientMismatch`` out of ``backward()``, ``"warn"``, or a function of the report.
        seed: of the random directions; a fresh one if ``None``. ``seed`` says which it was.
        entries: modules whose outermost calls are the forwards that count, where it is not ``model`` itself that the
            loop calls but parts of it.

    ``history`` holds the reports. ``detach()`` removes it, as leaving a ``with`` block does.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int | Callable[[int], bool] = 100,
        reference: Mapping[str | type[nn.Module], ModuleReference] | None = None,
        on_mismatch: str | Callable[[ModuleReport], None] = "raise",
        seed: int | None = None,
        entries: Sequence[nn.Module] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model: expected a torch.nn.Module, found {type(model).__name__}")
        if not callable(every) and (not isinstance(every, int) or every < 1):
            raise ArgumentError(f"every: expected a whole number of at least 1, or a function, found {every!r}")
        if not callable(on_mismatch) and on_mismatch not in ("raise", "warn"):
            raise ArgumentError(f"on_mismatch: expected 'raise', 'warn' or a function, found {on_mismatch!r}")
        self.model = model
        self.seed = secrets.randbits(48) if seed is None else seed
        self.history: deque[ModuleReport] = deque(maxlen=KEPT_REPORTS)
        self._due = every if callable(every) else lambda number: number % every == 0
        self._reference = dict(reference or {})
        self._on_mismatch = on_mismatch
        paths = dict(model.named_modules())
        for key in self._reference:
            if isinstance(key, str) and key not in paths:
                raise ArgumentError(f"reference: {type(model).__name__} has no submodule {key!r}")
        self.forwards = 0  # with gradients enabled
        self._depth = 0  # of entries inside each other
        self._number: int | None = None  # of the forward that is being recorded
        self._found_any = False
        self._started: list[StartedCall] = []
        self._claimed: set[Any] = set()  # custom nodes that a call inside of the present one made
        self._pending: dict[int, list[RecordedCall]] = {}  # by forward, until the backward comes by
        self._queued: set[int] = set()  # backwards, by their number, at whose end a check stands
        self._temporary: list[Any] = []
        self._paths = {module: path for path, module in paths.items()}
        self._handles = []
        for entry in [model] if entries is None else entries:
            if entry not in self._paths:
                raise ArgumentError(f"entries: {type(entry).__name__} is no part of the model")
            self._handles.append(entry.register_forward_pre_hook(self._before_forward, with_kwargs=True))
            self._handles.append(entry.register_forward_hook(self._after_forward, with_kwargs=True, always_call=True))

    def detach(self) -> None:
        """Remove every hook; what was recorded and not checked is let go."""
        for handle in (*self._handles, *self._temporary):
            handle.remove()
        self._handles, self._temporary = [], []
        self._pending.clear()
        self._started.clear()

    def __enter__(self) -> GradientMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _before_forward(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._depth += 1
        if self._depth > 1 or not torch.is_grad_enabled():
            return
        number, self.forwards = self.forwards, self.forwards + 1
        if not self._due(number):
            return
        self._number = number
        self._claimed = set()
        for part in module.modules():
            if part is not module:
                self._temporary.append(part.register_forward_pre_hook(self._enter, with_kwargs=True))
                self._temporary.append(part.register_forward_hook(self._leave, with_kwargs=True))
        self._started = [StartedCall(self._paths.get(module, ""), module, (arguments, named))]

    def _after_forward(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        self._depth = max(self._depth - 1, 0)
        if self._depth or self._number is None:
            return
        for handle in self._temporary:
            handle.remove()
        self._temporary = []
        number = self._number
        try:
            if result is not None and len(self._started) == 1:
                self._record(self._started[0], result)
        finally:
            self._started, self._claimed, self._number = [], set(), None
        if number in self._pending:
            self._found_any = True
            while len(self._pending) > PENDING_FORWARDS:
                self._pending.pop(min(self._pending))
        elif result is not None and not self._found_any:
            self._found_any = True  # said once
            name = type(self.model).__name__
            warnings.warn(
                f"GradientMonitor: the forward of {name} calls no torch.autograd.Function, so nothing is checked",
                stacklevel=2,
            )

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._started.append(StartedCall(self._paths.get(module, "?"), module, (arguments, named)))

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        while self._started and self._started[-1].module is not module:  # calls inside that raised, and were caught
            self._started.pop()
        if self._started:
            self._record(self._started.pop(), result)

    def _record(self, call: StartedCall, result: Any) -> None:
        """Keep the call if it made custom nodes that no submodule inside of it made."""
        outputs = floating(result)
        every_node = custom_nodes(outputs, call.before)
        own = [(k, node) for k, node in enumerate(every_node) if node not in self._claimed]
        if not own or self._number is None or call.changed:
            return
        self._claimed.update(node for _, node in own)
        recorded = call.returned(self._number, outputs, every_node)
        self._pending.setdefault(self._number, []).append(recorded)
        for k, y in enumerate(outputs):
            if y.grad_fn is not None:
                y.register_hook(functools.partial(self._keep_upstream, recorded, k))
        for k, node in own:
            node.register_hook(functools.partial(self._keep_gradients, recorded, k))

    def _keep_upstream(self, recorded: RecordedCall, output: int, gradient: Tensor) -> None:
        if self._in_its_backward(recorded):
            recorded.upstream.setdefault(output, gradient.detach().clone())

    def _keep_gradients(self, recorded: RecordedCall, node: int, gradients: tuple[Tensor | None, ...], _: Any) -> None:
        if not self._in_its_backward(recorded):
            return
        recorded.node_gradients.setdefault(node, tuple(None if g is None else g.detach().clone() for g in gradients))
        backward = torch_internals.current_backward()
        if backward not in self._queued:
            self._queued.add(backward)
            # At the end of this backward, gradients accumulated, before it returns to the loop. A backward that
            # raises has no such end; its calls are not checked, and are let go in time.
            torch_internals.queue_after_backward(lambda: self._check_pending(backward))

    def _in_its_backward(self, recorded: RecordedCall) -> bool:
        """True if ``recorded`` waits for a backward, and this is the first that came by it."""
        if recorded.step not in self._pending:
            return False
        if recorded.backward is None:
            recorded.backward = torch_internals.current_backward()
        return recorded.backward == torch_internals.current_backward()

    def _check_pending(self, backward: int) -> None:
        self._queued = set()
        calls = [recorded for pending in self._pending.values() for recorded in pending]
        ready = [recorded for recorded in calls if recorded.node_gradients and recorded.backward == backward]
        for number in {recorded.step for recorded in ready}:
            self._pending.pop(number)
        reports = [
            check_recorded(recorded, self._reference_of(recorded), self.seed + 1_000_003 * recorded.step + k)
            for k, recorded in enumerate(ready)
        ]
        self.history.extend(reports)
        failed = [(report, recorded.path) for report, recorded in zip(reports, ready, strict=True) if report.failures]
        # Without the modules that are wrong only because, or at least also because, a part of them is.
        wrong = [r for r, outer in failed if not any(_is_part(inner, outer) for _, inner in failed)]
        if not wrong:
            return
        if callable(self._on_mismatch):
            for report in wrong:
                self._on_mismatch(report)
            return
        message = "\n".join(str(report) for report in wrong) + f"\n(seed {self.seed})"
        if self._on_mismatch == "raise":
            raise GradientMismatch(message)
        warnings.warn(message, stacklevel=2)

    def _reference_of(self, recorded: RecordedCall) -> ModuleReference | None:
        if recorded.path in self._reference:
            return self._reference[recorded.path]
        return next((self._reference[kind] for kind in type(recorded.module).__mro__ if kind in self._reference), None)


def _is_part(inner: str, outer: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}."))
