"""``metrics.jsonl``: one record a line."""

import json
from pathlib import Path
from typing import Any

from lean_mnist.files import plain, write_atomically
from lean_mnist.reading.files import open_regular
from lean_mnist.training.sinks.log_file import LogFile
from lean_mnist.training.sinks.records import Drawing, Outcome, Record, Sink

FILE = "metrics.jsonl"


class JsonLinesSink(Sink):
    """Appends ``{"step": …, "name": …, "value": …}`` lines to a file; pictures are left to the dashboard.

    With ``resume_step``, the run goes on from there and writes what follows again: the first ``size`` bytes stay. Where
    that is not known (``None``, in a checkpoint of an earlier version) or the file is not what it was, the lines up to
    that step stay.
    """

    def __init__(self, path: Path, resume_step: int | None = None, size: int | None = None) -> None:
        keep = 0
        if resume_step is not None and path.exists():
            keep = size if size is not None and _ends_line(path, size) else _drop_lines_after(path, resume_step)
        self.file = LogFile(path, keep, lambda records: "".join(map(_line, records)).encode())

    def write(self, record: Record) -> None:
        """Append a line; none for a drawing."""
        if not isinstance(record, Drawing):
            self.file.write(record)

    def flush(self) -> dict[str, int]:
        """Make sure that the lines are on disk."""
        self.file.flush()
        return {self.file.path.name: self.file.size}

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _line(record: Record) -> str:
    line: dict[str, Any] = {"step": record.step, "name": record.name, "value": plain(record.value)}
    if isinstance(record, Outcome):
        line["settings"] = plain(record.settings)
    return json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n"


def _ends_line(path: Path, size: int) -> bool:
    with open_regular(path) as file:
        file.seek(max(0, size - 1))
        return size == 0 or file.read(1) == b"\n"


def _drop_lines_after(path: Path, step: int) -> int:
    """Keep the lines up to ``step``; returns their size."""
    kept = []
    with open_regular(path) as file:
        lines = file.read().split(b"\n")
    for line in filter(None, lines):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the line that was being written when the run was killed
    content = b"".join(kept)
    write_atomically(path, content)
    return len(content)
