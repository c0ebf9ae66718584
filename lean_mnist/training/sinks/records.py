"""Records: what hooks produce and sinks draw. Plain dataclasses, each with the step it belongs to and a name.

Names are paths, ``group/quantity``; the group is the section a dashboard shows the quantity in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Scalar:
    """One number."""

    step: int
    name: str
    value: float


@dataclass(frozen=True)
class Text:
    """A text, in Markdown."""

    step: int
    name: str
    value: str


@dataclass(frozen=True)
class Notice:
    """Something a person should know about while the run goes on."""

    step: int
    name: str
    value: str


@dataclass(frozen=True)
class Image:
    """A picture: uint8, ``(height, width, 3)``."""

    step: int
    name: str
    value: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to, for a line a person reads: its number, training loss, validation accuracy and so on."""

    step: int
    name: str
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The run's settings and what they led to, for comparing runs."""

    step: int
    name: str
    settings: Mapping[str, Any]
    value: Mapping[str, float]


Record = Scalar | Text | Notice | Image | Epoch | Outcome


class Sink(Protocol):
    """Where records go."""

    def write(self, record: Record) -> None:
        """Take one record; a sink ignores the kinds it cannot draw."""

    def flush(self) -> None:
        """Make sure that what was written is on disk."""

    def close(self) -> None:
        """Flush, and free what is held."""
