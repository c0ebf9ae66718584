"""The ``--help`` of a command: each option with the text below its field, in groups, at most 80 columns wide."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

OTHERS = "advanced"  # the group of options that are in none
_INDENT = 22  # columns of an option, before its text


class Entry(NamedTuple):
    """An option as the help shows it."""

    name: str  # of its field
    usage: str  # as in "--hidden N ..."
    default: str  # empty where there is nothing to say
    positional: bool


def help_text(cls: type[Any], entries: Sequence[Entry], prog: str, *, everything: bool) -> str:
    """The help of the command with the options ``cls``.

    Where ``cls.GROUPS`` sorts its options, those of the first group are explained, and of the others there are but the
    names, unless ``everything`` is asked for.
    """
    width = min(80, shutil.get_terminal_size((80, 24)).columns)
    texts, arguments = field_texts(cls), [entry for entry in entries if entry.positional]
    by_title = _grouped([entry for entry in entries if not entry.positional], getattr(cls, "GROUPS", {}))
    shown = list(by_title)[: None if everything else 1]
    lines = _wrapped(f"usage: {' '.join([prog, *(entry.usage for entry in arguments), '[options]'])}", width, " " * 9)
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        lines += ["", *_wrapped(paragraph, width, "")]
    for title in (*([""] if arguments else []), *shown):
        lines += ["", *([f"{title}:"] if title else [])]
        for entry in by_title[title] if title else arguments:
            lines += _explained(entry, texts.get(entry.name, ""), width)
    if len(shown) < len(by_title):
        lines += ["", "further options, which --help-all explains:"]
    for title in list(by_title)[len(shown) :]:
        names = " ".join(entry.usage.partition(" ")[0] for entry in by_title[title])
        lines += _wrapped(f"  {title:<16}{names}", width, " " * 18)
    return "\n".join(lines)


def _grouped(entries: Sequence[Entry], groups: Mapping[str, str]) -> dict[str, list[Entry]]:
    titles = {name: title for title, names in groups.items() for name in names.split()}
    by_title: dict[str, list[Entry]] = {title: [] for title in groups}
    for entry in sorted(entries, key=lambda entry: list(titles).index(entry.name) if entry.name in titles else 0):
        by_title.setdefault(titles.get(entry.name, OTHERS if groups else "options"), []).append(entry)
    return {title: found for title, found in by_title.items() if found}


def _explained(entry: Entry, text: str, width: int) -> list[str]:
    if entry.default:
        text = f"{text.removesuffix('.')} (default: {entry.default})".lstrip()
    head, indent = f"  {entry.usage}", " " * (_INDENT + 2)
    if len(head) > _INDENT:
        return [*_wrapped(head, width, "    "), *_wrapped(indent + text, width, indent)]
    return _wrapped(f"{head:<{len(indent)}}{text}", width, indent)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    lead = text[: len(text) - len(text.lstrip())]
    # Runs of blanks, which align columns, stay; line breaks of the source do not.
    return textwrap.wrap(
        text.lstrip().replace("\n", " "), width, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False,
        break_long_words=False, replace_whitespace=False, drop_whitespace=True,
    ) or [text]  # fmt: skip


def field_texts(cls: type[Any]) -> dict[str, str]:
    """The text below each field of a dataclass and its bases, by name, in one line; none where there are no sources."""
    below = (pair for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base) for pair in _below(_body(base)))
    return {name: " ".join(inspect.cleandoc(text).split()) for name, text in below}


def _body(cls: type[Any]) -> Sequence[ast.stmt]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    except (OSError, TypeError):
        return ()
    return next(
        (node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__), ()
    )


def _below(body: Sequence[ast.stmt]) -> Iterable[tuple[str, str]]:
    for field, following in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = following.value if isinstance(following, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield field.target.id, value.value
