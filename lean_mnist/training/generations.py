"""``best.pt`` and ``last.pt`` of a run: bound to each other by hash, each with the generation before it.

``last.pt`` holds the hash of the ``best.pt`` it goes with. A new best is written together with the next ``last.pt``:
first as ``best.next.pt``, then ``last.pt``, then it gets its name. What had the names before goes on as
``best.previous.pt`` and ``last.previous.pt``. So at every instant both generations of ``last.pt`` have their best in
the folder, and a damaged ``last.pt`` can be done without.
"""

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lean_mnist.errors import CheckpointError
from lean_mnist.files import errors_named, keep_as, write_atomically
from lean_mnist.reading.files import open_regular
from lean_mnist.training.checkpoints import packed, read_checkpoint, read_with_hash, write_checkpoint
from lean_mnist.training.state import RunState

LAST, LAST_PREVIOUS = "last.pt", "last.previous.pt"
ROLLBACK = "rollback.pt"  # the run at its last end of an epoch, where it may have to return to that
BEST, BEST_NEXT, BEST_PREVIOUS = "best.pt", "best.next.pt", "best.previous.pt"


def read_last(path: Path) -> tuple[dict[str, Any], Path, str]:
    """Content of the ``last.pt`` at ``path``, or of the generation before it where it is damaged; raises its error.

    With it come the file that it is from, and a line that says so (empty if it is from ``path``).
    """
    try:
        return read_checkpoint(path), path, ""
    except CheckpointError as error:
        previous = path.with_name(LAST_PREVIOUS)
        try:
            if path.name != LAST:
                raise error
            content = read_checkpoint(previous)
        except CheckpointError:
            raise error from None
        what = "is damaged" if path.exists() else "is gone"
        return content, previous, f"{path} {what}; going on from {previous}, step {content['metrics']['step']}"


class Generations:
    """The checkpoints in ``folder``, which is locked while this writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best_sha256: str | None = None  # content hash of the best checkpoint, where there is one
        self._staged: bytes | None = None  # a best checkpoint that no last.pt goes with yet
        self._best: BinaryIO | None = None  # best.pt, open, because a deleted file can be read as long as it is

    def adopt(self, content: Mapping[str, Any], source: Path) -> None:
        """Go on from the ``last.pt`` with this ``content``, read from ``source``; the files get their names again.

        Raises ``CheckpointError`` where its best checkpoint is not there, or another's in its place.
        """
        best, training = self.folder / BEST, content["training"]
        expected = training.get("best_sha256")
        if "best_sha256" not in training and content["metrics"]["best"] is not None:  # of an earlier version
            expected = _hash_of(best)
        places = [self.folder / name for name in (BEST, BEST_NEXT, BEST_PREVIOUS)]
        place = next((place for place in places if expected is not None and _hash_of(place) == expected), None)
        if expected is not None and place is None:
            found = f"one with {_hash_of(best)[:12]}…" if best.exists() else "none"
            wanted = f"the checkpoint that {source.name} goes with, with the hash {expected[:12]}…"
            raise CheckpointError(f"{best}: expected {wanted}, found {found}")
        if source == self.folder / LAST_PREVIOUS:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.folder / LAST, self.folder / "last.damaged.pt")
            keep_as(source, self.folder / LAST)
        if place is not None and place.name == BEST_NEXT:
            self._promote()
        elif place is not None and place.name == BEST_PREVIOUS:
            keep_as(best, self.folder / BEST_NEXT)  # the last.pt that it goes with may still be there
            keep_as(place, best)
        self.best_sha256 = expected
        self._hold_best()

    def stage_best(self, content: dict[str, Any]) -> None:
        """Take the best checkpoint so far, to be written with the next ``last.pt``."""
        self._staged, self.best_sha256 = packed(content)

    def save_last(self, content: dict[str, Any]) -> None:
        """Write ``last.pt``, and the best checkpoint if there is a new one; raises ``OSError``, naming one of them."""
        if self._staged is not None:
            with errors_named(str(self.folder / BEST)):
                write_atomically(self.folder / BEST_NEXT, self._staged)
        self.write(LAST, content, previous=self.folder / LAST_PREVIOUS)
        if self._staged is not None:
            self._promote()
            self._hold_best()
            self._staged = None
        (self.folder / BEST_NEXT).unlink(missing_ok=True)

    def write(self, name: str, content: dict[str, Any], *, previous: Path | None = None) -> None:
        """Write ``content`` as the file ``name``, bound to the best checkpoint so far."""
        content = {**content, "training": {**content["training"], "best_sha256": self.best_sha256}}
        write_checkpoint(self.folder / name, content, previous=previous)

    def save_anew(self, content: dict[str, Any]) -> None:
        """``save_last`` into a folder that was deleted and made again."""
        if self._staged is None and self._best is not None:
            self._best.seek(0)
            self._staged = self._best.read()
        self.save_last(content)

    def _promote(self) -> None:
        best = self.folder / BEST
        with errors_named(str(best)):
            keep_as(best, self.folder / BEST_PREVIOUS)
            os.replace(self.folder / BEST_NEXT, best)

    def _hold_best(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._best = open_regular(self.folder / BEST)

    def close(self) -> None:
        """Close what is open."""
        if self._best is not None:
            self._best.close()
            self._best = None

    def read_best(self, state: RunState) -> dict[str, Any] | None:
        """The checkpoint that validation selected; ``None`` where none was. Raises ``CheckpointError``."""
        if state.best is None:
            return None
        best = self.folder / BEST
        content, found, _ = read_with_hash(best)
        if found != self.best_sha256 or content["metrics"]["step"] != state.best.step:
            raise CheckpointError(f"{best}: expected the checkpoint of step {state.best.step}, found another")
        return content

    @functools.cached_property
    def last(self) -> dict[str, Any]:
        """Content of ``last.pt``, read when first asked for, at the end of training."""
        return read_checkpoint(self.folder / LAST)

    def enter_test(self, state: RunState, best: dict[str, Any] | None, counts: dict[str, Any]) -> dict[str, Any]:
        """Enter an evaluation of the test split, with these ``counts``, into both; returns the metrics.

        They are those of the checkpoint that was evaluated: ``best``, or the last where none was selected.
        """
        last = self.last
        for content in filter(None, (last, best)):
            content["metrics"] |= looks_of(state)
        last["training"]["state"] = state.to_dict()
        if best is not None:
            best["metrics"]["test"] = counts
            self.stage_best(best)
        self.save_last(last)
        metrics: dict[str, Any] = (best or last)["metrics"]
        return metrics

    def end(self, logs: Mapping[str, int]) -> None:
        """Note in ``last.pt`` that the run was summed up, and its log files ended with these sizes."""
        self.last["training"] |= {"logs": dict(logs), "ended": True}
        self.save_last(self.last)


def looks_of(state: RunState) -> dict[str, Any]:
    """Evaluations of the test split, as the metrics of a checkpoint have them."""
    return {"test_looks": state.test_looks, **({"adaptive": True} if state.adaptive else {})}


def _hash_of(path: Path) -> str:
    """Content hash of the checkpoint at ``path``; empty where there is none that is whole."""
    try:
        return read_with_hash(path)[1]
    except CheckpointError:
        return ""
