"""The number of threads of an engine's calls: what is asked for, or what is fastest."""

import os

from lean_mnist.nn.engine.structures import MOST_THREADS

_PATIENCE, _MOST_PATIENCE = 16, 512  # calls until what is not the fastest is measured again, the more the slower it was


class ThreadChoice:
    """Number of threads of each call: ``asked``, or what was fastest, measured again now and then.

    Where another program uses the machine, threads that wait for each other are slower than one. The numbers that a
    step gives do not depend on how many compute it, so that trying costs nothing but time. Of each number the faster of
    the last two measurements counts, as one may fall into a busy moment.
    """

    def __init__(self, asked: int | None) -> None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.most = min(asked or available, MOST_THREADS)
        self._counts = [asked] if asked else [2**k for k in range(self.most.bit_length()) if 2**k <= self.most]
        self._latest: dict[int, list[float]] = {}  # seconds an example
        self._calls, self._turn = 0, 0

    def forget(self) -> None:
        """Measure all of them anew."""
        self._latest = {}

    @property
    def best(self) -> int:
        """The fastest so far."""
        return min(self._latest, key=lambda count: min(self._latest[count])) if self._latest else self._counts[0]

    def next(self) -> int:
        """The number for the next call."""
        for count in self._counts:
            if len(self._latest.get(count, ())) < 2:
                return count
        best = self.best
        others = [count for count in self._counts if count != best]
        if not others:
            return best
        other = others[self._turn % len(others)]
        slower = min(self._latest[other]) / min(self._latest[best])
        self._calls += 1
        if self._calls < min(_PATIENCE * slower * slower, _MOST_PATIENCE):
            return best
        self._calls, self._turn = 0, self._turn + 1
        return other

    def took(self, threads: int, seconds: float) -> None:
        """A call took ``seconds`` an example with so many threads."""
        self._latest[threads] = [*self._latest.get(threads, ()), seconds][-2:]
