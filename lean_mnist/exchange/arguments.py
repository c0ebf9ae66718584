"""Command lines of export and prediction; ``--help`` needs nothing of what these do."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lean_mnist.command_line import POSITIONAL, Metavar
from lean_mnist.errors import ConfigError


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
        if not self.paths:
            raise ConfigError("paths: expected images behind the checkpoint, found none; --help says more")
