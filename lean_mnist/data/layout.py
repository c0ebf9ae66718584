"""The four files of each data set: their places below a root folder (torchvision's layout), their official SHA-256.

Of the official hashes those are here that could be established; a data set without them is of unknown origin wherever
it comes from.
"""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lean_mnist.data.idx import PathLike
from lean_mnist.errors import DataError
from lean_mnist.reading.text import shown


@dataclass(frozen=True)
class Layout:
    """The files of one data set, unpacked names; each may also lie there as ``NAME.gz``."""

    folder: str  # name of torchvision's class, which is also the name of the folder that holds ``raw``
    files: tuple[str, str, str, str]  # training images, training labels, test images, test labels
    transposed: bool = False  # images are stored column by column and have to be turned upright
    test_limit: int | None = None  # only the first so many examples of the test files are the test split

    @property
    def raw(self) -> str:
        """Folder of the raw files, below torchvision's root."""
        return f"{self.folder}/raw"


def _files(train: str, test: str, labels: str = "labels-idx1-ubyte") -> tuple[str, str, str, str]:
    images = "images-idx3-ubyte"
    return f"{train}-{images}", f"{train}-{labels}", f"{test}-{images}", f"{test}-{labels}"


LAYOUTS: dict[str, Layout] = {
    "mnist": Layout("MNIST", _files("train", "t10k")),
    "fashion-mnist": Layout("FashionMNIST", _files("train", "t10k")),
    "kmnist": Layout("KMNIST", _files("train", "t10k")),
    # QMNIST's test file holds 60,000 digits. The first 10,000 are those of MNIST's test split, torchvision's "test10k".
    "qmnist": Layout("QMNIST", _files("qmnist-train", "qmnist-test", "labels-idx2-int"), test_limit=10_000),
    "emnist-digits": Layout("EMNIST", _files("emnist-digits-train", "emnist-digits-test"), transposed=True),
}

PARTS = ("training images", "training labels", "test images", "test labels")

#: SHA-256 of the unpacked IDX file of each of ``PARTS``; for ``digits`` of those that certificates write.
OFFICIAL_SHA256: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "digits": (
        "5553194a2c3035ccdbcca666c6d57d689bcd30eb1008d89df7d2a420f3f99aca",
        "758ea24dda58850b7a23dc99bf34b7d9eb0e6b680563fbe5406b73b826d71243",
        "47b60a4cc7331c65fcc4f43274e67ae4228677489b5d49413fc3f0036656cfd6",
        "34128b0eac0fff7f74f52eea4c879f532d754c733fdf8ef29f74075e51a5611f",
    ),
}

#: ``Dataset.fingerprint`` of the same data, by which they are known without being hashed once more.
FINGERPRINTS: dict[str, str] = {
    "mnist": "7e7fce5ba8cc6f9049d0c4c721ac501da22392bcf8db7206c16808a2c0fe5c2e",
    "digits": "b373fc17e151bcecc231747e5c9e29d521be7b4f0cd22dde91150b2bdfa04113",
}


class Origin(Enum):
    """Provenance of data, as far as their content shows it."""

    OFFICIAL = "official"  # every example of both splits is that of the official files
    UNKNOWN = "unknown"


def locate(root: PathLike, layout: Layout) -> list[Path] | None:
    """The four files below ``root``, in the order of :attr:`Layout.files`; ``None`` if none of them is there.

    Where both an unpacked file and its ``.gz`` exist the unpacked one is taken, as torchvision does.
    Raises :class:`DataError` if some but not all are there, which is damage and not absence.
    """
    raw = Path(root, layout.raw)
    found = [
        next((path for path in (raw / name, raw / f"{name}.gz") if os.path.exists(path)), None) for name in layout.files
    ]
    present = [path for path in found if path is not None]
    if not present:
        return None
    if len(present) < len(found):
        missing = raw / layout.files[found.index(None)]
        raise DataError(
            f"{shown(missing)}: missing (neither it nor its .gz is there), expected beside {present[0].name}; "
            f"found {len(present)} of 4 files"
        )
    return present
