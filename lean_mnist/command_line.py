"""Command lines: a frozen dataclass a command, one line an error, and the exit status.

Options are read by ``argparse``, whose errors name the option; the text of each for ``--help`` stands below its field.
"""

import argparse
import atexit
import contextlib
import dataclasses
import gc
import io
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from lean_mnist.errors import ConfigError, Interrupted, LeanMnistError, is_out_of_memory, nearest
from lean_mnist.interrupts import EndedAtOnceWhileImporting
from lean_mnist.invocation import as_started
from lean_mnist.reading.text import printable

# In the annotation of a field, as in ``Annotated[str, POSITIONAL]``:
POSITIONAL = "positional"  # an argument rather than an option
OR_NONE = "or none"  # of several values: the option may stand without any
_HELP = {"-h", "--help", "--help-all"}
_LONGEST_LINE = 4000  # characters of an error
T = TypeVar("T")


class Metavar(str):
    """In the annotation of a field: what the help calls its value, as in ``Annotated[str, Metavar("RUN")]``."""


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a text"), Path: (Path, "a path"), int: (int, "a whole number"), float: (float, "a number"),
}  # fmt: skip


def parse(cls: type[T], arguments: Sequence[str], *, prog: str, default: T | None = None) -> T:
    """``arguments`` as an instance of the dataclass ``cls``, with the fields of ``default`` where they say nothing.

    A field is an option, or an argument where its type is marked with ``POSITIONAL``. Types: bool, int, float, str,
    Path, Literal of strings, tuples of any number of these, and each of them or ``None``. Raises ``ConfigError``, one
    line with the nearest option or choice; ``--help`` and ``--help-all`` print and exit.
    """
    hints = get_type_hints(cls, include_extras=True)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    fields = {name: _Kind.of(hints[name]) for name in defaults}
    if asks_for_help(arguments):
        from lean_mnist.command_help import Entry, help_text

        values = {name: getattr(default, name, value) for name, value in defaults.items()}
        entries = [Entry(n, k.usage(n, values[n]), k.shown(values[n]), k.positional) for n, k in fields.items()]
        print(help_text(cls, entries, as_started(prog), everything="--help-all" in arguments))
        sys.exit(0)
    given, unknown = _read(fields, arguments)
    if unknown:
        option = unknown[0].partition("=")[0]
        if not option.startswith("-"):
            raise ConfigError(f"{option!r}: unexpected argument; --help lists the options")
        options = ["--help", *(option_name(name) for name, kind in fields.items() if not kind.positional)]
        raise ConfigError(f"{option}: no such option{nearest(option, options)}; --help lists them")
    if default is not None:
        return dataclasses.replace(default, **given)  # type: ignore[type-var]
    for missing in (name for name, value in defaults.items() if value is dataclasses.MISSING and name not in given):
        wanted = [kind.usage(name, dataclasses.MISSING) for name, kind in fields.items() if kind.positional]
        usage = " ".join([as_started(prog), *wanted, "[options]"])
        raise ConfigError(f"{missing}: expected, found none; usage: {usage}")
    return cls(**given)


def refuse(arguments: Any, names: Iterable[str], why: str) -> None:
    """Raise ``ConfigError`` if one of these options was given, so that none is silently without effect."""
    for name in names:
        if getattr(arguments, name) != getattr(type(arguments), name):
            raise ConfigError(f"{option_name(name)}: {why}")


class _Kind(NamedTuple):
    """Conversion of the texts behind an option to the value of its field."""

    type: Any  # of the value, or of each value of a tuple
    several: bool = False
    optional: bool = False
    positional: bool = False
    or_none: bool = False  # whether a tuple may be of no values
    metavar: str = ""  # of the value in the help; made from its type and name if empty

    @classmethod
    def of(cls, hint: Any) -> "_Kind":
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            metavar = next((argument for argument in arguments if isinstance(argument, Metavar)), "")
            positional, or_none = POSITIONAL in arguments, OR_NONE in arguments
            return cls.of(arguments[0])._replace(positional=positional, or_none=or_none, metavar=metavar)
        if origin in (Union, types.UnionType):
            (inner,) = (cls.of(argument) for argument in arguments if argument is not type(None))
            return inner._replace(optional=True)
        return cls.of(arguments[0])._replace(several=True) if origin is tuple else cls(hint)

    @property
    def arguments(self) -> str | None:
        """Number of texts behind the option, in the words of ``argparse``; ``None`` is one."""
        return ("*" if self.or_none else "+") if self.several else None

    def usage(self, name: str, default: Any) -> str:
        """The option of the field ``name`` as its help shows it: ``--hidden N ...``."""
        if self.type is bool:
            return f"--[no-]{option_name(name)[2:]}" if default is True else option_name(name)
        own = "|".join(get_args(self.type)) or {int: "N", float: "X"}.get(self.type, name.rpartition("_")[2].upper())
        value = self.metavar or (name.upper() if self.positional else own)
        if self.several:
            value = f"[{value} ...]" if self.or_none else f"{value} ..."
        if self.positional:
            return f"[{value}]" if self.optional else value
        return f"{option_name(name)} {value}"

    def shown(self, value: Any) -> str:
        """The default ``value`` as the help shows it; empty where there is nothing to say."""
        if value is None or value is dataclasses.MISSING or value == () or value == "" or value is False:
            return ""
        if value is True:
            return "yes"
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    def read(self, text: str) -> Any:
        """One value; raises ``argparse.ArgumentTypeError``."""
        if self.optional and (text == "None" or (text == "auto" and self.metavar.endswith("|auto"))):
            return None
        if get_origin(self.type) is Literal:
            choices = get_args(self.type)
            if text not in choices:
                expected = f"expected one of {', '.join(choices)}"
                raise argparse.ArgumentTypeError(f"{expected}, found {text[:200]!r}{nearest(text, choices)}")
            return text
        read, what = _READERS[self.type]
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {what}, found {text[:200]!r}") from None


def _read(fields: Mapping[str, _Kind], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The fields that ``arguments`` give, and the arguments that mean nothing."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for name, kind in fields.items():
        if kind.positional:
            parser.add_argument(name, type=kind.read, nargs="*" if kind.several else "?", default=None)
        elif kind.type is bool:
            parser.add_argument(option_name(name), dest=name, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(option_name(name), dest=name, type=kind.read, nargs=kind.arguments)
    try:
        # The second takes the texts of one argument from between options, too.
        several = any(kind.positional and kind.several for kind in fields.values())
        read = parser.parse_known_intermixed_args if several else parser.parse_known_args
        found, unknown = read([_with_hyphens(argument) for argument in arguments])
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error.argument_name}: {error.message}") from None
    values = vars(found)
    for name, kind in fields.items():
        if kind.positional and values.get(name) in (None, []):
            values.pop(name, None)
        elif kind.several and name in values:
            values[name] = None if values[name] == [None] else tuple(values[name])
    return values, unknown


def asks_for_help(arguments: Sequence[str]) -> bool:
    """True if ``--help`` is among the arguments, or ``--help-all``."""
    return not _HELP.isdisjoint(arguments)


def option_name(name: str) -> str:
    """``--batch-size`` for ``batch_size``."""
    return "--" + name.replace("_", "-")


def arguments_of(name: str, value: Any) -> list[str]:
    """The arguments that give the field ``name`` this value."""
    option = option_name(name)
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, (list, tuple)):
        return [option, *map(str, value)]
    return [f"{option}={value}"] if str(value).startswith("-") else [option, str(value)]


def _with_hyphens(argument: str) -> str:
    """``--batch_size=8`` as ``--batch-size=8``."""
    name, equals, value = argument.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and exit with its status: errors for people are one line on standard error, no trace."""
    atexit.register(gc.freeze)  # at exit no memory has to be found that is given back anyway
    with EndedAtOnceWhileImporting():
        _run(main)


@contextlib.contextmanager
def importing_pytorch() -> Iterator[None]:
    """Keep the garbage collector from what is imported inside, of which nothing is garbage, then and later.

    It would look through all of PyTorch again and again, half a second in all.
    """
    if "torch" in sys.modules:
        yield
        return
    # Large tensors in large pages: the images of a batch lie anywhere, and most of fetching one was finding its page.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _run(main: Callable[[], None]) -> None:
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
        _fail(f"{printable(error.filename or 'output')}: {error.strerror or error}", 2)
    except RecursionError:
        _fail("what was given is nested too deeply", 2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("out of memory", 2)


def _fail(message: str, status: int) -> None:
    line = printable(message, _LONGEST_LINE)
    with contextlib.suppress(OSError):  # a terminal that is gone
        sys.stderr.write(f"{'' if status == Interrupted.exit_status else 'error: '}{line}\n")
        sys.stderr.flush()
    sys.exit(status)
