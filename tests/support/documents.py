"""Blocks of code in the documentation, and their outputs beside what was printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COMMENT = re.compile(r"<!-- (not run|needs): (.*?) -->")
_COMMAND = re.compile(
    r"^(?:\$ )?((?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python3?|torchrun|pip|make|bash|tensorboard|lean-mnist)\b.*)$"
)
_NUMBER = re.compile(r"[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: str
    line: int
    language: str  # "console" for commands with what they print, "text" for what is printed alone
    text: str
    comments: tuple[tuple[str, str], ...]  # of the lines above it: ("not run", why), ("needs", package)

    @property
    def name(self) -> str:
        """Document and line."""
        return f"{self.document}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """The reason why it is not run, from the comment above it."""
        return dict(self.comments).get("not run")

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Commands of a console block, each with the lines that it prints."""
        steps: list[tuple[str, list[str]]] = []
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            if found := _COMMAND.match(line) or re.match(r"^\$ (.*)$", line):
                steps.append((found[1], []))
            elif steps:
                steps[-1][1].append(line)
        return steps


def documents() -> list[Path]:
    """All documents that people write, the generated pages of the site left aside."""
    ours = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")]
    return sorted([*ours, ROOT / "proofs" / "README.md"])


def blocks(path: Path) -> list[Block]:
    """The fenced and the indented blocks of a document, in order."""
    return list(_blocks(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))


def _blocks(document: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    comments: list[tuple[str, str]] = []
    index = 0
    while index < len(lines):
        line, start = lines[index], index
        if fence := re.match(r"^(\s*)(`{3,}|:{3,})(\S*)", line):
            index += 1
            while index < len(lines) and lines[index].strip() != fence[2]:
                index += 1
            language = fence[3]
            if not language.startswith("{"):
                body = "\n".join(each[len(fence[1]) :] for each in lines[start + 1 : index])
                yield Block(document, start + 1, language, body, tuple(comments))
            comments = []
        elif line.startswith("    ") and start and not lines[start - 1].strip():
            while index + 1 < len(lines) and (lines[index + 1].startswith("    ") or not lines[index + 1].strip()):
                index += 1
            body = "\n".join(each[4:] for each in lines[start : index + 1]).strip("\n")
            first = next((each for each in body.splitlines() if each.strip()), "")
            if not re.match(r"\s*[-*\d]", first) or _COMMAND.match(first):  # no list
                language = "console" if any(map(_COMMAND.match, body.splitlines())) else "text"
                yield Block(document, start + 1, language, body, tuple(comments))
            comments = []
        elif found := _COMMENT.findall(line):
            comments += found
        elif line.strip() and not line.startswith("<!--"):
            comments = []
        index += 1


def differs(shown: list[str], printed: str, tolerance: float | None) -> str:
    """The first line of a document that was not printed, or nothing.

    ``…`` stands for any text, alone on a line for any lines. Numbers may be off by ``tolerance``, relative; or be any.
    """
    pattern = "".join(_pattern(line.rstrip()) for line in shown if line.strip())
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines() if line.strip())
    found = re.fullmatch(pattern, lines)
    if found is None:
        return f"expected\n{chr(10).join(shown)}\nfound\n{lines}"
    if tolerance is not None:
        numbers = [number for line in shown for number in _NUMBER.finditer(line)]
        for expected, value in zip(numbers, found.groups(), strict=True):
            one, other = _float(expected[0]), _float(value)
            of_the_machine = "e" in expected[0] or re.match(r" ?(s|ms|µs|%)\b|%", expected.string[expected.end() :])
            if not of_the_machine and abs(one - other) > tolerance * max(abs(one), abs(other)):
                return f"expected {expected[0]}, found {value} in\n{lines}"
    return ""


def _pattern(line: str) -> str:
    if line.strip() == "…":
        return r"(?:.*\n)*?"
    parts = []
    for text in re.split(f"({_NUMBER.pattern})", line.replace("…", "\0")):
        number = _NUMBER.fullmatch(text)
        parts.append(f"({_NUMBER.pattern})" if number else re.escape(text).replace("\0", ".*").replace("\\\0", ".*"))
    return re.sub(r"(?:\\ )+", " +", "".join(parts)) + r"\n"


def _float(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))
