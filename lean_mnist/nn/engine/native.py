"""The engine for a processor: fused kernels in C, several steps a call, every batch in the same memory."""

import ctypes
import functools
import math
import time
import weakref
from collections.abc import Callable, Sequence
from ctypes import byref, c_double, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lean_mnist.chainrule.activations import LEAKY_SLOPE
from lean_mnist.data.batches import HotBatch, PlannedBatches
from lean_mnist.data.watch import LABEL_FACTOR
from lean_mnist.nn.engine.library import load_library
from lean_mnist.nn.engine.specification import first_difference, update_difference
from lean_mnist.nn.engine.structures import (
    BAD_BATCH,
    BLOCK,
    DONE,
    HELD,
    NOT_FINITE,
    SCRATCH,
    STOOD_OUT,
    SUMMED_ROWS,
    Layer,
    Network,
    UpdateRule,
    Work,
    address,
    address_from,
    pointer_to,
    source_of,
)
from lean_mnist.nn.engine.threads import ThreadChoice
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.nn.step import (
    Batch,
    HeldStep,
    Norms,
    StepChunk,
    StepEngine,
    StepResult,
    StepTape,
    gradients_of,
    layers_of,
    names_of_layers,
    put_flat_gradients,
)
from lean_mnist.nn.update import SGD, Update

HERE = Path(__file__).parent
ACTIVATIONS = ("relu", "leaky-relu", "sigmoid", "tanh", "gelu", "silu", "identity")  # as numbered in kernels.c
_FEWEST = 8  # steps of a call that tell how fast it was
_SECONDS = 0.1  # of a call, after which whoever wants to stop is heard


class Screen(Protocol):
    """A check of every step of a chunk, run in C between gradient and update."""

    function: c_void_p  # of the type Screen of step.h
    state: c_void_p
    watches_memory: bool  # whether it compares the sums that batches and updates leave

    def enter(self, step: int) -> None:
        """Get ready for a chunk that begins with step number ``step``."""

    def begin(self, step: int, steps: int) -> int:
        """Get ready for steps from number ``step`` on; returns how many of them it is ready for, 1 to ``steps``."""

    def end(self, step: int, taken: int, stood_out: bool, seconds: float) -> None:
        """So many of them were taken, screening took so many seconds, and something stood out in the next one."""

    def changed(self, step: int, block: int) -> None:
        """A block of parameters, or of momentum after them, was changed after the last step that was taken."""


def load_kernels() -> ctypes.CDLL:
    """The library of ``kernels.c``; raises :class:`~lean_mnist.nn.engine.library.CannotCompile`."""
    return load_library(HERE / "kernels.c", HERE / "step.h", HERE / "team.h")


class NativeEngine(StepEngine):
    """Computes the steps of an MLP in float32 on the processor; whatever else it is given it takes as written.

    It owns the memory of a batch (``hot``) and of the tape of its step, which hold until the next batch is made there.
    Two steps, as biases are 0 in the first, are compared with the chain rule's own lines, an update with that of
    :class:`Update`, and a chunk of two, its last step taken or held, with the same steps one by one. Where one
    differs, ``refused`` says in what, and all steps are taken as written. ``threads`` is how many compute it, ``None``
    for as many as are fastest.
    Raises :class:`~lean_mnist.nn.engine.library.CannotCompile`.
    """

    def __init__(
        self,
        parameters: FlatParameters[MLP],
        update: Update,
        stop_requested: Callable[[], bool],
        hot: HotBatch,
        threads: int | None = None,
    ) -> None:
        super().__init__(functools.partial(put_flat_gradients, parameters), update, stop_requested)
        self._library = load_kernels()
        self._parameters, self._hot, self._refused = parameters, hot, ""
        self._compared, self._compared_chunk = 0, 0  # steps, and those of the longest chunk that was compared
        self.threads = ThreadChoice(threads)
        self._tapes: dict[int, StepTape] = {}  # by the number of examples
        self._last: StepTape | None = None
        self.screen: Screen | None = None
        network, capacity = parameters.network, len(hot.labels)

        def memory(columns: int) -> Tensor:
            return torch.zeros(capacity, columns)

        sizes, pairs = network.sizes, network.parameter_pairs()
        self._inputs = [hot.features, *(memory(width) for width in sizes[1:-1])]
        self._outputs, self._d_outputs = ([memory(width) for width in sizes[1:]] for _ in range(2))
        self._d_inputs = [None, *(memory(width) for width in sizes[1:-1])]
        self._loss, self._mean_loss = torch.zeros(capacity), torch.zeros(())
        self._layers = (Layer * len(pairs))(
            *(
                Layer(
                    sizes[i], sizes[i + 1], address(weight), address(bias), address(weight.grad),
                    None if bias is None else address(bias.grad), address(self._inputs[i]), address(self._outputs[i]),
                    address(self._d_outputs[i]), address(self._d_inputs[i]),
                )
                for i, (weight, bias) in enumerate(pairs)
            )
        )  # fmt: skip
        names = (name for pair in names_of_layers(pairs) for name in pair)
        self._names = [(name, 2 * i) for i, name in enumerate(names) if name is not None]
        longest = max(16, capacity, *sizes)
        self._scratch = torch.zeros(self.threads.most, longest * SCRATCH)
        self._marks = torch.zeros(-(-sizes[0] // 64), capacity, dtype=torch.int64)
        self._weight_sums = torch.zeros(-(-sizes[0] // SUMMED_ROWS), sizes[1])
        self.network = Network(
            len(pairs), ACTIVATIONS.index(network.activation), capacity, self._layers, address(hot.labels),
            address(self._loss), LEAKY_SLOPE, network.label_smoothing, network.logit_penalty,
            hot.background, address(self._marks), address(self._weight_sums), address(self._scratch), longest,
        )  # fmt: skip
        blocks = -(-len(parameters.gradient) // BLOCK)
        self._squares, self._sums = torch.zeros(blocks, dtype=torch.float64), torch.zeros(2 * blocks, dtype=torch.int32)
        self.feature_sums = torch.zeros(capacity, dtype=torch.int32)
        self.sizes, self.capacity, self.has_bias = sizes, capacity, pairs[0][1] is not None
        self._library.crew_new.restype, self._library.screen_once.restype = c_void_p, c_double
        self._library.changed_block.restype = c_int64
        self._crew = c_void_p(self._library.crew_new(c_int64(self.threads.most)))
        weakref.finalize(self, self._library.crew_end, self._crew)

    @property
    def screens(self) -> bool:
        """True with a screen."""
        return self.screen is not None and not self._refused

    @property
    def refused(self) -> str:
        """The first difference from what the engine stands for."""
        return self._refused

    hot = True

    def kept_tapes(self) -> list[StepTape]:
        """A copy of the tape of the latest step, if there was one."""
        return [] if self._last is None else [self._last.copied()]

    def update(self, rate: float) -> None:
        """Move the parameters by the present gradient, in C where that can be: it rounds as in a chunk."""
        rule = self._rule()
        if rule is None or self._refused:
            super().update(rate)
            return
        self._update.optimizer.param_groups[0]["lr"] = rate
        self._apply(rule, rate)
        if self._update.moved is not None:
            self._update.moved()

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Put the gradient of the mean loss over all examples of ``batches`` into the flat gradient."""
        if len(batches) != 1 or self._refused or not self._hot.holds(batches[0]):
            return super().step(batches)
        losses = torch.zeros(1, dtype=torch.float64)
        self.network.examples = len(batches[0][1])
        work = Work(network=pointer_to(self.network), steps=1, losses=address(losses))
        # Steps by themselves are measured where there are no others: with another optimizer, or several processes.
        threads, started = self.threads.best if self._compared_chunk else self.threads.next(), time.perf_counter()
        self._call(work, threads)
        if not self._compared_chunk:
            self.threads.took(threads, (time.perf_counter() - started) / self.network.examples)
        if work.status == BAD_BATCH:
            raise IndexError("a label is none of the classes")
        tape, module = self._tape(len(batches[0][1])), self._parameters.network
        result = StepResult(losses.float()[0], gradients_of(module), [tape])
        if self._compared < 2:
            self._compared += 1
            self._refused = first_difference(result, layers_of(module), module)
            self._refused = self._refused or update_difference(self._apply, self._rule(), self._update)
            if self._refused:
                return super().step(batches)
        self._last = tape
        return result

    def chunk(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int = 1, *, hold: bool = False
    ) -> StepChunk:
        """Take one step a batch, updates included, in as few calls as can be."""
        rule = self._rule()
        if not isinstance(batches, PlannedBatches) or not batches.by_pixel or self._refused or rule is None:
            count = len(rates) - hold
            # Nothing screens steps as they are written but whoever looks at them one by one.
            return super().chunk(batches[:count], rates[:count]) if self.screen is None else StepChunk([], [], False)
        if self._compared_chunk < min(2, len(batches)):
            # Of steps of which one is not finite, nothing is said: they are looked at one by one.
            if not self._compare_chunk(batches[:2], rates[:2], rule):
                return StepChunk([], [], stopped=False)
            self.threads.forget()
            return self.chunk(batches, rates, first, hold=hold)
        # No tensors: their first operations after a call in C take longer than all that stands here.
        losses, rate_of = (c_double * len(batches))(), (c_float * len(batches))(*rates)
        source = source_of(batches)
        if self.screen is not None:
            self.screen.enter(first)
        if self.screen is not None and self.screen.watches_memory:
            assert batches.resting is not None
            source.image_sums, source.label_factor = address(batches.resting.sums), LABEL_FACTOR
            source.feature_sums, rule.sums = address(self.feature_sums), address(self._sums)
            self._library.note_sums(byref(rule))
        taken, stopped, work = 0, False, Work()
        while taken < len(batches) and not stopped:
            rest = batches[taken:]
            count = len(rest) if self.screen is None else self.screen.begin(first + taken, len(rest))
            source.order, source.remaining = address_from(batches.order, rest.begin), rest.end - rest.begin
            source.noted = address_from(batches.noted, rest.begin) if source.image_sums else None
            work = Work(
                network=pointer_to(self.network), source=pointer_to(source), update=pointer_to(rule), steps=count,
                seconds=_SECONDS, losses=ctypes.addressof(losses) + taken * ctypes.sizeof(c_double),
                rates=ctypes.addressof(rate_of) + taken * ctypes.sizeof(c_float),
            )  # fmt: skip
            if self.screen is not None:
                work.screen, work.screen_state = self.screen.function, self.screen.state
            work.hold = hold and count == len(rest)
            threads, started = self.threads.next(), time.perf_counter()
            self._call(work, threads)
            seconds = time.perf_counter() - started
            if work.taken >= _FEWEST:
                self.threads.took(threads, seconds / rest.examples(work.taken + (work.status == HELD)))
            if work.taken:
                self._update.optimizer.param_groups[0]["lr"] = rates[taken + work.taken - 1]
            if self.screen is not None:
                self.screen.end(first + taken, work.taken, work.status == STOOD_OUT, work.screen_seconds)
            taken += work.taken
            stopped = work.taken > 0 and self._stop_requested()  # asked once a step, or less often
            if work.status != DONE:
                break
        if self.screen is not None and self.screen.watches_memory and work.status != STOOD_OUT:
            block = self._library.changed_block(byref(rule))
            if block >= 0:
                self.screen.changed(first + taken - 1, block)
        held = work.status == HELD and not stopped
        # A step that was begun and neither taken nor held has left its own values in the tape.
        latest = batches.examples(taken + held) - batches.examples(taken + held - 1)
        self._last = self._tape(latest) if held or (taken and work.status == DONE) else None
        if taken and self._update.moved is not None:
            self._update.moved()
        result = None
        if held:
            c_float.from_address(self._mean_loss.data_ptr()).value = losses[taken]
            result = HeldStep(self._mean_loss, self._tape(latest))
        return StepChunk(losses[:taken], [], stopped, work.status == NOT_FINITE, result)

    def norms(self) -> Norms:
        """As of :class:`Step`, in C: of a step that was held and of one that was taken by itself alike."""
        found = (c_double * (4 * len(self._layers)))()
        self._library.norms(byref(self.network), found)
        return [(name, found[i + 1], found[i]) for name, i in self._names]

    def holds(self, tape: StepTape) -> bool:
        """True if this is the tape of a step that was computed here last."""
        return tape is self._last

    def screened(self, function: c_void_p, state: c_void_p) -> float:
        """The result of a function of the type Screen on the step now in the tape."""
        found: float = self._library.screen_once(function, state, byref(self.network), None)
        return found

    def _compare_chunk(self, batches: PlannedBatches, rates: Sequence[float], rule: UpdateRule) -> bool:
        """Compare a chunk with its steps one by one, bit for bit, and take none; ``False`` if one is not finite.

        It is computed twice: with its last step taken, and with that one held.
        """
        assert isinstance(self._update.optimizer, SGD)
        resting = [self._parameters.vector.data, *self._update.optimizer.momentum]
        own = [self._hot.features, self._hot.labels, self._loss, self._parameters.gradient, *resting]
        before, losses = [tensor.clone() for tensor in resting], torch.zeros(3, len(batches), dtype=torch.float64)
        held: list[Tensor] = []
        for i, rate in enumerate(rates):
            losses[0, i] = self.step([batches[i]]).loss
            if self._refused:
                return True
            held = [tensor.clone() for tensor in own]
            self._apply(rule, rate)
        taken = [tensor.clone() for tensor in own]
        rate_of = torch.tensor(rates, dtype=torch.float32)
        for expected, values, status in ((taken, losses[1], DONE), (held, losses[2], HELD)):
            for tensor, value in zip(resting, before, strict=True):
                tensor.copy_(value)
            work = Work(
                network=pointer_to(self.network), source=pointer_to(source_of(batches)), update=pointer_to(rule),
                steps=len(batches), seconds=math.inf, losses=address(values), rates=address(rate_of),
                hold=status == HELD,
            )  # fmt: skip
            self._call(work, self.threads.most)
            same = work.status == status and work.taken == len(batches) - (status == HELD)
            same = same and all(map(torch.equal, own, expected)) and torch.equal(values.float(), losses[0].float())
            for tensor, value in zip(resting, before, strict=True):
                tensor.copy_(value)
            if not same and work.status not in (DONE, HELD):
                return False
            if not same:
                self._refused = "steps of a chunk are not those that it has one by one"
                break
        self._compared_chunk = len(batches)
        return True

    def _apply(self, rule: UpdateRule, rate: float) -> None:
        self._library.apply_update(byref(rule), c_float(rate))

    def _call(self, work: Work, threads: int) -> None:
        self._library.crew_take_steps(self._crew, byref(work), c_int64(threads))

    def _rule(self) -> UpdateRule | None:
        """The update that C makes: that of :class:`SGD`, once it has its momentum; ``None`` for any other."""
        optimizer, flat = self._update.optimizer, self._parameters
        if not isinstance(optimizer, SGD):
            return None
        momentum = optimizer.momentum_from_start()
        clip = self._update.clip_norm
        return UpdateRule(
            address(flat.vector.data), address(flat.gradient), address(momentum), len(flat.gradient),
            optimizer.rule["momentum"], optimizer.rule["weight_decay"], math.inf if clip is None else clip,
            optimizer.rule["nesterov"], address(self._squares),
        )  # fmt: skip

    def _tape(self, examples: int) -> StepTape:
        if examples not in self._tapes:

            def of(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
                return [None if tensor is None else tensor[:examples] for tensor in tensors]

            self._tapes[examples] = StepTape(
                self._hot.labels[:examples], 1.0, None, of(self._inputs), of(self._outputs),  # type: ignore[arg-type]
                of(self._d_outputs), of(self._d_inputs), self._loss[:examples],
            )  # fmt: skip
        return self._tapes[examples]
