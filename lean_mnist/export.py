"""``python -m lean_mnist.export CHECKPOINT``: its network as safetensors, ONNX or torch.export."""

import sys

from lean_mnist.command_line import parse, run_command
from lean_mnist.exchange.arguments import ExportArguments


def main() -> None:
    """Read the command line, export, say what was written and how it agrees."""
    argv = ["--out" if argument == "-o" else argument for argument in sys.argv[1:]]
    arguments = parse(ExportArguments, argv, prog="python -m lean_mnist.export")
    from lean_mnist.exchange.export import export_checkpoint

    exported = export_checkpoint(arguments)
    print(exported.to_json() if arguments.json else exported)


if __name__ == "__main__":
    run_command(main)
