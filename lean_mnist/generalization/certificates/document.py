"""Certificates about the very examples that were learned from: what those of both kinds share."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lean_mnist.data.layout import LAYOUTS
from lean_mnist.files import write_atomically
from lean_mnist.generalization import checker

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset

FILE = "certificate.json"
PAC_BAYES = "pac-bayes-kl"
# The data sets whose training split is, byte for byte, two files of torchvision's layout. Others are written beside.
_IN_LAYOUT = ("mnist", "fashion-mnist", "kmnist")


@dataclass(frozen=True)
class TrainingCertificate:
    """A certificate about the examples learned from, and the raw files beside it: ``document`` as JSON has it."""

    document: dict[str, Any]
    files: dict[str, bytes]

    @property
    def risks(self) -> dict[tuple[str, Fraction], Fraction]:
        """The certified risk by (bound, δ); 1 where a bound says nothing."""
        claims = self.document["claims"]
        return {(claim.get("bound", PAC_BAYES), Fraction(claim["delta"])): Fraction(claim["risk"]) for claim in claims}

    def to_json(self) -> str:
        return checker.canonical(self.document).decode()

    def text(self) -> str:
        """A few lines for people."""
        counts = self.document["counts"]
        counted = f"{counts['errors']:,} of {counts.get('draws', counts['examples']):,}"
        of = "draws of a network and an example are errors" if "draws" in counts else "training examples are wrong"
        return "\n".join([f"{counted} {of}", *(f"  {line}" for line in self.document["statement"])])

    def write(self, folder: Path) -> Path:
        """Write the document and its files into ``folder`` and return the document's path."""
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        write_atomically(folder / FILE, self.to_json().encode())
        return folder / FILE


def training_data(dataset: Dataset) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The field ``data`` for the training split, and the files that stand beside as no data folder has them."""
    images, labels = dataset.train.images.cpu().numpy(), dataset.train.labels.cpu().numpy()
    examples, rows, columns = images.shape
    contents = {
        "images": struct.pack(">IIII", 0x803, examples, rows, columns) + images.tobytes(),
        "labels": struct.pack(">II", 0x801, examples) + labels.astype(np.uint8).tobytes(),
    }
    names, folder = {kind: f"certificate.{kind}.idx" for kind in contents}, ""
    beside = {names[kind]: content for kind, content in contents.items()}
    if dataset.name in _IN_LAYOUT:
        layout = LAYOUTS[dataset.name]
        names, folder, beside = dict(zip(contents, layout.files[:2], strict=True)), layout.raw, {}
    found = {kind: {"folder": folder, **described(names[kind], raw)} for kind, raw in contents.items()}
    about = {"dataset": dataset.name, "split": "train", "examples": examples, "rows": rows, "columns": columns}
    return {**about, **found}, beside


def described(name: str, raw: bytes) -> dict[str, str]:
    """A file's name and the SHA-256 of its content."""
    return {"file": name, "sha256": hashlib.sha256(raw).hexdigest()}
