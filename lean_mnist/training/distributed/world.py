"""Processes of a run, as the trainer sees them, and how they train one network together.

Every process (*rank*) has all of the data, draws the same batches, and takes its own contiguous part of each. A step is

    gradient of the mean loss over the own part → ``snapshot`` → the hooks' checks → ``reduce`` → clip → optimizer

so that everything the hooks see is the rank's own, and everything the optimizer sees is everybody's. A reduction is
a gather of one small message a rank (``message``: the verdict of its own checks, digests of its gradient), the sum, and
a gather of what each holds then. Whatever is found, all ranks find it, from the same messages, and stop at the same
step with the same words.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from lean_mnist.errors import ConfigError, GradientMismatch, Interrupted, LeanMnistError, RankLost
from lean_mnist.nn.parameters import ParameterSlot
from lean_mnist.training.checkpoints import content_hash
from lean_mnist.training.distributed.fault import Evidence, difference, explain, ranks
from lean_mnist.training.distributed.message import Digests, Message, bits_of, misfit, odd_ones
from lean_mnist.training.distributed.transport import ContactLost, Transport

T = TypeVar("T")
E = TypeVar("E", bound=LeanMnistError | Interrupted)
_MOST_FIELDS = 3  # named where configurations differ
_AT_WORK = "at work"  # what the writer says while the others wait for a result


class World:
    """The processes of a run: those of ``transport``, or without one this process alone, which exchanges nothing.

    What exchanges anything is called by all, in the same order.
    """

    resume_hint = ""  # the command with which a run goes on after a process was lost, once there is a checkpoint

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport = transport
        self.rank, self.size = (0, 1) if transport is None else (transport.rank, transport.size)
        self._step = 0  # the last one that was begun

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def is_writer(self) -> bool:
        """True if this process writes what the run leaves behind."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This rank's part of a global batch: the parts tile it in order, and their sizes differ by at most 1.

        Some are empty where ``total < size``; their ranks still take part in every reduction.
        """
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def require_examples(self, batch_size: int, examples: int) -> None:
        """Raise ``ConfigError`` unless every process gets an example of a full batch."""
        least = f"expected at least one example for each of the {self.size} processes, found"
        for what, count in (("--batch-size", batch_size), ("the training split", examples)):
            if count < self.size:
                raise self.report_once(ConfigError(f"{what}: {least} {count}"))

    def report_once(self, error: E) -> E:
        """Mark ``error``, which every rank is about to raise, so that the command line of one of them prints it."""
        error.reported_elsewhere = not self.is_writer
        return error

    def assert_consistent(self, what: Mapping[str, str]) -> None:
        """Raise ``ConfigError`` on every rank, naming fields and ranks, unless ``what`` is the same on all."""
        given = self.gather(dict(what))
        fields = list(dict.fromkeys(name for values in given for name in values))
        differing = [name for name in fields if len({values.get(name) for values in given}) > 1]
        if differing:
            said = "; ".join(f"{name} is {_whose(name, given)}" for name in differing[:_MOST_FIELDS])
            more = f"; and {len(differing) - _MOST_FIELDS} more" if len(differing) > _MOST_FIELDS else ""
            raise self.report_once(ConfigError(f"the processes were started differently: {said}{more}"))

    def same_weights(self, vector_P: Tensor, step: int) -> None:
        """Raise ``GradientMismatch`` on every rank unless the weights after ``step`` are equal, bit for bit, on all."""
        odd = odd_ones(self.gather(content_hash(vector_P)))
        if odd:
            teller = next(rank for rank in range(self.size) if rank not in odd)
            found = f"after step {step} the weights of {ranks(odd)} are not those of rank {teller}"
            raise self.report_once(GradientMismatch(f"{found}, though they were moved by the same gradients"))

    def prepare(self, layout: Sequence[ParameterSlot], like_P: Tensor, seed: int, *, native: bool = True) -> None:
        """Make what reductions of a flat gradient like ``like_P``, shape (P,), need; ``layout`` names its places.

        With ``native`` they are checked in C, where there is a compiler.
        """
        self._layout, self._digests = layout, Digests(seed, len(like_P), like_P.device, native=native)
        with self._contact() as transport:
            native = all(transport.all_gather_object(self._digests.in_c is not None))
            if not native:  # sums in C may round in another way than PyTorch's
                self._digests.in_c = None
            transport.share(like_P, self._digests.message_size, native=native)
            self._sent_P = transport.shared[self.rank] if transport.shared else torch.zeros_like(like_P)

    def snapshot(self, gradient_P: Tensor, step: int) -> None:
        """Copy the own gradient before it is checked, so that what is checked is what is sent."""
        self._step, self._own_digests = step, self._digests.of(gradient_P, step, copy_P=self._sent_P)

    def reduce(
        self,
        gradient_P: Tensor,
        loss: Tensor,
        examples: int,
        total: int,
        *,
        step: int,
        refusal: LeanMnistError | None = None,
        stop: bool = False,
    ) -> tuple[Tensor, bool]:
        """Replace the gradient of the mean over the own part by that over the global batch, in place.

        Args:
            gradient_P: (P,), of the mean loss over this rank's part; that of an empty part is taken as zero.
            loss: the mean over this rank's part.
            examples, total: their number in this rank's part, and in the global batch.
            step: the step's number, from 1.
            refusal: why this rank's checks refuse the step, if they do; every rank then raises an error that says so.
            stop: whether this process was asked to stop.

        Returns the mean loss over the global batch, like ``loss``, and whether any process was asked to stop. Raises
        ``refusal``, on every rank and naming whose it is; ``GradientMismatch`` where the reduced gradient is not the
        sum of the ranks' own; ``RankLost``.
        """
        assert step == self._step, "snapshot comes before reduce"
        place = difference(self._layout, self._sent_P, gradient_P, "it was", "it is") if examples else ""
        if place and refusal is None:
            refusal = GradientMismatch(
                f"gradient check failed at step {step}: the gradient was changed after it was declared, at {place}; "
                f"the step was not applied"
            )
        own = Message(step, examples, total, refusal is not None, stop, float(loss), self._own_digests)
        with self._contact() as transport:
            messages = [Message.unpacked(row) for row in transport.all_gather(own.packed())]
            if any(message.refused for message in messages):
                raise self.report_once(_combined(transport.all_gather_object(refusal))) from refusal
            weights = [message.weight for message in messages]
            own_digests = transport.weighted_sum(self._sent_P, weights, gradient_P, self._digests, step)
            digests = transport.all_gather(own_digests.flatten()).view(self.size, self._digests.chunks, -1)
            right = self._digests.match(digests, messages, self.size, gradient_P.dtype)
            if not all(right) or misfit(messages) or (bits_of(digests) != bits_of(digests[0])).any():
                evidence = Evidence(messages, digests, self._sent_P, gradient_P, self._layout)
                raise self.report_once(explain(transport, self._digests, evidence))
        # Summed in the order of the ranks, so that it is the same number everywhere.
        mean = math.fsum(message.weight * message.loss for message in messages if message.examples)
        return loss.new_tensor(mean), any(message.stop for message in messages)

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in their order. For small things, now and then."""
        if self._transport is None:
            return [value]
        with self._contact() as transport:
            return transport.all_gather_object(value)

    def on_writer(self, action: Callable[[], T]) -> T:
        """Result of ``action``, done by the writer alone; an error for people that it raises is raised by all.

        It may take as long as it likes: while it goes on, the writer tells the others every few seconds.
        """
        if self.size == 1:
            return action()
        if self.is_writer:
            with self._signs_of_life():
                outcome = _attempt(action)
            self.gather(outcome)
        else:
            outcome = self._wait_for_writer()
        result, failure = outcome
        if failure is not None:
            raise self.report_once(failure)
        return result  # type: ignore[return-value]

    def _wait_for_writer(self) -> Any:
        said: Any = _AT_WORK
        while said == _AT_WORK:
            said = self.gather(None)[0]
        return said

    @contextlib.contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Send the others a word now and then, by a thread that alone exchanges anything while this is entered."""
        assert self._transport is not None
        done, seconds, lost = threading.Event(), self._transport.beat_seconds, []

        def say() -> None:
            try:
                while not done.wait(seconds):
                    self.gather(_AT_WORK)
            except RankLost as error:
                lost.append(error)

        speaking = threading.Thread(target=say, daemon=True)
        speaking.start()
        try:
            yield
        finally:
            done.set()
            speaking.join()
        if lost:
            raise lost[0]

    def everywhere(self, action: Callable[[], T]) -> T:
        """Result of ``action`` on this rank; an error for people that it raises on any rank is raised by all."""
        if self.size == 1:
            return action()
        result, failure = _attempt(action)
        failures = self.gather(failure)
        if any(failures):
            alike = len(set(map(str, failures))) == 1
            raise self.report_once(failures[0] if alike and failures[0] else _combined(failures))
        return result  # type: ignore[return-value]

    @contextlib.contextmanager
    def _contact(self) -> Iterator[Transport]:
        assert self._transport is not None, "one process exchanges nothing"
        try:
            yield self._transport
        except ContactLost as lost:
            absent = self._transport.missing()
            who = f"{ranks(absent)} died or no longer answers" if absent else "a process died or no longer answers"
            when = f"at step {self._step}" if self._step else "before the first step"
            hint = "; the last checkpoint is whole; to go on, with any number of processes: "
            error = RankLost(f"{who} ({when}; {lost}){hint + self.resume_hint if self.resume_hint else ''}")
            # Said once, by the first of those that are left.
            error.reported_elsewhere = bool(absent) and self.rank != min(set(range(self.size)) - set(absent), default=0)
            raise error from lost


def _attempt(action: Callable[[], T]) -> tuple[T | None, LeanMnistError | Interrupted | None]:
    """Result of ``action``, or the error for people that it raises."""
    try:
        return action(), None
    except (LeanMnistError, Interrupted) as error:
        return None, error
    except OSError as error:  # a full disk, say
        return None, LeanMnistError(f"{error.filename or 'output'}: {error.strerror or error}")


def _combined(errors: Sequence[E | None]) -> E:
    """The errors of all ranks, at least one, as one of the class of the first."""
    given = [(rank, error) for rank, error in enumerate(errors) if error is not None]
    return type(given[0][1])("; ".join(f"rank {rank}: {error}" for rank, error in given))


def _whose(name: str, given: Sequence[Mapping[str, str]]) -> str:
    """``"0.1 on rank 0, 0.2 on ranks 1 and 2"``."""
    holders: dict[str, list[int]] = {}
    for rank, values in enumerate(given):
        holders.setdefault(values.get(name, "absent"), []).append(rank)
    return ", ".join(f"{value} on {ranks(numbers)}" for value, numbers in holders.items())


def from_environment(device: str, timeout: timedelta = timedelta(seconds=60)) -> World:
    """Join the group that ``WORLD_SIZE``, ``RANK``, ``LOCAL_RANK`` and ``MASTER_…`` describe; a ``World`` without them.

    ``device`` is ``cpu`` or ``cuda``; with ``cuda`` each process of a machine takes the GPU of its ``LOCAL_RANK``. One
    that has joined and says nothing for ``timeout`` counts as lost; one that dies is noticed at once.
    Raises ``ConfigError`` for variables that make no sense or too few GPUs, and ``RankLost`` if somebody does not come.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return World()
    rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise ConfigError(f"RANK: expected 0 to {size - 1}, found {rank}")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"--device cuda: expected a GPU for each process, found {torch.cuda.device_count()} "
                f"for at least {local + 1} processes on this machine"
            )
        torch.cuda.set_device(local)
    try:
        return World(Transport(Transport.meet(rank, size), rank, size, torch.device(device), timeout))
    except (ContactLost, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RankLost(f"rank {rank} could not join the other {size - 1} processes of the run: {reason}") from None


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}: expected a number, as torchrun sets it, found {text!r}") from None
