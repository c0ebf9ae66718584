"""The choice of forwards to check, and of their module calls."""

import time
from collections.abc import Callable, Hashable

import torch

from lean_mnist.errors import ArgumentError

EVERY = 100  # in a group of processes, whose clocks differ


def regular(every: int | Callable[[int], bool]) -> Callable[[int], bool]:
    """The schedule of every so many, the first one included. Raises ``ArgumentError`` for what is none."""
    if callable(every):
        return every
    if not isinstance(every, int) or every < 1:
        raise ArgumentError(f"every: expected a whole number of at least 1, or a function, found {every!r}")
    return lambda number: number % every == 0


class Budget:
    """Choose forwards, the first among them, so that checks take at most a share of the time.

    Processes that train together must check the same ones, since a replay may communicate: every hundredth.
    """

    def __init__(self, at_most: float, spent: Callable[[], float]) -> None:
        self._at_most, self._spent = at_most, spent
        self._began = self._before = 0.0
        self._one_of_many = False

    def __call__(self, number: int) -> bool:
        """True if forward ``number`` (from 0, asked in order) is checked."""
        if number == 0:
            self._one_of_many = torch.distributed.is_available() and torch.distributed.is_initialized()
            self._one_of_many = self._one_of_many and torch.distributed.get_world_size() > 1
            self._began = time.perf_counter()
            return True
        if self._one_of_many:
            return number % EVERY == 0
        spent, elapsed = self._spent(), time.perf_counter() - self._began
        # The last check's time is what the next may take; the first was of several modules, so it is an upper bound.
        if spent + (spent - self._before) > self._at_most * elapsed:
            return False
        self._before = spent
        return True


class Turns:
    """Choose calls of a forward: one of every new kind, and of the others one a forward, in turn."""

    def __init__(self) -> None:
        self._checked: dict[Hashable, int] = {}  # the forward at which each call was checked last, −1 for never
        self._kinds: set[Hashable] = set()
        self._forward = 0
        self._target: Hashable = None

    def begin(self) -> None:
        """A forward is checked: choose the call that waited longest."""
        self._forward += 1
        self._target = min(self._checked, key=lambda call: self._checked[call], default=None)
        if self._target is not None:
            self._checked[self._target] = self._forward  # whether or not it comes by

    def takes(self, call: Hashable, kind: Hashable) -> bool:
        """True if ``call`` is checked in this forward. ``kind`` tells calls apart that are checked in the same way."""
        new = kind not in self._kinds
        self._kinds.add(kind)
        self._checked.setdefault(call, self._forward if new else -1)
        return new or call == self._target
