"""Commands as they can be typed in the environment that this process runs in, for messages that name one."""

import os
import shlex
import shutil
import sys
from pathlib import Path

SCRIPT = "lean-mnist"  # the console script, which runs every command by its name
_MODULE = "python -m "
_PACKAGE = f"{_MODULE}lean_mnist."


def typed(command: str, *arguments: str | os.PathLike[str]) -> str:
    """``command``, a program or ``python -m module``, with ``arguments``, so that it works when it is typed here.

    In an environment that is not activated programs get their path: ``.venv/bin/python -m lean_mnist.train``. Who
    started this process by ``lean-mnist`` is answered in that form.
    """
    program, *rest = shlex.split(as_started(command))
    if program == "python":
        words = [_python(), *rest]
    elif found := _script(program):
        words = [found, *rest]
    else:  # a package whose module of the same name runs it, without its script
        words = [_python(), "-m", f"{program}.main", *rest]
    return " ".join(_quoted(word) for word in [*words, *(os.fspath(argument) for argument in arguments)])


def as_started(command: str) -> str:
    """``command`` in the form in which this process was started: ``lean-mnist train`` by the script."""
    if command.startswith(_PACKAGE) and Path(sys.argv[0] if sys.argv else "").stem == SCRIPT:
        return f"{SCRIPT} {command.removeprefix(_PACKAGE)}"
    return command


def _python() -> str:
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and os.path.abspath(found) == os.path.abspath(sys.executable):
            return name
    return _near(sys.executable) if sys.executable else "python"


def _script(name: str) -> str:
    """The script ``name`` of this environment, by name where the shell finds that one; empty where there is none."""
    here = shutil.which(name, path=os.path.dirname(sys.executable or ""))
    if here is None:
        return ""
    found = shutil.which(name)
    return name if found is not None and os.path.abspath(found) == os.path.abspath(here) else _near(here)


def _near(path: str) -> str:
    """``path`` from the working folder, where it is in a folder below that; a name alone would be looked for."""
    path = os.path.abspath(path)
    try:
        below = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if below.startswith(os.pardir) or os.sep not in below else below


def _quoted(word: str) -> str:
    """``word`` for a shell, and in one line that a terminal prints as it is."""
    if not word.isprintable():
        plain = (c.isprintable() and c not in "'\\" for c in word)
        octal = ("".join(f"\\{byte:03o}" for byte in os.fsencode(c)) for c in word)
        escapes = "".join(c if as_is else o for c, as_is, o in zip(word, plain, octal, strict=True))
        return f"$'{escapes}'"
    return shlex.quote(word)
