"""Places of checkpoints, by a run's name, its folders or a file; what cannot be read is not called missing."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from lean_mnist.errors import CheckpointError, nearest
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config.config import Config

CHECKPOINTS = Config.checkpoints_dir  # the folder where runs have theirs, unless told otherwise
_LAST, _RESULTS = ("last.pt", "last.previous.pt"), ("best.pt", "last.pt")


def find_checkpoint(which: str, run_name: str | None, checkpoints_dir: Path) -> Path:
    """The ``last.pt`` that ``--resume which`` means; raises ``CheckpointError`` if there is none.

    One that is gone, with the generation before it still there, counts as there.
    """
    which = which or run_name or ""
    if not which:
        found = _in_folders_of(checkpoints_dir, _LAST)
        if not found:
            raise CheckpointError(f"{checkpoints_dir}: no run to resume, expected a folder with a last.pt in it")
        return max(found, key=lambda path: path.stat().st_mtime).with_name(_LAST[0])
    places = [Path(which), *(folder / _LAST[0] for folder in (Path(which), checkpoints_dir / which))]
    for path in places:
        if _is_file(path) or (path.name == _LAST[0] and _is_file(path.with_name(_LAST[1]))):
            return path
    for folder in (Path(which), checkpoints_dir / which):
        if folder.is_dir():
            how = f"to start that run, give the command it was started with, and --run-name {folder.absolute().name}"
            nothing = f"{folder} has no last.pt yet, so there is nothing to go on from"
            raise CheckpointError(f"--resume {which}: {nothing}; {how}")
    near = nearest(which, _names(checkpoints_dir, _LAST))
    raise CheckpointError(f"--resume {which}: expected a run with {places[-1]}, found none{near}")


def checkpoint_path(which: str | Path = "", checkpoints_dir: str | Path = CHECKPOINTS) -> Path:
    """The ``best.pt`` that ``which`` means, or ``last.pt`` where none was selected.

    ``which`` is such a file, a run's name, its folder of checkpoints or of records; empty, the latest run of
    ``checkpoints_dir``. Raises ``CheckpointError``.
    """
    place, folder = Path(which), Path(checkpoints_dir)
    if os.fspath(which) and (place.suffix == ".pt" or _is_file(place)):
        return place
    if not os.fspath(which):
        found = _in_folders_of(folder, _RESULTS)
        if not found:
            raise CheckpointError(f"{shown(folder)}: no run in it, expected a folder with best.pt or last.pt")
        latest = max(found, key=lambda path: path.stat().st_mtime).parent
        return next(path for name in _RESULTS if _is_file(path := latest / name))
    own = place.absolute()
    folders = [place, folder / place, folder / own.name, own.parent.parent / CHECKPOINTS / own.name]
    for path in (each / name for each in folders for name in _RESULTS):
        if _is_file(path):
            return path
    near = nearest(printable(place.name, 60), _names(folder, _RESULTS))
    expected = f"a run, as in {shown(folder)}, its folder, or a checkpoint's file"
    raise CheckpointError(f"{shown(which)}: expected {expected}, found none{near}")


def _in_folders_of(checkpoints_dir: Path, names: Sequence[str]) -> list[Path]:
    """Files of these ``names`` in the folders of ``checkpoints_dir``."""
    try:
        with os.scandir(checkpoints_dir) as entries:
            folders = [Path(entry.path) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(checkpoints_dir, error) from None
    return [folder / name for folder in folders for name in names if os.path.isfile(folder / name)]


def _names(checkpoints_dir: Path, names: Sequence[str]) -> list[str]:
    return sorted({path.parent.name for path in _in_folders_of(checkpoints_dir, names)})


def _is_file(path: Path) -> bool:
    """True if there is a file, or what cannot pass for one; raises ``CheckpointError`` where that cannot be told."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    reason = (error.strerror if isinstance(error, OSError) else "") or printable(error)
    return CheckpointError(f"{printable(shown(path))}: expected to read it, found: {reason}")
