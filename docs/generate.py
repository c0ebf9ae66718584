"""Pages that follow the code: the map of the house, the options of every command, the configuration of a run.

    python -m docs.generate            # brings the map in CONTRIBUTING.md up to date

``conf.py`` writes the pages into ``docs/generated/`` when the site is built; they are not kept in git.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lean_mnist.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lean_mnist"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
_MAP = re.compile(r"(?<=<!-- map -->\n).*?(?=<!-- /map -->)", re.DOTALL)


def first_sentence(path: Path) -> str:
    """The first line of a module's docstring, or of a package's."""
    source = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".").replace("``", "`")


def layers() -> list[list[str]]:
    """Rooms of the package as the import contract has them in ``setup.cfg``: each imports from the rows below alone."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    rows = setup["importlinter:contract:one-way"]["layers"].strip().splitlines()
    return [re.split(r"\s*[|:]\s*", row.strip()) for row in rows]


def place(name: str) -> Path:
    """The file or folder of a room."""
    folder = PACKAGE / name
    return folder if folder.is_dir() else PACKAGE / f"{name}.py"


def _is_command(path: Path) -> bool:
    return path.is_file() and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def house() -> str:
    """The map in ``CONTRIBUTING.md``: one row a room, each room importing from rows below it alone."""
    rooms = [name for row in layers() for name in row]
    files = [name for name in rooms if place(name).is_file()]
    started = [name for name in files if _is_command(place(name))]
    lines = ["| room of `lean_mnist/` | what it is |", "|---|---|"]
    lines.append(f"| {_names(started)} | the commands: options in, text or JSON out |")
    for name in rooms:
        if place(name).is_dir():
            lines.append(f"| `{name}/` | {_cell(first_sentence(place(name)))} |")
    lines.append(f"| {_names(name for name in files if name not in started)} | small modules that others use |")
    return "\n".join(lines) + "\n"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def whole_house() -> str:
    """The page with every module of the package and its first sentence."""
    text = [
        "# Map of the house",
        "",
        "Made from the first sentence of every module and from the contracts in `setup.cfg`. A row of the first table",
        "imports from rows below it alone; `lint-imports` says so.",
        "",
        house(),
    ]
    for package in sorted(path.parent for path in PACKAGE.rglob("__init__.py")):
        depth = len(package.relative_to(PACKAGE).parts)
        name = "/".join(("lean_mnist", *package.relative_to(PACKAGE).parts)) + "/"
        text += [f"{'##' if depth < 2 else '###'} `{name}`", "", f"{first_sentence(package)}.", ""]
        modules = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
        if modules:
            text += ["| module | |", "|---|---|"]
            text += [f"| `{path.stem}` | {_cell(first_sentence(path))} |" for path in modules]
            text.append("")
    return "\n".join(text) + "\n"


def helps() -> str:
    """The page with what ``--help`` of every command prints."""
    text = [
        "# Commands",
        "",
        "What `--help` of every command prints. All end with status 0 when done, 2 for bad usage, configuration or",
        "data (with one line: what, where, and what was expected), 3 where a gradient check failed, 130 when",
        "interrupted.",
        "The options of a training run have [a page of their own](configuration.md).",
        "",
    ]
    for command in COMMANDS:
        module = f"lean_mnist.{command.module or command.name}"
        line = f"{command.line[:1].upper()}{command.line[1:]}".rstrip("?.")
        text += [f"## {command.name}", "", f"{line}: `python -m {module}`.", "", "```text", help_of(module), "```", ""]
    return "\n".join(text)


def help_of(module: str) -> str:
    """All options of a command as it prints them, 100 columns wide."""
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    for option in ("--help-all", "--help"):
        command = [sys.executable, "-m", module, option]
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, **plain}, check=False
        )
        if done.returncode == 0:
            return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    raise RuntimeError(f"{module} --help: {done.stderr}")


def configuration() -> str:
    """The page with the fields of a run's configuration, which are the options of ``train``."""
    from lean_mnist.training.config import Config

    text = [
        "# Configuration of a run",
        "",
        "Fields of `lean_mnist.training.config.Config`, a frozen dataclass. Each is an option of `lean_mnist.train`",
        "(`batch_size` is `--batch-size`) and a key of the run's `config.json`, from which `--config FILE` repeats it.",
        "",
        *_fields(Config),
        "",
    ]
    return "\n".join(text)


def _fields(cls: Any) -> Iterator[str]:
    hints, texts = get_type_hints(cls), field_texts(cls)
    yield "| option, default | |"
    yield "|---|---|"
    for field in dataclasses.fields(cls):
        default = "" if field.default is None else field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        option = f"`--{field.name.replace('_', '-')}`" + (f" `{shown}`" if shown else "")
        words = _cell(texts.get(field.name, ""))
        yield f"| {option} | {words} {kind(hints[field.name])} |"


def kind(hint: Any) -> str:
    """The values of an option in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"One of {', '.join(f'`{choice}`' for choice in arguments)}."
    if origin is tuple:
        return f"{kind(arguments[0]).rstrip('.')}, one or more."
    if arguments:  # of a type or None
        return kind(next(argument for argument in arguments if argument is not type(None)))
    names = {bool: "Yes or no.", int: "A whole number.", float: "A number.", str: "A text."}
    return names.get(hint, "")


def field_texts(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass and of its bases."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if base is not object]):
        module = ast.parse(Path(inspect.getsourcefile(base) or "").read_text(encoding="utf-8"))
        (body,) = (n.body for n in ast.walk(module) if isinstance(n, ast.ClassDef) and n.name == base.__name__)
        for statement, following in pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def write(folder: Path) -> None:
    """Write every page into ``folder``; one that is as it was is left alone, so that Sphinx need not read it again."""
    folder.mkdir(exist_ok=True)
    for name, text in (("house", whole_house()), ("commands", helps()), ("configuration", configuration())):
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def with_map(text: str) -> str:
    """``CONTRIBUTING.md`` with the map as the code now has it."""
    return _MAP.sub(lambda _: "\n" + house() + "\n", text)


if __name__ == "__main__":
    CONTRIBUTING.write_text(with_map(CONTRIBUTING.read_text(encoding="utf-8")), encoding="utf-8")
