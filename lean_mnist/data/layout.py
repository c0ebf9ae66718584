"""Where each data set's four files lie below a root folder: torchvision's layout."""

import os
from dataclasses import dataclass
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
