"""The folder of the cache: what can be made again at any time, kept because making it takes a while."""

import os
import stat
from pathlib import Path

CACHE_VARIABLE = "LEAN_MNIST_CACHE"  # names the folder; empty: nothing is kept


def cache_folder() -> Path | None:
    """The folder of the cache, made if need be, readable by its owner alone; ``None`` where nothing can be kept.

    It is the one that the environment variable ``LEAN_MNIST_CACHE`` names, otherwise ``lean_mnist`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``. What lies there may be code that is run, so it is used only where nobody else
    could have put it: where the folder is this user's, no other may write to it, and none could put another in its
    place.
    """
    if not hasattr(os, "getuid"):  # Windows, where who may write is not in the mode
        return None
    given, base = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if given == "":
        return None
    try:
        place = Path(given or Path(base if os.path.isabs(base) else "~/.cache", "lean_mnist")).expanduser()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = place.resolve(strict=True)
        own = _is_kept_from_others(place, sticky=False) and os.stat(place).st_uid == os.getuid()
        safe = own and all(_is_kept_from_others(parent, sticky=True) for parent in place.parents)
        return place if safe and os.access(place, os.R_OK | os.W_OK | os.X_OK) else None
    except (OSError, ValueError, RuntimeError):  # a null byte in the path; no home, or a circle of links
        return None


def _is_kept_from_others(folder: Path, *, sticky: bool) -> bool:
    """True if none but this user and the system's can rename what this user has in a folder, ``sticky`` ones or not."""
    found = os.stat(folder)
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (sticky and found.st_mode & stat.S_ISVTX)
    return found.st_uid in (0, os.getuid()) and not shared
