"""Measured figures that the documentation quotes: each stands once, in ``docs/figures.json``, and is copied from there.

    python -m benchmarks.figures           # brings every quotation up to date
    python -m benchmarks.figures --check   # says which are not, and exits with 1

In ``docs/figures.json`` every figure has a text (``"98.42 %"``), the command it comes from and where it was measured.
A document quotes it as ``<!--=NAME-->98.42 %<!--/-->``; the comments are not shown when the document is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures.json"
_QUOTATION = re.compile(r"<!--=(?P<name>[a-z0-9-]+)-->(?P<text>.*?)<!--/-->", re.DOTALL)


def documents() -> list[Path]:
    """The documents that may quote figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def figures() -> dict[str, str]:
    """The text of each figure, by its name."""
    return {name: figure["text"] for name, figure in json.loads(FIGURES.read_text(encoding="utf-8")).items()}


def quotations(text: str) -> Iterator[tuple[str, str]]:
    """Name and quoted text of every figure that a document quotes."""
    return ((found["name"], found["text"]) for found in _QUOTATION.finditer(text))


def updated(text: str, known: Mapping[str, str]) -> str:
    """``text`` with every quotation as in ``known``; raises ``KeyError`` for a name that is not there."""
    return _QUOTATION.sub(lambda found: f"<!--={found['name']}-->{known[found['name']]}<!--/-->", text)


def main() -> int:
    """Update or check all documents."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if one is out of date")
    check, known, stale = parser.parse_args().check, figures(), 0
    for path in documents():
        text = path.read_text(encoding="utf-8")
        new = updated(text, known)
        if new != text:
            stale += 1
            print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'updated'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    raise SystemExit(main())
