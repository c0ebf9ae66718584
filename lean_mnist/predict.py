"""``python -m lean_mnist.predict CHECKPOINT PATH…``: classes of images that are no data set's."""

import sys

from lean_mnist.command_line import parse, run_command
from lean_mnist.exchange.arguments import PredictArguments


def main() -> None:
    """Read the command line, predict, print a line an image or the JSON."""
    arguments = parse(PredictArguments, sys.argv[1:], prog="python -m lean_mnist.predict")
    from lean_mnist.exchange.prediction import predict

    found = predict(arguments)
    print(found.to_json() if arguments.json else found)
    for note in () if arguments.json else found.notes:
        print(f"note: {note}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
