"""The site of the documentation: its map is true, its reference is complete, its notebooks run."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
from pathlib import Path

import pytest

from docs.generate import CONTRIBUTING, PACKAGE, ROOT, first_sentence, helps, layers, place, with_map
from lean_mnist.__main__ import COMMANDS

# Rooms whose names others import; each has a page in docs/reference.
PUBLIC = {"lean_mnist": "python", "lean_mnist.crosscheck": "crosscheck", "lean_mnist.nn": "nn"}
ROOMS = ("chainrule", "crosscheck", "data", "nn", "training")


def public_definitions(path: Path) -> list[tuple[str, str | None]]:
    """Names of public functions, classes and methods of a module, each with its docstring."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        private = isinstance(node, ast.ClassDef) and node.name.startswith("_")
        for each in [node, *(node.body if isinstance(node, ast.ClassDef) and not private else [])]:
            if isinstance(each, (ast.FunctionDef, ast.ClassDef)) and not each.name.startswith("_"):
                found.append((f"{path.relative_to(ROOT)}: {each.name}", ast.get_docstring(each)))
    return found


def test_the_map_in_contributing_is_that_of_the_code() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    assert text == with_map(text), "run python -m docs.generate"


def test_another_map_is_found() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    assert with_map(text.replace("`chainrule/`", "`rules/`", 1)) == with_map(text)


def test_every_room_is_there_and_says_what_it_is() -> None:
    rooms = [name for row in layers() for name in row]
    assert [name for name in rooms if not place(name).exists()] == []
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"integrations"} == {name for name in rooms if place(name).is_dir()}
    assert [name for name in rooms if not first_sentence(place(name))] == []


def test_every_public_name_has_a_page() -> None:
    missing = []
    for module, page in PUBLIC.items():
        text = (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
        for name in importlib.import_module(module).__all__:
            where = getattr(importlib.import_module(module), name)
            whole = f"automodule:: {getattr(where, '__module__', module)}\n   :members:"
            if not re.search(rf"(auto\w+|data)::\s+(\S+\.)?{name}\b", text) and whole not in text:
                missing.append(f"{module}.{name}")
    assert missing == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring_that_begins_plainly(room: str) -> None:
    found = [each for path in (PACKAGE / room).rglob("*.py") for each in public_definitions(path)]
    assert len(found) > 10
    assert [name for name, text in found if not text] == []
    assert [name for name, text in found if re.match(r"(What|How|Where|Whether)\b", text or "")] == []


def test_a_name_without_a_docstring_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_site.ROOT", tmp_path)
    (tmp_path / "bad.py").write_text("class A:\n    '''A.'''\n    def b(self): ...\ndef _c(): ...\n")
    assert public_definitions(tmp_path / "bad.py") == [("bad.py: A", "A."), ("bad.py: b", None)]


def test_the_page_of_commands_has_every_command() -> None:
    text = helps()
    assert [command.name for command in COMMANDS if f"\n## {command.name}\n" not in text] == []
    assert "--batch-size" in text


def test_the_pages_are_no_wider_than_people_read() -> None:
    paths = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", CONTRIBUTING]
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
    assert len(CONTRIBUTING.read_text(encoding="utf-8").splitlines()) < 60
    assert all(path.read_text(encoding="utf-8").lstrip().startswith(("#", "```{include}")) for path in paths)


def test_the_page_on_installation_names_every_extra() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = {name for row in re.findall(r"(?m)^\| (`.*?) \|", text) for name in re.findall(r"`(\w+)`", row)}
    assert named == set(setup["options.extras_require"])
