"""Shared by the tests of certificates: small random networks, data sets of a few examples, certificates of them."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lean_mnist.data.datasets import Dataset, Split, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions
from lean_mnist.generalization.certificates.networks import certify
from lean_mnist.generalization.certificates.runs import (
    Evaluated,
    FoundCertificate,
    certificate_places,
    find_certificate,
)
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import Checkpoint

ROWS, COLUMNS, CLASSES = 4, 5, 3


def random_data(seed: int, examples: int = 40) -> Dataset:
    """Random images of 4 × 5 pixels, a third of them zeros, with labels that mean nothing."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (examples, ROWS, COLUMNS)) * (random.random((examples, ROWS, COLUMNS)) > 1 / 3)
    labels = random.integers(0, CLASSES, examples)
    split = Split(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))
    return Dataset("random", split, split, classes=CLASSES, maximum=255, source="a test")


def random_network(seed: int, activation: str = "relu", hidden: tuple[int, ...] = (6,), **options: Any) -> MLP:
    """A network with random weights and biases."""
    model = MLP((ROWS * COLUMNS, *hidden, CLASSES), activation, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, bias in model.weights_and_biases():
            if bias is not None:
                bias.copy_(torch.randn(bias.shape, generator=generator))
    return model


def small_certificate(seed: int = 0, kind: str = "standard", **options: Any) -> Certificate:
    """A certificate of a random network by random data."""
    model, data = random_network(seed, **options), random_data(seed)
    normalization = Normalization.fit(kind, data.train.images, 255)
    return certify(model, normalization, data, SplitHistory(1), ClaimOptions(precision="float32"))


def written(certificate: Certificate, folder: Path) -> str:
    """Write a certificate into ``folder`` and return its path as text."""
    return str(certificate.write(folder))


def rejection(path: str, folders: tuple[str, ...] = ()) -> str:
    """The line with which the checker rejects the certificate; empty if it accepts."""
    try:
        checker.check(path, list(folders))
    except checker.Rejected as error:
        return str(error)
    return ""


def sealed(document: dict[str, Any]) -> bytes:
    """The certificate with everything rewritten that follows from its other fields, as its checker derives it."""
    with contextlib.suppress(checker.Rejected, ArithmeticError, LookupError, TypeError, ValueError):
        merge(document, checker.derive(document))
    del document["content_sha256"]
    document["content_sha256"] = hashlib.sha256(checker.canonical(document)).hexdigest()
    return checker.canonical(document)


def merge(whole: Any, part: Any) -> None:
    """Write what ``part`` of a certificate says into the ``whole``."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict) or (isinstance(value, list) and len(value) == len(whole[key])):
            merge(whole[key], value)
        else:
            whole[key] = value


def decoder_fields(activation: str, kind: str = "unit", mean: float = 0.0, scale: float = 255.0) -> dict[str, Any]:
    """Contents that the checker's network reads of the decoder of a certificate, in float32."""
    scaling = {"kind": kind, "mean": str(Fraction(mean)), "scale": str(Fraction(scale))}
    return {"activation": activation, "normalization": scaling, "unit": checker.UNITS["float32"]}


def certificate_beside(path: Path, loaded: Checkpoint) -> FoundCertificate | None:
    """The certificate beside a checkpoint or in its run's folder, as ``evaluate`` looks for it."""
    places = certificate_places(str(path), loaded.config.runs_dir, loaded.config.run_name)
    dataset = load_dataset(loaded.data["name"], loaded.config.data_dir)
    about = Evaluated(loaded.model, loaded.normalization, dataset, loaded.metrics["test_looks"])
    return find_certificate(places, about)


def forged(path: str | Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Alter a certificate with everything that follows, as one who has read the checker would; how it is rejected."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    change(document)
    Path(path).write_bytes(sealed(document))
    return rejection(str(path))
