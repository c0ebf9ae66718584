"""The help of every command: a screen or two of 80 columns, at once, from the texts below the fields."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import pytest

from lean_mnist.__main__ import COMMANDS
from lean_mnist.certify import CertifyArguments
from lean_mnist.command_help import OTHERS, field_texts
from lean_mnist.command_line import POSITIONAL, Metavar, option_name, parse
from lean_mnist.pacbayes import Arguments as PacBayes
from lean_mnist.training.arguments import Arguments as Train
from tests.support.training_cases import surroundings

LINES, COLUMNS = 50, 80

_ASK = """
import contextlib, io, json, sys
from lean_mnist import __main__ as family
from lean_mnist.__main__ import COMMANDS, main
told = {}
for name in [command.name for command in COMMANDS]:
    for option in ("--help", "--help-all"):
        sys.argv, out = ["x", name, option], io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main()
        told[name + " " + option] = out.getvalue()
print(json.dumps([told, sorted({"torch", "tensorboard", "scipy", "sklearn"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """The help of every command, by the command line that asks for it; PyTorch was not imported for it."""
    environment = {**surroundings(), "COLUMNS": "120"}  # the help is no wider than can be read
    done = subprocess.run([sys.executable, "-c", _ASK], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    texts, imported = json.loads(done.stdout)
    assert imported == []
    return dict(texts)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_fits_a_screen_and_says_what_the_command_is_for(name: str, told: dict[str, str]) -> None:
    lines = told[f"{name} --help"].splitlines()
    assert lines[0].startswith("usage: python -m lean_mnist.")
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert lines[2][0].isupper()


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_all_help_has_every_option_of_the_short_one(name: str, told: dict[str, str]) -> None:
    short, whole = (set(told[f"{name} {option}"].split()) for option in ("--help", "--help-all"))
    assert {word for word in short - whole if word.startswith("--")} <= {"--help-all"}
    assert max(map(len, told[f"{name} --help-all"].splitlines())) <= COLUMNS


PROMISED = {
    "train": "dataset data-dir hidden activation epochs batch-size optimizer lr momentum weight-decay schedule "
    "clip-norm seed validation-size limit-train precision device check-every preset run-name runs-dir checkpoints-dir "
    "resume quiet config track-test on-divergence",
    "evaluate": "json split dataset data-dir",
}


@pytest.mark.parametrize("name", PROMISED)
def test_help_has_the_options_that_are_promised(name: str, told: dict[str, str]) -> None:
    missing = [option for option in PROMISED[name].split() if f"--{option}" not in told[f"{name} --help"]]
    assert missing == []


@pytest.mark.parametrize("command", [Train, PacBayes, CertifyArguments], ids=lambda command: command.__module__)
def test_each_option_is_in_one_group_and_has_a_text(command: type[Any]) -> None:
    grouped = " ".join(command.GROUPS.values()).split()
    positional = {"checkpoint"}
    assert sorted(grouped) == sorted({field.name for field in fields(command)} - positional)
    assert len(next(iter(command.GROUPS.values())).split()) <= 10
    texts = field_texts(command)
    assert [field.name for field in fields(command) if not texts.get(field.name)] == []


@dataclass(frozen=True)
class Options:
    """Do something.

    Whoever wants more reads on.
    """

    GROUPS: ClassVar[dict[str, str]] = {"everyday options": "rate hidden", "further": "quiet bias"}

    name: Annotated[str, POSITIONAL]
    """a name"""
    quiet: bool = False
    """Say nothing."""
    bias: bool = True
    """Whether there are biases."""
    hidden: tuple[int, ...] = (3, 4)
    """Widths, of
    which there are several."""
    rate: float | None = None
    """100 % if not given."""
    rule: Annotated[Literal["sgd", "adam"] | None, Metavar("RULE")] = None


SHORT = """\
usage: x NAME [options]

Do something.

Whoever wants more reads on.

  NAME                  a name

everyday options:
  --rate X              100 % if not given.
  --hidden N ...        Widths, of which there are several (default: 3 4)

further options, which --help-all explains:
  further         --quiet --[no-]bias
  advanced        --rule
"""


def test_the_first_group_is_explained_and_the_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["-h"], ["y", "--quiet", "--help", "--nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            parse(Options, arguments, prog="x")
        assert stopped.value.code == 0
        assert capsys.readouterr().out == SHORT


def test_all_of_them_are_explained_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Options, ["--help-all"], prog="x", default=Options("y", bias=False, rate=0.5))
    out = capsys.readouterr().out
    assert "  --rate X              100 % if not given (default: 0.5)\n" in out
    assert (
        "\nfurther:\n  --quiet               Say nothing.\n  --bias                Whether there are biases.\n" in out
    )
    assert out.endswith(f"\n{OTHERS}:\n  {option_name('rule')} RULE\n")
