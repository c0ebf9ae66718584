"""Readings of the test split by the selected network: confusion matrix, and the misread images as pictures."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lean_mnist.data.examples import Split
from lean_mnist.errors import LeanMnistError
from lean_mnist.generalization.certificates.runs import Evaluated, find_certificate
from lean_mnist.reading.text import printable, shown
from lean_mnist.rendering.pixels import in_grey
from lean_mnist.training.checkpoints import load_checkpoint, read_with_hash
from lean_mnist.training.evaluation.metrics import Evaluation, evaluate
from lean_mnist.training.evaluation.report import data_of, require_fitting

MOST_SHOWN = 48  # misread images
_WIDEST = 64  # pixels of one, of which a larger one is reduced to


@dataclass(frozen=True)
class Tested:
    """An evaluation of the test split; pixels go up to ``maximum``."""

    split: Split
    evaluation: Evaluation
    maximum: int
    uncertified: str | None = None  # why the run's certificate says nothing about it; None where it was just made


class Misread(NamedTuple):
    """A misread image, as a PNG in a data URI: ink is dark."""

    number: int  # in the split, from 0
    label: int
    prediction: int
    confidence: float
    picture: str


def misread(tested: Tested) -> Iterator[Misread]:
    """The misread images of which the network was surest, the surest first."""
    from PIL import Image

    found = tested.evaluation
    for index in found.misread[:MOST_SHOWN].tolist():
        image = in_grey(tested.split.images[index].cpu().numpy(), tested.maximum, inverted=True)
        about = int(tested.split.labels[index]), int(found.predictions[index]), float(found.confidences[index])
        picture, content = Image.fromarray(image), io.BytesIO()
        picture.thumbnail((_WIDEST, _WIDEST))
        picture.save(content, "png")
        yield Misread(index, *about, f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}")


def test_again(checkpoint: Path, sha256: str | None, data_dir: str | None, folder: Path) -> Tested | str:
    """Evaluate ``checkpoint``, compare it with the certificate in ``folder``; or why not, as where the hash differs."""
    try:
        _, own, _ = read_with_hash(checkpoint)
        if sha256 is not None and own != sha256:
            return f"{shown(checkpoint)} is not the checkpoint that the summary is about (its hash differs)"
        loaded = load_checkpoint(checkpoint)
        dataset = data_of(loaded, loaded.data["name"], data_dir)
        require_fitting(shown(checkpoint), loaded, dataset)
        if dataset.fingerprint() != loaded.data["sha256"]:
            return f"the {dataset.name} found here is not the one it was trained on (its hash differs)"
        found = evaluate(loaded.model, dataset.test, loaded.normalization)
        about = Evaluated(loaded.model, loaded.normalization, dataset, loaded.metrics.get("test_looks", []))
        certificate = find_certificate([folder], about)
        return Tested(dataset.test, found, dataset.maximum, "" if certificate is None else certificate.why_not)
    except LeanMnistError as error:
        return printable(str(error), 500)
