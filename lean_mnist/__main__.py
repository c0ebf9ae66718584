"""``python -m lean_mnist``: the commands as a family; ``python -m lean_mnist train`` is the same as ``….train``."""

import importlib
import sys
from typing import NamedTuple

from lean_mnist.command_line import run_command
from lean_mnist.errors import ConfigError, nearest
from lean_mnist.invocation import SCRIPT, as_started
from lean_mnist.reading.text import printable
from lean_mnist.version import __version__


class Command(NamedTuple):
    """A command: ``module`` of this package has its ``main()``."""

    name: str
    line: str
    module: str = ""  # called as the command, if not given


COMMANDS = (
    Command("train", "train a network, check its gradients meanwhile, certify the result"),
    Command("evaluate", "accuracy, confusion matrix and certificate of a checkpoint"),
    Command("predict", "classes of your own images, with probabilities"),
    Command("export", "a checkpoint as safetensors, ONNX or torch.export, compared with it"),
    Command("runs", "list the runs with accuracy, certified risk and checks; compare two"),
    Command("check", "is the backward of any Function the derivative of its forward?"),
    Command("replay", "run a check or training step that failed again", "crosscheck.replay"),
    Command("render", "look at images of a data set, and at those a checkpoint misreads"),
    Command("report", "write a run's page: curves, checks, errors, certificate"),
    Command("certify", "bound the risk on unseen data, or check such a certificate"),
    Command("verify", "prove the formulas; --selftest plants bugs and sees them caught"),
    Command("pacbayes", "train a Gaussian over networks on a bound of its own risk"),
    Command("learners", "train MLCERT's perceptrons and certify their risk"),
    Command("programs", "enumerate small experiments and see the bounds hold"),
)


def main() -> None:
    """Run the command that the command line names with the arguments behind it, or list the commands."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help", "--help-all"):
        print(listing())
    elif name == "--version":
        print(f"lean_mnist {__version__}")
    elif command := next((command for command in COMMANDS if command.name == name), None):
        sys.argv[1:] = rest
        importlib.import_module(f"lean_mnist.{command.module or command.name}").main()
    else:
        near = nearest(name[:40], [*(command.name for command in COMMANDS), "--help", "--version"])
        raise ConfigError(f"{printable(repr(name), 60)}: no such command{near}; --help lists them")


def listing() -> str:
    """The commands, one a line, and how they are called."""
    called = SCRIPT if as_started("python -m lean_mnist.train").startswith(SCRIPT) else "python -m lean_mnist"
    lines = [f"usage: {called} COMMAND [options]", ""]
    lines += [f"  {command.name:<10} {command.line}" for command in COMMANDS]
    lines += ["", f"{called} COMMAND --help explains the options of one.", f"{called} --version"]
    return "\n".join(lines)


def script() -> None:
    """Entry point of the console script."""
    run_command(main)


if __name__ == "__main__":
    run_command(main)
