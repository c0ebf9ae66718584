"""``python -m lean_mnist.predict CHECKPOINT PATH…``: classes of images that are no data set's."""

import sys
from dataclasses import dataclass
from typing import Annotated

from lean_mnist.command_line import POSITIONAL, Metavar, parse, refuse, run_command
from lean_mnist.errors import ConfigError


@dataclass(frozen=True)
class PredictArguments:
    """Classes of images, with the probabilities that the network gives them.

    An image has to have the size that the network was trained on, and its polarity: MNIST is white on black.
    """

    checkpoint: Annotated[str, POSITIONAL, Metavar("CHECKPOINT")]
    """best.pt or last.pt, or a run's name or folder."""
    paths: Annotated[tuple[str, ...], POSITIONAL, Metavar("PATH")]
    """PNG and JPEG files, folders with them, .npy, and .npz with one array or one called x_test, x or images."""
    resize: bool = False
    """Bring images of another size to the network's, by Pillow's bilinear filter; without it they are refused."""
    invert: bool = False
    """Turn black on white into white on black: 255 minus each pixel, before anything is resized."""
    grey: bool = False
    """Convert images in colour to grey; without it they are refused."""
    top: int = 3
    """How many of the likeliest classes are shown."""
    probabilities: bool = False
    """Show those of all classes, in their order."""
    json: bool = False
    """Print one JSON document."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"--top: expected at least 1, found {self.top}")
        if self.probabilities:
            refuse(self, ("top",), "without effect beside --probabilities, which shows all classes")
        if not self.paths:
            raise ConfigError("paths: expected images behind the checkpoint, found none; --help says more")


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
