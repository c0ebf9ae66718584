"""Options read into a dataclass: every type of field, and one line for every mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from lean_mnist.command_line import parse
from lean_mnist.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """A field of every type."""

    bundle: Annotated[Path, tyro.conf.Positional]
    name: Annotated[str | None, tyro.conf.Positional] = None
    rule: Literal["sgd", "adam"] = "sgd"
    lr: float | None = None
    hidden: tuple[int, ...] | None = (3,)
    quiet: bool = False
    batch_size: int = 3


GOOD: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["y"], {"name": "y"}),
    (["--quiet", "--hidden", "1", "2", "--batch_size=4"], {"quiet": True, "hidden": (1, 2), "batch_size": 4}),
    (["--lr", "1e-3", "--lr", "None", "--hidden", "None", "--no-quiet"], {"hidden": None}),
    (["--batch-size", "-1", "--rule=adam", "--hidden"], {"batch_size": -1, "rule": "adam", "hidden": ()}),
]

BAD: list[tuple[list[str], str]] = [
    ([], "bundle: expected, found none; --help says more"),
    (["x", "--rule", "adm"], "--rule: expected one of sgd, adam, found 'adm' (did you mean 'adam'?)"),
    (["x", "--lr"], "--lr: expected one argument"),
    (["x", "--lr", "fast"], "--lr: expected a number, found 'fast'"),
    (["x", "--batch-size", "2.5"], "--batch-size: expected a whole number, found '2.5'"),
    (["x", "--batch-sise=2"], "--batch-sise: no such option (did you mean '--batch-size'?); --help lists them"),
    (["x", "y", "z"], "'z': unexpected argument; --help lists the options"),
    (["x", "--quiet=3"], "--quiet/--no-quiet: ignored explicit argument '3'"),
]


@pytest.mark.parametrize(("arguments", "changes"), GOOD, ids=str)
def test_values_of_every_type(arguments: list[str], changes: dict[str, Any]) -> None:
    assert parse(Options, ["x", *arguments], prog="test") == Options(Path("x"), **changes)


def test_fields_of_the_default_stay_where_nothing_is_said() -> None:
    default = Options(Path("x"), name="y", lr=0.5)
    assert parse(Options, ["--batch-size", "9"], prog="test", default=default) == Options(
        Path("x"), name="y", lr=0.5, batch_size=9
    )


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=str)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Options, arguments, prog="test")
    assert str(caught.value) == message
