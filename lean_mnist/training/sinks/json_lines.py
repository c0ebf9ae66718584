"""``metrics.jsonl``: one record a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lean_mnist.files import errors_named, plain, write_atomically
from lean_mnist.training.sinks.records import Image, Outcome, Record, Sink


class JsonLinesSink(Sink):
    """Appends ``{"step": …, "name": …, "value": …}`` lines to a file; pictures are left to the dashboard.

    With ``resume_step``, lines after that step are dropped first: the resumed run writes them again.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        if resume_step is not None and path.exists():
            write_atomically(path, b"".join(_lines_up_to(path, resume_step)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append a line; no picture."""
        if isinstance(record, Image):
            return
        line: dict[str, Any] = {"step": record.step, "name": record.name, "value": plain(record.value)}
        if isinstance(record, Outcome):
            line["settings"] = plain(record.settings)
        self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Make sure that the lines are on disk."""
        with errors_named(self._file.name):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines_up_to(path: Path, step: int) -> list[bytes]:
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue  # the line that was being written when the run was killed
    return kept
