"""Options read into a dataclass: every type of field, and one line for every mistake."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest

from lean_mnist.certify import CertifyArguments
from lean_mnist.check import CheckArguments
from lean_mnist.command_line import OR_NONE, POSITIONAL, option_name, parse
from lean_mnist.errors import ConfigError
from lean_mnist.evaluate import EvaluateArguments
from lean_mnist.learners import LearnersArguments as Learners
from lean_mnist.pacbayes import Arguments as PacBayes
from lean_mnist.training.arguments import Arguments as Train


@dataclass(frozen=True)
class Options:
    """A field of every type."""

    bundle: Annotated[Path, POSITIONAL]
    name: Annotated[str | None, POSITIONAL] = None
    rule: Literal["sgd", "adam"] = "sgd"
    lr: float | None = None
    hidden: tuple[int, ...] | None = (3,)
    quiet: bool = False
    batch_size: int = 3
    sizes: Annotated[tuple[int, ...] | None, OR_NONE] = None


GOOD: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["y"], {"name": "y"}),
    (["--quiet", "--hidden", "1", "2", "--batch_size=4"], {"quiet": True, "hidden": (1, 2), "batch_size": 4}),
    (["--lr", "1e-3", "--lr", "None", "--hidden", "None", "--no-quiet"], {"hidden": None}),
    (["--batch-size", "-1", "--rule=adam", "--sizes"], {"batch_size": -1, "rule": "adam", "sizes": ()}),
]

BAD: list[tuple[list[str], str]] = [
    ([], "bundle: expected, found none; usage: test BUNDLE [NAME] [options]"),
    (["x", "--rule", "adm"], "--rule: expected one of sgd, adam, found 'adm' (did you mean 'adam'?)"),
    (["x", "--lr"], "--lr: expected one argument"),
    (["x", "--hidden"], "--hidden: expected at least one argument"),
    (["x", "--hidden", "--quiet"], "--hidden: expected at least one argument"),
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


COMMANDS = [CertifyArguments, CheckArguments, EvaluateArguments, Learners, PacBayes, Train]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__module__)
def test_an_option_whose_values_were_forgotten_is_a_mistake(command: type[Any]) -> None:
    """Read as "none of them", ``--delta`` would have a certificate without claims written over a good one."""
    may_be_without = {"sizes", "resume"}
    hints = get_type_hints(command, include_extras=True)
    for field in fields(command):
        if field.name in may_be_without or hints[field.name] is bool or POSITIONAL in str(hints[field.name]):
            continue
        for behind in ([], ["--json"]):
            option = option_name(field.name)
            with pytest.raises(ConfigError, match=rf"^{option}: expected (at least )?(one|2|two) arguments?"):
                parse(command, ["x", option, *behind] if command in (CheckArguments,) else [option, *behind], prog="x")
