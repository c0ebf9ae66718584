"""Examples in memory, images ``rows x columns`` with labels, and a data set of a training and a test split."""

import functools
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lean_mnist.data.idx import IMAGES_MAGIC, LABELS_MAGIC
from lean_mnist.data.official import FINGERPRINTS, OFFICIAL_SHA256, PARTS, Origin
from lean_mnist.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 (m, rows, columns) and their ``labels`` int64 (m,)."""

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> "Split":
        """The same of arrays."""
        return cls(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels))

    def check_labels(self, classes: int | None = None) -> None:
        """Raise :class:`ArgumentError` unless there are examples, and each has a label in 0..classes-1."""
        if len(self.labels) == 0 or len(self.images) != len(self.labels):
            found = f"{len(self.images)} images and {len(self.labels)} labels"
            raise ArgumentError(f"split: {found}, expected equally many, and at least 1")
        low, high = (int(end) for end in self.labels.aminmax())
        if low < 0 or (classes is not None and high >= classes):
            most = "" if classes is None else f" to {classes - 1}"
            raise ArgumentError(f"split: a label of {low if low < 0 else high}, expected whole numbers from 0{most}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split. ``train`` is everything one may learn from; ``test`` chooses nothing.

    Raises :class:`ArgumentError` for a split without examples, and for a label that is none of the classes.
    """

    name: str
    train: Split
    test: Split
    classes: int
    maximum: int  # largest possible pixel value: 255, for ``digits`` 16
    source: str  # where it came from, for people: a folder, a file, or "scikit-learn"
    class_names: tuple[str, ...] = ()  # one a class; their numbers if not given
    path: str = ""  # of own data, as --dataset has it; named data sets have none

    def __post_init__(self) -> None:
        names = self.class_names or tuple(map(str, range(self.classes)))
        if len(names) != self.classes:
            raise ArgumentError(f"class_names: {len(names)}, expected {self.classes}, one a class")
        object.__setattr__(self, "class_names", names)
        for split in (self.train, self.test):
            split.check_labels(self.classes)

    @property
    def image_shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        _, rows, columns = self.train.images.shape
        return rows, columns

    @property
    def features(self) -> int:
        """``D = rows * columns``."""
        rows, columns = self.image_shape
        return rows * columns

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the name and of the shapes and bytes of all four arrays; computed once.

        Depends on the content only, not on where the files lie or whether they are packed; own data have no name in it.
        """
        return self._fingerprint

    @property
    def about(self) -> dict[str, Any]:
        """Plain values that a checkpoint keeps of the data, besides name and fingerprint."""
        shape, names = list(self.image_shape), list(self.class_names)
        return {"image_shape": shape, "maximum": self.maximum, "class_names": names}

    @property
    def origin(self) -> Origin:
        """``OFFICIAL`` for the official data of this name, by the fingerprint."""
        return Origin.OFFICIAL if FINGERPRINTS.get(self.name) == self.fingerprint() else Origin.UNKNOWN

    def doubt(self) -> str | None:
        """The line that says why these are not the official data of this name; ``None`` if they are."""
        if self.origin is Origin.OFFICIAL:
            return None
        known = OFFICIAL_SHA256.get(self.name)
        fault = "own data" if self.path else "the SHA-256 of its official files is not known here"
        if known is not None:
            found = zip(PARTS, known, self._file_hashes(), strict=True)
            differ = [part for part, official, own in found if official != own]
            fault = f"not the official data, by SHA-256 ({', '.join(differ)})"
        return f"Data set '{self.name}' from {self.source}: {fault}; nobody vouches for where it comes from"

    def gaps(self, train: Split | None = None) -> str | None:
        """The line that says of which classes a split has no examples; ``None`` where each has some in both.

        ``train`` is what is learned from, if it is a part of the training split.
        """
        said = []
        for split, purpose in ((train or self.train, "to learn from"), (self.test, "to test")):
            counts = torch.bincount(split.labels, minlength=self.classes).tolist()
            lacking = [repr(name) for name, count in zip(self.class_names, counts, strict=True) if not count]
            if lacking:
                more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
                said.append(f"nothing {purpose} of {', '.join(lacking[:3])}{more}")
        return f"Data set '{self.name}' has {'; '.join(said)}" if said else None

    def overlap(self) -> str | None:
        """The line that says how many test images are in the training split, too; ``None`` if none is."""
        learned = {hashlib.sha256(image).digest() for image in self.train.images.cpu().numpy()}
        count = sum(hashlib.sha256(image).digest() in learned for image in self.test.images.cpu().numpy())
        found = f"{count:,} of its {len(self.test):,} test images are also among those to learn from"
        return f"Data set '{self.name}': {found}" if count else None

    def _file_hashes(self) -> Iterator[str]:
        """SHA-256 of what each of ``PARTS`` is as an IDX file."""
        for split in (self.train, self.test):
            for magic, array in ((IMAGES_MAGIC, split.images), (LABELS_MAGIC, split.labels.to(torch.uint8))):
                digest = hashlib.sha256(struct.pack(f">{1 + array.ndim}I", magic, *array.shape))
                digest.update(np.ascontiguousarray(array.cpu().numpy()).data)
                yield digest.hexdigest()

    @functools.cached_property
    def _fingerprint(self) -> str:
        arrays = (self.train.images, self.train.labels, self.test.images, self.test.labels)
        about = ["" if self.path else self.name, [list(array.shape) for array in arrays]]
        digest = hashlib.sha256(json.dumps(about).encode())
        for array in arrays:
            values = array.cpu().numpy()
            # Little-endian whatever the machine, so that a fingerprint means the same everywhere.
            digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
        return digest.hexdigest()
