"""Text out of files, as it may be printed: in one line, and never a command to a terminal."""

import os


def printable(text: object, limit: int = 300) -> str:
    """``text`` in one line of at most ``limit`` characters, with escapes for what a terminal would not print as such.

    Line breaks, control characters, terminal escapes, bidirectional overrides and lone surrogates become ``\\n``,
    ``\\x1b`` and the like.
    """
    start = str(text)[: limit + 1]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in start)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def shown(path: str | os.PathLike[str]) -> str:
    """``path`` as it is printed in a one-line message: quoted only when it holds a line break or the like."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def escaped(name: str) -> str:
    """``name`` as it is if it is plain ASCII, else with escapes; different names stay different."""
    return name.encode("unicode_escape").decode("ascii")
