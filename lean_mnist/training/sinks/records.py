"""Records: what hooks produce and sinks draw. Plain dataclasses, each with the step it belongs to and a name.

Names are paths, ``group/quantity``; the group is the section a dashboard shows the quantity in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Record:
    """Something about a step of a run; its subclasses say of which kind ``value`` is."""

    step: int
    name: str
    value: Any


class Scalar(Record):
    """One number."""


class Figure(Scalar):
    """One number that a run has once; a dashboard has it in a text, since a single dot is no chart."""


class Text(Record):
    """A text, in Markdown."""


class Notice(Record):
    """A text about something that a person should know while the run goes on."""


class Drawing(Record):
    """A thing to look at, which is left to dashboards: no line of ``metrics.jsonl``."""


class Image(Drawing):
    """A picture: uint8, ``(height, width, 3)``."""


class Histogram(Drawing):
    """A distribution: ``value`` is ``Counts``."""


class Counts(NamedTuple):
    """Numbers counted in K bins of equal width, from the smallest to the largest."""

    smallest: float
    largest: float
    total: float
    total_of_squares: float
    counts: Sequence[float]  # (K,)


class PrecisionRecall(Drawing):
    """Precision and recall of one class by threshold: float64, (6, T), as ``metrics.precision_recall`` makes it."""


class Embedding(Drawing):
    """Points to be projected: ``value`` is ``Points``."""


class Points(NamedTuple):
    """``n`` points in H dimensions, with pictures and labels of what they stand for."""

    vectors: npt.NDArray[np.float64]  # (n, H)
    sprites: npt.NDArray[np.uint8]  # (n, rows, columns)
    labels: Mapping[str, Sequence[str]]  # columns of n words


class Epoch(Record):
    """Figures of an epoch by name, for a line that a person reads: its number, training loss, validation accuracy …"""


@dataclass(frozen=True)
class Outcome(Record):
    """Figures of a finished run by name, and its settings, for comparing runs; ``telling`` are those to see first."""

    settings: Mapping[str, Any]
    telling: Sequence[str] = ()


class Sink:
    """Receiver of records."""

    def write(self, record: Record) -> None:
        """Take one record; a sink ignores the kinds it cannot draw."""

    def flush(self) -> Mapping[str, int]:
        """Make sure that what was written is on disk; returns the sizes of the files with that, by name."""
        return {}

    def close(self) -> None:
        """Flush, and free what is held."""
