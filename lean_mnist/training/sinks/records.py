"""Records: what hooks produce and sinks draw. Plain dataclasses, each with the step it belongs to and a name.

Names are paths, ``group/quantity``; the group is the section a dashboard shows the quantity in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """Something about a step of a run; its subclasses say of which kind ``value`` is."""

    step: int
    name: str
    value: Any


class Scalar(Record):
    """One number."""


class Text(Record):
    """A text, in Markdown."""


class Notice(Record):
    """A text about something that a person should know while the run goes on."""


class Image(Record):
    """A picture: uint8, ``(height, width, 3)``."""


class Epoch(Record):
    """Figures of an epoch by name, for a line that a person reads: its number, training loss, validation accuracy …"""


@dataclass(frozen=True)
class Outcome(Record):
    """Figures of a finished run by name, and its settings, for comparing runs."""

    settings: Mapping[str, Any]


class Sink:
    """Receiver of records."""

    def write(self, record: Record) -> None:
        """Take one record; a sink ignores the kinds it cannot draw."""

    def flush(self) -> Mapping[str, int]:
        """Make sure that what was written is on disk; returns the sizes of the files with that, by name."""
        return {}

    def close(self) -> None:
        """Flush, and free what is held."""
