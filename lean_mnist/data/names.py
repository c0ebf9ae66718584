"""Names of the data sets that options accept, and paths beside them. Imports little, so that ``--help`` stays fast."""

import os
import re

from lean_mnist.errors import ConfigError, check_choice
from lean_mnist.reading.text import shown

DATASETS: tuple[str, ...] = ("mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "digits")
"""Every data set that can be asked for by name."""

AUTO = "auto"  # MNIST where it can be had, otherwise ``digits``

DATASET_CHOICES: tuple[str, ...] = (AUTO, *DATASETS)  # what ``--dataset`` accepts

NORMALIZATIONS: tuple[str, ...] = ("standard", "centered", "unit", "per-image")  # what ``--normalization`` accepts

DATA_VARIABLE = "LEAN_MNIST_DATA"  # names a folder to search first, which is read, never written


def is_path(dataset: str) -> bool:
    """True where ``--dataset`` names own data: by a slash, or a file that ends in ``.npz``."""
    return "/" in dataset or "\\" in dataset or dataset.endswith(".npz") or dataset in (".", "..")


def check_dataset(what: str, dataset: str) -> None:
    """Raise :class:`ConfigError` unless ``dataset`` is a name or a path; ``what`` is what the message calls it."""
    if is_path(dataset):
        return
    if dataset not in DATASET_CHOICES and os.path.isdir(dataset):
        raise ConfigError(f"{what}: {shown(dataset)} is a folder, expected own data with a slash: ./{shown(dataset)}")
    check_choice(what, dataset, DATASET_CHOICES, ConfigError)


def dataset_name(dataset: str) -> str:
    """``dataset`` itself; of own data a name of a-z, 0-9, ``-`` and ``_`` that is none of the named data sets'."""
    if not is_path(dataset):
        return dataset
    stem = os.path.basename(os.path.abspath(os.path.expanduser(dataset))).lower().removesuffix(".npz")
    name = re.sub("[^a-z0-9_-]+", "-", stem).strip("-")[:50] or "own"
    return f"own-{name}" if name in DATASET_CHOICES else name
