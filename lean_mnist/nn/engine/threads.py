"""The number of threads of an engine's calls: what is asked for, or what is fastest."""

import os

from lean_mnist.nn.engine.structures import MOST_THREADS

_FIRST_PATIENCE, _LAST_PATIENCE = 8, 128  # calls between two measurements of what was not the fastest


class ThreadChoice:
    """Number of threads of each call: ``asked``, or what was fastest, measured again now and then.

    Where another program uses the machine, threads that wait for each other are slower than one. The numbers that a
    step gives do not depend on how many compute it, so that trying costs nothing but time.
    """

    def __init__(self, asked: int | None) -> None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.most = min(asked or available, MOST_THREADS)
        self._counts = [asked] if asked else [2**k for k in range(self.most.bit_length()) if 2**k <= self.most]
        self._seconds: dict[int, float] = {}  # an example, when last measured
        self._calls, self._patience, self._turn = 0, _FIRST_PATIENCE, 0

    @property
    def best(self) -> int:
        """The fastest so far."""
        return min(self._seconds, key=self._seconds.__getitem__) if self._seconds else self._counts[0]

    def next(self) -> int:
        """The number for the next call."""
        for count in self._counts:
            if count not in self._seconds:
                return count
        others = [count for count in self._counts if count != self.best]
        self._calls += 1
        if not others or self._calls < self._patience:
            return self.best
        self._calls, self._turn = 0, self._turn + 1
        return others[self._turn % len(others)]

    def took(self, threads: int, seconds: float) -> None:
        """A call took ``seconds`` an example with so many threads."""
        before = self.best if self._seconds else None
        self._seconds[threads] = seconds
        self._patience = min(2 * self._patience, _LAST_PATIENCE) if self.best == before else _FIRST_PATIENCE
