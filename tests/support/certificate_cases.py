"""What the tests of certificates share: small random networks, data sets of a few examples, certificates of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.holdout import Certificate, certify
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.nn import MLP

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
    return certify(model, normalization, data, SplitHistory("test", 1))


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
