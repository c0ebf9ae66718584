"""What the commands share: reading arguments with tyro, one line an error, and the exit status."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lean_mnist.errors import ConfigError, Interrupted, LeanMnistError, nearest

T = TypeVar("T")


def parse(cls: type[T], arguments: Sequence[str], *, prog: str, default: T | None = None) -> T:
    """``arguments`` as an instance of the dataclass ``cls``, with the fields of ``default`` where they say nothing.

    Raises ``ConfigError``, one line with the nearest match, where tyro would print a box; ``--help`` prints and exits.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(cls, args=list(arguments), prog=prog, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_one_line(box.getvalue(), cls)) from None


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and exit with its status: errors for people are one line on standard error, no trace."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character shows a question mark for it
        sys.stdout.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()
    except (LeanMnistError, Interrupted) as error:
        if error.reported_elsewhere:
            sys.exit(error.exit_status)
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted", Interrupted.exit_status)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 2)


def _fail(message: str, status: int) -> None:
    sys.stderr.write(f"{'' if status == Interrupted.exit_status else 'error: '}{message}\n")
    sys.exit(status)


def _one_line(box: str, cls: type) -> str:
    """The message inside tyro's box, with the nearest match for a misspelt option or choice."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # The title stands in the box's upper edge, or, where the encoding lacks box characters, above a rule of its own.
    lines = [line.strip("│ ").strip() for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    blocks = re.split(r"^[─-]+$", "\n".join(lines), flags=re.MULTILINE)
    message = " ".join(blocks[0 if plain.startswith("╭") else min(1, len(blocks) - 1)].split())
    if unknown := re.match(r"Unrecognized options: (\S+?)(,|$)", message):
        option = unknown[1].split("=")[0]
        if not option.startswith("-"):
            return f"{option!r}: unexpected argument; --help lists the options"
        known = ["--" + name.replace("_", "-") for name in getattr(cls, "__dataclass_fields__", {})]
        return f"{option}: no such option{nearest(option, known)}; --help lists them"
    if choice := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", message):
        choices = re.findall(r"'([^']*)'", choice[3])
        return f"{choice[2]}: expected one of {', '.join(choices)}, found {choice[1]!r}{nearest(choice[1], choices)}"
    if value := re.match(r"Error parsing (\S+): (.*)", message):
        reason = value[2].split("Got errors:")[0].strip()
        reason = re.sub(
            r"no type matching (.*) could be instantiated from \[(.*)\]\.", r"expected \1, found \2", reason
        )
        reason = re.sub(r"Could not find valid parse for arguments: \[(.*)\]", r"cannot read \1", reason)
        # A dataclass that refuses its fields names the option itself.
        return f"{value[1]}: {reason}" if value[1].startswith("-") else reason
    if missing := re.match(r"Missing .*: ([A-Z]+|--\S+)", message):
        return f"{missing[1].lower()}: expected, found none; --help says more"
    return message or "the arguments could not be read"
