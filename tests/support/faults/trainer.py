"""Interface of a trainer to the harness, and what must be equal after a fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol


class Trainer(Protocol):
    """A trainer to be killed. ``start`` and ``resume`` run in a child process, in ``folder`` as its present folder.

    They end as the trainer's command does: by returning, or by ``SystemExit`` with its status, with messages on
    standard error.
    """

    def start(self, folder: Path) -> None:
        """Train to the end, in an empty folder or in one where nothing was saved yet."""

    def resume(self, folder: Path) -> None:
        """Go on from what was saved; status 2 where nothing was."""

    def state(self, folder: Path) -> Mapping[str, Any]:
        """Everything that a fault must not change, by name: plain values, measured times left out."""

    def complaint(self, status: int, error: str) -> str:
        """Faults in how a command ended, by its status and what it said; nothing if it is as documented."""


def differences(expected: Any, found: Any, name: str = "") -> Iterator[str]:
    """Differences between two nests of plain values, a line each."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in [*expected, *(key for key in found if key not in expected)]:
            where = f"{name}/{key}" if name else str(key)
            if key not in found:
                yield f"{where}: missing"
            elif key not in expected:
                yield f"{where}: unexpected: {_short(found[key])}"
            else:
                yield from differences(expected[key], found[key], where)
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{name}: expected {len(expected)} entries, found {len(found)}"
        for number, (one, other) in enumerate(zip(expected, found, strict=False)):
            if one != other or type(one) is not type(other):
                yield f"{name}: entry {number}: expected {_short(one)}, found {_short(other)}"
                break
    elif expected != found or type(expected) is not type(found):
        yield f"{name}: expected {_short(expected)}, found {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
