"""A loss of power: what had not been made durable by ``fsync`` is lost, in part or wholly.

The model is POSIX's, not one file system's: bytes of a file are durable once that file has been synchronised, and the
names in a folder once the folder has. Everything later is kept or lost by lot: a file ends anywhere after its durable
length, or in zeros; of the changes of names in a folder a first part is kept.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.faults.tracing import Call


@dataclass(frozen=True)
class _Change:
    """A change of a name in a folder, not yet durable, and a link to what stood there before."""

    kind: str  # made, renamed, removed
    path: Path
    source: Path | None = None
    before: Path | None = None


class Disk:
    """The durable part of ``folder``; told of each system call before it is done."""

    def __init__(self, folder: Path, stash: Path) -> None:
        self._folder, self._stash, self._number = folder, stash, 0
        self._changes: dict[Path, list[_Change]] = {}
        self._durable: dict[int, int] = {path.stat().st_ino: path.stat().st_size for path in _files(folder)}

    def note(self, call: Call) -> None:
        """Take note of a call that is about to be done."""
        path = Path(call.path)
        if not call.path or self._folder not in (path, *path.parents):
            return
        if call.name in ("fsync", "fdatasync"):
            if path.is_dir():
                self._changes.pop(path, None)
            elif path.exists():
                self._durable[path.stat().st_ino] = path.stat().st_size
        elif (call.creates or call.name.startswith("mkdir")) and not path.exists():
            self._change(_Change("made", path))
        elif call.name.startswith("rename") and path.exists():
            target = Path(call.second)
            self._change(_Change("renamed", target, path, self._kept(target)))
        elif call.name.startswith("link"):
            self._change(_Change("made", Path(call.second)))
        elif call.name.startswith(("unlink", "rmdir")) and path.exists():
            self._change(_Change("removed", path, before=self._kept(path)))
        elif path.exists() and (call.name in ("truncate", "ftruncate") or call.empties):
            node, length = path.stat().st_ino, 0 if call.empties else call.arguments[1]
            self._durable[node] = min(self._durable.get(node, 0), length)

    def lose_power(self, lot: random.Random) -> list[str]:
        """Lose what is not durable, by lot; returns what was lost."""
        lost = []
        for path in _files(self._folder):
            there = path.stat()
            durable = min(self._durable.get(there.st_ino, 0), there.st_size)
            if durable == there.st_size:
                continue
            fate = lot.choice(("kept", "cut", "cut anywhere", "zeros"))
            length = lot.randint(durable, there.st_size) if fate in ("cut anywhere", "zeros") else durable
            if fate != "kept":
                os.truncate(path, length)
                lost.append(f"{path.relative_to(self._folder)} {fate} at {length} of {there.st_size}")
            if fate == "zeros":
                os.truncate(path, there.st_size)
        for folder, changes in self._changes.items():
            keep = lot.choice((0, len(changes), lot.randint(0, len(changes))))
            for change in reversed(changes[keep:]):
                lost.append(f"{change.kind} {change.path.relative_to(self._folder)} in {folder.name}")
                self._undo(change)
        return lost

    def _change(self, change: _Change) -> None:
        self._changes.setdefault(change.path.parent, []).append(change)

    def _kept(self, path: Path) -> Path | None:
        if not path.is_file():
            return None
        self._number += 1
        kept = self._stash / str(self._number)
        os.link(path, kept)
        return kept

    def _undo(self, change: _Change) -> None:
        if change.kind in ("made", "renamed"):
            if change.path.is_dir() and change.kind == "made":
                shutil.rmtree(change.path, ignore_errors=True)
            elif change.kind == "renamed" and change.source is not None and change.path.exists():
                if change.source.parent.is_dir():
                    os.rename(change.path, change.source)
            else:
                change.path.unlink(missing_ok=True)
        if change.before is not None and not change.path.exists() and change.path.parent.is_dir():
            os.link(change.before, change.path)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
