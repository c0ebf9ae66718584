"""``python -m lean_mnist.export CHECKPOINT``: its network as safetensors, ONNX or torch.export."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from lean_mnist.command_line import POSITIONAL, Metavar, parse, run_command
from lean_mnist.files import plain


@dataclass(frozen=True)
class ExportArguments:
    """Write a checkpoint's network in another format: raw pixels, uint8 0 to 255, in, logits out.

    The normalisation is inside the graph of ONNX and torch.export; safetensors holds weights alone, and says in its
    metadata how pixels become features. What is written was read back and run beside the checkpoint.
    """

    checkpoint: Annotated[str, POSITIONAL, Metavar("CHECKPOINT")]
    """best.pt or last.pt, or a run's name or folder."""
    format: Literal["safetensors", "onnx", "torch-export"] | None = None
    """By the end of --out's name if not given."""
    out: str | None = None
    """File to write, also as -o; beside the checkpoint, by its name, if not given."""
    data_dir: str | None = None
    """Where the test images for the comparison are, after LEAN_MNIST_DATA; the run's if not given."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, export, say what was written and how it agrees."""
    argv = ["--out" if argument == "-o" else argument for argument in sys.argv[1:]]
    arguments = parse(ExportArguments, argv, prog="python -m lean_mnist.export")
    from lean_mnist.exchange.export import export_checkpoint

    exported = export_checkpoint(arguments)
    print(json.dumps(plain(exported), indent=2, allow_nan=False) if arguments.json else exported)


if __name__ == "__main__":
    run_command(main)
