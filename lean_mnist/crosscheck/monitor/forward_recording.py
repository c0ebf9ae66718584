"""The module calls of one forward that make custom nodes: which there are, and a record of those to be checked."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from lean_mnist.crosscheck.monitor.intents import Intents
from lean_mnist.crosscheck.monitor.module_copies import ModuleCopy, calls_compiled
from lean_mnist.crosscheck.monitor.reasons import Fence, NotApplicable
from lean_mnist.crosscheck.monitor.recorded_calls import RecordedCall, StartedCall, floating, nodes_to_check
from lean_mnist.crosscheck.monitor.schedule import Turns
from lean_mnist.torch_internals import compiled_original, function_of


class ForwardRecording:
    """Hooks on the parts of ``root`` for one forward. ``calls`` are those recorded once ``close`` is called."""

    def __init__(
        self,
        root: nn.Module,
        paths: Mapping[nn.Module, str],
        step: int,
        *,
        turns: Turns,
        intents: Intents,
        fence: Fence,
        arrived: Callable[[RecordedCall], bool],
        copy_parameters: bool = False,
    ) -> None:
        self.root, self.step, self.calls = root, step, list[RecordedCall]()
        self.found_any = False  # whether any call made a custom node
        self._paths, self._turns, self._intents, self._fence = paths, turns, intents, fence
        self._arrived, self._copy_parameters = arrived, copy_parameters
        self._started: list[StartedCall] = []
        self._claimed = set[Any]()  # custom nodes that a call inside of the present one made
        self._calls_of = dict[str, int]()
        turns.begin()
        enter, leave = fence.timed(self._enter), fence.timed(self._leave)
        self._handles = []
        try:
            for part in _hookable(root):
                self._handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
                # Before other hooks that change the result, or the parameters, as those of sharded modules do.
                self._handles.append(part.register_forward_hook(leave, with_kwargs=True, prepend=True))
        except Exception:
            self.remove()
            raise

    def begin(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The forward of ``root`` starts."""
        self._started = [StartedCall(self._paths.get(self.root, ""), self.root, (arguments, named))]

    def close(self, result: Any) -> None:
        """The forward of ``root`` has returned ``result``, or raised, where it is ``None``."""
        self.remove()
        if result is not None and self._started:  # after it, calls inside that raised, and were caught
            self._record(self._started[0], result)
        self._started, self._claimed = [], set()

    def around(self, root: nn.Module, *arguments: Any, **named: Any) -> Any:
        """The result of ``root``, recorded."""
        self.begin(arguments, named)
        result = root(*arguments, **named)
        self.close(result)
        return result

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._started.append(StartedCall(self._paths.get(module, "?"), module, (arguments, named)))

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        if all(call.called is not module for call in self._started):
            return
        while self._started[-1].called is not module:  # calls inside that raised, and were caught
            self._started.pop()
        self._record(self._started.pop(), result)

    def _record(self, call: StartedCall, result: Any) -> None:
        """Keep the call if it made custom nodes that no submodule inside of it made, and its turn has come."""
        outputs = floating(result)
        nodes = nodes_to_check(outputs, call.before)
        own = [k for k, node in enumerate(nodes) if node not in self._claimed]
        if not own:
            return
        self.found_any = True
        self._claimed.update(nodes[k] for k in own)
        number = self._calls_of[call.path] = self._calls_of.get(call.path, -1) + 1
        functions = {function_of(nodes[k]) or type(None) for k in own}
        if self._intents.settle(call.path, call.module, functions):
            return
        if not self._turns.takes((call.path, number), (type(call.module), *sorted(functions, key=id))):
            return
        try:
            recorded = call.returned(self.step, outputs, nodes, own, copy_parameters=self._copy_parameters)
        except NotApplicable as reason:
            self._fence.count(reason, call.path or "the model")
            return
        recorded.listen(outputs, nodes, self._arrived, self._fence.timed)
        self.calls.append(recorded)


def _hookable(root: nn.Module) -> Iterable[nn.Module]:
    """The parts of ``root``, without it, whose hooks are called, and not traced by PyTorch's compiler."""
    hidden = set[nn.Module]()
    for part in root.modules():
        if compiled_original(part) is not None or calls_compiled(part):
            hidden.update(inner for inner in part.modules() if inner is not part or calls_compiled(part))
    return (part for part in root.modules() if part is not root and part not in hidden)


def calls_inside(recorded: RecordedCall, turns: Turns, intents: Intents, fence: Fence) -> list[RecordedCall]:
    """The calls that a compiled one makes, of its eager twin at the same weights, forward and backward."""
    copied = ModuleCopy(recorded.module)
    prefix = f"{recorded.path}." if recorded.path else ""
    paths = {part: (prefix + path).rstrip(".") for path, part in copied.module.named_modules()}
    recording = ForwardRecording(
        copied.module, paths, recorded.step, turns=turns, intents=intents, fence=fence, arrived=lambda _: True
    )
    subject = recorded.as_function(copied, call=recording.around)
    evaluated = subject.call()
    evaluated.gradients(subject.checked, [recorded.upstream.get(k) for k in range(len(evaluated.outputs))])
    for call in recording.calls:
        call.remark = ", eager twin of a compiled module"
    return recording.calls
