"""``GradientMonitor``: checks the hand-written gradients of any model, while somebody else's loop trains it.

Hooks of the model start a ``ForwardRecording`` at scheduled forwards. When a backward has run, and before it returns,
``call_check`` checks the calls that it came by. What is checked, and limits: docs/monitor.md.
"""

import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lean_mnist import torch_internals
from lean_mnist.crosscheck.monitor.call_check import check_recorded, undisturbed
from lean_mnist.crosscheck.monitor.forward_recording import ForwardRecording, calls_inside
from lean_mnist.crosscheck.monitor.intents import Intents, Key, named
from lean_mnist.crosscheck.monitor.module_copies import calls_compiled
from lean_mnist.crosscheck.monitor.reasons import (
    Fence,
    ModelHook,
    MonitorSummary,
    NotApplicable,
    Reason,
    not_applicable_because,
)
from lean_mnist.crosscheck.monitor.recorded_calls import ModuleReference, RecordedCall
from lean_mnist.crosscheck.monitor.schedule import Budget, Turns, regular
from lean_mnist.crosscheck.options import seed_from
from lean_mnist.crosscheck.questions import require_callable
from lean_mnist.crosscheck.report import ModuleReport, Verdict
from lean_mnist.errors import ArgumentError, GradientMismatch

KEPT_REPORTS = 10_000
PENDING_FORWARDS = 16  # of which a backward is still to come; the oldest are let go


class GradientMonitor:
    """Checks the custom Functions of ``model`` at scheduled forward passes.

    Args:
        model: any module, on any device.
        every: check every so many forwards with gradients enabled, the first one included; or a function from the
            number of such a forward (from 0) to whether it is checked; by default as ``at_most`` allows.
        reference: by submodule path or by type, the same in plain PyTorch, ``(module, *arguments) -> outputs``, which
            reads the weights from the module it is given; adds a comparison to the last digits that rounding leaves.
        on_mismatch: ``"raise"`` ``GradientMismatch`` out of ``backward()``, ``"warn"``, or a function of the report.
        seed: of the random directions; a fresh one if ``None``. ``seed`` says which it was.
        entries: modules whose outermost calls are the forwards that count, where it is not ``model`` itself that the
            loop calls but parts of it.
        ignore: modules and Functions not to be checked, by type, path of a submodule, or name of a Function.
        derivative_of: by the same keys, a smooth function whose derivative the gradient is meant to be: of the
            arguments of a Function, or, like ``reference``, of a module and its arguments. A Function can say so itself
            by a class attribute of this name.
        intended: by the same keys, a word such as ``"surrogate"`` for why a gradient is meant to be no derivative; also
            a class attribute of a Function. The summary says so in a line.
        at_most: the share of the time since the first forward that checks may take, where ``every`` is not given. In a
            group of processes, whose clocks differ, every hundredth forward is checked instead.

    ``history`` holds the reports, ``summary()`` counts them. ``detach()`` removes it, as leaving a ``with`` block does,
    and warns if nothing was checked. While ``enabled`` is false, forwards do not count.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int | Callable[[int], bool] | None = None,
        reference: Mapping[Key, ModuleReference] | None = None,
        on_mismatch: str | Callable[[ModuleReport], None] = "raise",
        seed: int | None = None,
        entries: Sequence[nn.Module] | None = None,
        *,
        ignore: Collection[Key] = (),
        derivative_of: Mapping[Key, Callable[..., Any]] | None = None,
        intended: Mapping[Key, str] | None = None,
        at_most: float = 0.02,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model: expected a torch.nn.Module, found {type(model).__name__}")
        if not callable(on_mismatch) and on_mismatch not in ("raise", "warn"):
            raise ArgumentError(f"on_mismatch: expected 'raise', 'warn' or a function, found {on_mismatch!r}")
        if not isinstance(at_most, (int, float)) or not 0 < at_most <= 1:
            raise ArgumentError(f"at_most: expected a share above 0 and up to 1, found {at_most!r}")
        self.model = model
        for option, given in (("reference", reference), ("intended", intended), ("derivative_of", derivative_of)):
            if not isinstance(given or {}, Mapping):
                raise ArgumentError(f"{option}: expected a dict by type, path or name, found {type(given).__name__}")
        if not isinstance(entries or (), Iterable):
            raise ArgumentError(f"entries: expected a list of modules, found {type(entries).__name__}")
        self.seed = seed_from(seed)
        self.history: deque[ModuleReport] = deque(maxlen=KEPT_REPORTS)
        self.forwards = 0  # with gradients enabled
        self._fence = Fence()
        self._due = Budget(at_most, lambda: self._fence.seconds) if every is None else regular(every)
        self._intents = Intents(ignore, intended or {}, derivative_of or {})
        self._reference = dict(reference or {})
        self._on_mismatch = on_mismatch
        self._paths = {part: path.replace("_orig_mod.", "") for path, part in model.named_modules()}
        eager = torch_internals.compiled_original(model)
        if eager is not None:
            self._paths[eager] = ""
        for key, plain in self._reference.items():
            require_callable(f"reference of {key}", plain)
            if isinstance(key, str) and key not in self._paths.values():
                raise ArgumentError(f"reference: {type(model).__name__} has no submodule {key!r}")
        # Parameters of sharded modules are gathered for a call only.
        self._copy_parameters = any(kind.__name__ == "FSDPModule" for m in self._paths for kind in type(m).__mro__)
        self._entered = list[nn.Module]()  # entries whose forward has not ended, one inside the other
        self.enabled = True
        self._began = self._ended = 0.0  # the first forward checked, and when it was detached
        self._found_any = self._warned = False
        self._verdicts = Counter[Verdict]()
        self._recording: ForwardRecording | None = None
        self._turns = defaultdict[str, Turns](Turns)  # by the path of what is entered
        self._pending = list[RecordedCall]()  # until their backward has ended
        self._queued: set[int] = set()  # backwards, by their number, at whose end a check stands
        self._handles = []
        before = ModelHook(self._fence.guard(self._before_forward))
        after = ModelHook(self._fence.guard(self._after_forward))
        for entry in [model] if entries is None else entries:
            if entry not in self._paths:
                raise ArgumentError(f"entries: {type(entry).__name__} is no part of the model")
            self._handles.append(entry.register_forward_pre_hook(before, with_kwargs=True))
            hook = entry.register_forward_hook(after, prepend=True, with_kwargs=True, always_call=True)
            self._handles.append(hook)

    def summary(self) -> MonitorSummary:
        """Counts of what was checked so far, of what was not and why, and the time it took."""
        elapsed = (self._ended or time.perf_counter()) - self._began
        bypassed = [
            f"{path or 'the model'} ({type(part).__name__})"
            for part, path in self._paths.items()
            if calls_compiled(part)
            or (type(part).__call__ is not nn.Module.__call__ and torch_internals.compiled_original(part) is None)
        ]
        return MonitorSummary(
            forwards=self.forwards,
            passed=self._verdicts[Verdict.PASSED],
            failed=self._verdicts[Verdict.FAILED],
            inconclusive=self._verdicts[Verdict.INCONCLUSIVE],
            not_applicable={reason.value: count for reason, count in self._fence.reasons.items()},
            examples={reason.value: example for reason, example in self._fence.examples.items()},
            intended={word: tuple(sorted(where)) for word, where in self._intents.settled.items()},
            never_met=tuple(self._intents.never_met),
            bypassed=tuple(bypassed),
            seconds=self._fence.seconds,
            share=self._fence.seconds / elapsed if self._began else 0.0,
        )

    def detach(self) -> MonitorSummary:
        """Remove every hook; what was recorded and not checked is let go. Warns, once, if nothing was checked."""
        self._ended = self._ended or time.perf_counter()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._stop_recording()
        self._let_go(list(self._pending))
        done = self.summary()
        if not done.checked and not done.intended and not self._warned:
            self._warned = True
            warnings.warn(f"GradientMonitor: {done}", stacklevel=2)
        return done

    def __enter__(self) -> "GradientMonitor":
        return self

    def __exit__(self, kind: object, *raised: object) -> None:
        self._warned |= kind is not None
        self.detach()

    def _before_forward(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._entered and torch_internals.running_calls(self._entered[0]) == (module is self._entered[0]):
            self._entered = []  # of a forward that was interrupted, after which no hook is called
        self._entered.append(module)
        if len(self._entered) > 1:
            return
        self._stop_recording()
        if not self.enabled or not torch.is_grad_enabled():
            return
        self._let_go([recorded for recorded in self._pending if recorded.late])
        number, self.forwards = self.forwards, self.forwards + 1
        if not self._due(number):
            return
        self._began = self._began or time.perf_counter()
        self._recording = self._fence.timed(ForwardRecording)(
            module,
            self._paths,
            number,
            turns=self._turns[self._paths[module]],
            intents=self._intents,
            fence=self._fence,
            arrived=self._arrived,
            copy_parameters=self._copy_parameters,
        )
        if self._recording is not None:
            self._recording.begin(arguments, named)

    def _after_forward(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        self._entered = self._entered[:-1]
        if self._entered or self._recording is None:
            return
        recording, self._recording = self._recording, None
        recording.remove()
        self._fence.timed(recording.close)(result)
        self._pending += recording.calls
        late = sorted({recorded.step for recorded in self._pending})[:-PENDING_FORWARDS]
        self._let_go([recorded for recorded in self._pending if recorded.step in late])
        if recording.found_any or result is None:
            self._found_any |= recording.found_any
        elif module is self.model and not self._found_any and not self._warned:
            self._warned = True
            name = type(self.model).__name__
            text = f"no torch.autograd.Function is behind what the forward of {name} returns, so nothing is checked"
            warnings.warn(f"GradientMonitor: {text}", stacklevel=2)

    def _stop_recording(self) -> None:
        """Let go of a forward that has not returned."""
        if self._recording is not None:
            self._recording.remove()
            self._recording = None

    def _let_go(self, calls: Sequence[RecordedCall]) -> None:
        for recorded in calls:
            self._pending.remove(recorded)
            self._fence.count(NotApplicable(Reason.NO_BACKWARD), recorded.name)

    def _arrived(self, recorded: RecordedCall) -> bool:
        """True if ``recorded`` waits for a backward, and this is the first that came by it."""
        if recorded not in self._pending:
            return False
        backward = torch_internals.current_backward()
        if recorded.backward is None:
            recorded.backward = backward
        if recorded.backward == backward and backward not in self._queued:
            self._queued.add(backward)
            # At the end of this backward, gradients accumulated, before it returns to the loop. A backward that
            # raises has no such end; its calls are not checked, and are let go in time.
            torch_internals.queue_after_backward(lambda: self._check_pending(backward))
        return recorded.backward == backward

    def _check_pending(self, backward: int) -> None:
        wrong = self._fence.timed(self._wrong_reports)(backward)
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

    def _wrong_reports(self, backward: int) -> list[ModuleReport]:
        """Check the calls that ``backward`` came by."""
        self._queued = set()
        ready = [recorded for recorded in self._pending if recorded.backward == backward and recorded.backward_ran]
        self._pending = [recorded for recorded in self._pending if recorded not in ready]
        # The others of the same forward wait for another backward, until the next forward begins.
        steps = {recorded.step for recorded in ready}
        for recorded in self._pending:
            recorded.late |= recorded.step in steps
        failed, parameters = list[tuple[ModuleReport, str]](), list(self.model.parameters())
        with undisturbed(parameters):
            calls = self._in_view(ready)
        for k, recorded in enumerate(calls):
            seed = self.seed + 1_000_003 * recorded.step + k
            reference = named(self._reference, recorded.path, recorded.module)
            report, reason = check_recorded(recorded, reference, self._intents, seed, parameters)
            self.history.append(report)
            self._verdicts[report.verdict] += 1
            if reason is not None:
                self._count(reason, recorded)
            if report.failures:
                failed.append((report, recorded.path))
        # Without the modules that are wrong only because, or at least also because, a part of them is.
        paths = {path for _, path in failed}
        return [report for report, path in failed if not any(p.startswith(path and f"{path}.") for p in paths - {path})]

    def _in_view(self, ready: Sequence[RecordedCall]) -> list[RecordedCall]:
        """The calls whose Functions can be seen: instead of a compiled one, those of its eager twin."""
        calls = list[RecordedCall]()
        for recorded in ready:
            if not recorded.compiled:
                calls.append(recorded)
                continue
            try:
                recorded.require_unchanged()
                turns = self._turns[f"compiled {recorded.path}"]
                calls += calls_inside(recorded, turns, self._intents, self._fence)
            except Exception as error:
                self._count(not_applicable_because(error), recorded)
        return calls

    def _count(self, reason: NotApplicable, recorded: RecordedCall) -> None:
        self._fence.count(reason, recorded.name)
        self._copy_parameters |= reason.reason in (Reason.FREED, Reason.CHANGED)  # before the next check
