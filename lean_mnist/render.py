"""``python -m lean_mnist.render``: look at the images of a data set, and at what a checkpoint reads in them."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lean_mnist.command_line import parse, refuse, run_command
from lean_mnist.errors import ConfigError
from lean_mnist.reading.text import printable, shown

if TYPE_CHECKING:
    from lean_mnist.data.examples import Dataset
    from lean_mnist.rendering.pixels import Image
    from lean_mnist.rendering.sheet import Tile
    from lean_mnist.training.evaluation.metrics import Evaluation


@dataclass(frozen=True)
class RenderArguments:
    """Images of a data set as text, in colour, or as a PNG picture, beside what a checkpoint reads in them."""

    count: int = 10
    """Number of images."""
    index: int = 0
    """The first of them; with --errors, among the misread ones."""
    train: bool = False
    """Images of the training split; else of the test split."""
    dataset: str | None = None
    """A name, or the path of own data, as for train; the checkpoint's if not given, else auto."""
    grey: bool = False
    """Convert own images in colour to grey."""
    data_dir: str | None = None
    """Searched after the folder that LEAN_MNIST_DATA names; the checkpoint's if not given, else data."""
    checkpoint: str | None = None
    """Say what the network of this run (its name or folder) or checkpoint reads, and how confident it is."""
    errors: bool = False
    """With --checkpoint: only images that it misreads."""
    grid: int | None = None
    """Images beside each other, in so many columns."""
    compare: bool = False
    """Two beside each other."""
    stats: bool = False
    """How many images each label has; least, largest, mean value and deviation of each image's pixels."""
    palette: Literal["default", "simple", "detailed", "blocks"] = "default"
    """Characters from dark to bright."""
    border: Literal["single", "double", "rounded", "heavy", "ascii", "none"] = "none"
    """Frame around each image."""
    inverted: bool = False
    """Dark where it was bright, for terminals with a bright background."""
    wide: bool = False
    """Two characters a pixel, which keeps the proportions of most fonts."""
    colour: bool = False
    """24-bit grey, two pixels a character; on terminals, unless NO_COLOR is set, or where FORCE_COLOR is."""
    png: str | None = None
    """Write this file instead of text."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, draw, print or write."""
    arguments = parse(RenderArguments, sys.argv[1:], prog="python -m lean_mnist.render")
    for name, given in (("count", arguments.count), ("grid", arguments.grid)):
        if given is not None and given < 1:
            raise ConfigError(f"--{name}: expected 1 or more, found {given}")
    if arguments.grid and arguments.compare:
        raise ConfigError("--grid and --compare: expected one of them")
    as_text, why = ["border", "wide", "colour"], "of images as text, without effect beside"
    if arguments.png:
        refuse(arguments, as_text if arguments.json else [*as_text, "palette"], f"{why} --png")
    elif arguments.json:
        refuse(arguments, [*as_text, "grid", "compare"], f"{why} --json")
    if arguments.checkpoint:
        refuse(arguments, ("grey",), "expected without --checkpoint, whose run says whether it was given")
    if arguments.errors and not arguments.checkpoint:
        raise ConfigError("--errors: expected --checkpoint as well, whose errors are meant")
    from lean_mnist.files import write_atomically
    from lean_mnist.rendering.pixels import PALETTES, in_characters
    from lean_mnist.rendering.png import png
    from lean_mnist.rendering.sheet import Style, sheet

    dataset, found = _read(arguments)
    chosen, heading = _choose(arguments, dataset, found)
    tiles = [one.tile(arguments.stats) for one in chosen]
    columns = arguments.grid or (2 if arguments.compare else 1)
    if arguments.png:
        content = png(tiles, columns, dataset.maximum, inverted=arguments.inverted)
        write_atomically(Path(arguments.png), content)
        heading += f"\nwritten {shown(arguments.png)}"
    if arguments.json:
        split = "train" if arguments.train else "test"
        about: dict[str, Any] = {"dataset": dataset.name, "split": split, "maximum": dataset.maximum}
        about["class_names"] = list(dataset.class_names)
        palette = PALETTES[arguments.palette][:: -1 if arguments.inverted else 1]
        images = [one.to_dict(in_characters(one.image, dataset.maximum, palette)) for one in chosen]
        print(json.dumps({**about, "images": images}, indent=2, ensure_ascii=False))
        return
    print(heading)
    if not arguments.png:
        colour = arguments.colour and _colour_is_shown()
        drawn = arguments.palette, arguments.border, arguments.inverted, arguments.wide, colour
        print("", *sheet(tiles, columns, Style(dataset.maximum, *drawn)), sep="\n")


def _read(arguments: RenderArguments) -> "tuple[Dataset, Evaluation | None]":
    """The data set and, of a checkpoint, what it reads in the whole split."""
    if arguments.checkpoint is None:
        from lean_mnist.data.datasets import load_dataset

        name, data_dir = arguments.dataset or "auto", arguments.data_dir or "data"
        return load_dataset(name, data_dir, grey=arguments.grey), None
    from lean_mnist.training.checkpoints import load_checkpoint
    from lean_mnist.training.config.places import checkpoint_path
    from lean_mnist.training.evaluation.metrics import evaluate
    from lean_mnist.training.evaluation.report import data_of, require_fitting

    path = str(checkpoint_path(arguments.checkpoint))
    checkpoint = load_checkpoint(path)
    dataset = data_of(checkpoint, arguments.dataset or checkpoint.data["name"], arguments.data_dir)
    require_fitting(path, checkpoint, dataset)
    split = dataset.train if arguments.train else dataset.test
    return dataset, evaluate(checkpoint.model, split, checkpoint.normalization)


@dataclass(frozen=True)
class _Shown:
    """One image, and what is said about it."""

    index: int
    label: int
    image: "Image"
    read_as: tuple[int, float] | None  # and with which confidence; None without a checkpoint
    names: tuple[str, ...]  # of the classes

    @property
    def misread(self) -> bool:
        return self.read_as is not None and self.read_as[0] != self.label

    def _named(self, label: int) -> str:
        return printable(self.names[label], 30) if label < len(self.names) else str(label)

    def tile(self, with_statistics: bool) -> "Tile":
        from lean_mnist.rendering.pixels import statistics
        from lean_mnist.rendering.sheet import Tile

        above, below = [f"#{self.index}: label {self._named(self.label)}"], []
        if self.read_as is not None:
            how, (what, confidence) = "misread" if self.misread else "read", self.read_as
            above.append(f"{how} as {self._named(what)} ({confidence:.1%})")
        if with_statistics:
            found = statistics(self.image)
            below = [f"min {found['min']}, max {found['max']}"]
            below += [f"mean {found['mean']:.1f}, dev. {found['deviation']:.1f}"]
        return Tile(self.image, tuple(above), tuple(below), self.misread)

    def to_dict(self, text: list[str]) -> dict[str, Any]:
        from lean_mnist.rendering.pixels import statistics

        predicted = {} if self.read_as is None else {"prediction": self.read_as[0], "confidence": self.read_as[1]}
        about = {"index": self.index, "label": self.label, "class": self.names[self.label], **predicted}
        return {**about, **statistics(self.image), "text": text}


def _choose(arguments: RenderArguments, dataset: "Dataset", found: "Evaluation | None") -> "tuple[list[_Shown], str]":
    """The images that are shown, and the lines above them."""
    import torch

    split, kind = (dataset.train, "training") if arguments.train else (dataset.test, "test")
    named = f"{dataset.name}, {kind} split"
    among, kind = list(range(len(split))), "images"
    if found is not None and arguments.errors:
        among, kind = (~found.right).nonzero().flatten().tolist(), "misread images"
        if not among:
            raise ConfigError(f"--errors: {arguments.checkpoint} misreads none of {len(split):,} images ({named})")
    if not 0 <= arguments.index < len(among):
        raise ConfigError(f"--index: expected 0 to {len(among) - 1}, of the {kind} ({named}), found {arguments.index}")
    chosen = among[arguments.index : arguments.index + arguments.count]
    last = arguments.index + len(chosen) - 1
    heading = f"{named}: {kind} {arguments.index} to {last} of {len(among):,}, pixels from 0 to {dataset.maximum}"
    read: list[tuple[int, float] | None] = [None] * len(chosen)
    if found is not None:
        read = [(int(found.predictions[index]), float(found.confidences[index])) for index in chosen]
        heading += f"\nread by {shown(arguments.checkpoint or '')}: accuracy {found.accuracy:.2%} on this split"
    if arguments.stats:
        counts = torch.bincount(split.labels, minlength=dataset.classes).tolist()
        labels = (f"{printable(name, 30)} {count:,}" for name, count in zip(dataset.class_names, counts, strict=True))
        heading += f"\nimages by label: {', '.join(labels)}"
    images = split.images.cpu().numpy()
    return [
        _Shown(index, int(split.labels[index]), images[index], read_as, dataset.class_names)
        for index, read_as in zip(chosen, read, strict=True)
    ], heading


def _colour_is_shown() -> bool:
    """True on a terminal, or with FORCE_COLOR; never with NO_COLOR. Says so where it is not."""
    if os.environ.get("NO_COLOR"):
        why = "NO_COLOR is set"
    elif (sys.stdout.isatty() and os.environ.get("TERM") != "dumb") or os.environ.get("FORCE_COLOR"):
        return True
    else:
        why = "the output is no terminal with colours (FORCE_COLOR=1 to have them all the same)"
    print(f"--colour: {why}, so these are characters", file=sys.stderr)
    return False


if __name__ == "__main__":
    run_command(main)
