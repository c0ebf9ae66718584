"""Checkpoint files: written atomically, verified by hash, of plain values and tensors only.

A checkpoint opens with ``torch.load(path)`` and its safe default, without this package. It holds ``format_version``,
``model`` (a ``state_dict``), ``architecture``, ``normalization``, ``config``, ``metrics``, ``crosscheck``, ``data``,
``versions`` and ``content_sha256``; ``last.pt`` also ``training``, what a run needs to continue.
"""

import hashlib
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError, CheckpointError, HealthError
from lean_mnist.files import write_atomically
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.reading.archive import read_archive
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config import Config
from lean_mnist.training.config.places import CHECKPOINTS, checkpoint_path
from lean_mnist.training.contents import Checked, check_content

FORMAT_VERSION = 1
_CHUNK = 5000  # images a forward pass
_REQUIRED = ("format_version", "model", "architecture", "normalization", "config", "metrics", "crosscheck", "data")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is known of it."""

    model: MLP  # on the CPU
    normalization: Normalization
    config: Config
    metrics: dict[str, Any]
    crosscheck: dict[str, Any]
    data: dict[str, Any]  # name and fingerprint of the data set it was trained on, shape of its images, its classes

    @property
    def image_shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        known = {64: (8, 8), 784: (28, 28)}  # of checkpoints of earlier versions, which do not name it
        rows, columns = self.data.get("image_shape") or known.get(self.model.sizes[0], (1, self.model.sizes[0]))
        return rows, columns

    @property
    def maximum(self) -> int:
        """Largest possible pixel value of its data."""
        return int(self.data.get("maximum") or (16 if self.data["name"] == "digits" else 255))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; its number where it has no other."""
        return tuple(self.data.get("class_names") or map(str, range(self.model.sizes[-1])))

    @torch.no_grad()
    def logits(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Logits (B, C) of raw pixels, uint8 (B, rows, columns), normalised as the network was trained.

        Raises ``ArgumentError`` for images of another type or size, and ``HealthError`` if a logit is not finite.
        """
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or tuple(pixels.shape[1:]) != self.image_shape:
            found = f"{str(pixels.dtype).removeprefix('torch.')} of shape {tuple(pixels.shape)}"
            rows, columns = self.image_shape
            raise ArgumentError(f"images: {found}, expected uint8 of shape (B, {rows}, {columns})")
        dtype = next(self.model.parameters()).dtype
        logits = torch.cat([self.model(self.normalization.apply(part, dtype)) for part in pixels.split(_CHUNK)])
        if not torch.isfinite(logits).all():
            raise HealthError("the network's outputs are not finite on these images")
        return logits

    def probabilities(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Softmax of :meth:`logits`, float64 (B, C); raises what that does."""
        return self.logits(images).double().softmax(1)


def load_checkpoint(which: str | Path = "", *, checkpoints_dir: str | Path = CHECKPOINTS) -> Checkpoint:
    """The network of a run: the latest, or ``which``, as ``checkpoint_path`` finds it; raises ``CheckpointError``."""
    path = checkpoint_path(which, checkpoints_dir)
    content, _, (model, config, normalization) = read_with_hash(path)
    if model is None:
        found = "found a Gaussian over networks (lean_mnist.pacbayes)"
        raise CheckpointError(f"{shown(path)}: expected one network, {found}")
    # Put the parameters into memory as a run has them, so that products give the same bits as in the run.
    FlatParameters(model)
    for parameter in model.parameters():
        parameter.grad = None
    return Checkpoint(model, normalization, config, content["metrics"], content["crosscheck"], content["data"])


def write_checkpoint(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``content`` and its hash so that ``path`` is always whole; the old file goes on as ``previous``."""
    write_atomically(path, packed(content)[0], previous=previous)


def packed(content: dict[str, Any]) -> tuple[bytes, str]:
    """``content`` as a checkpoint's file, and its hash."""
    content = {"format_version": FORMAT_VERSION, **content}
    buffer, found = io.BytesIO(), content_hash(content)
    torch.save({**content, "content_sha256": found}, buffer)
    return buffer.getvalue(), found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, its hash and fields verified, nothing of it run; raises ``CheckpointError``."""
    return read_with_hash(path)[0]


def read_with_hash(path: Path) -> tuple[dict[str, Any], str, Checked]:
    """As :func:`read_checkpoint`, with the hash of the content and what it was checked by."""
    content, where = read_archive(path, "a checkpoint", CheckpointError), shown(path)
    if not isinstance(content, dict) or not all(name in content for name in _REQUIRED):
        raise CheckpointError(f"{where}: expected a checkpoint of lean_mnist, found a file of another program")
    version, stored = content["format_version"], content.pop("content_sha256", None)
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(f"{where}: expected format version {FORMAT_VERSION}, found {printable(version, 20)}")
    found = content_hash(content)
    if stored != found:
        raise CheckpointError(f"{where}: damaged: its content does not have the hash that was written with it")
    return content, found, check_content(content, where)


def content_hash(content: Any) -> str:
    """SHA-256 over the values themselves, bit for bit: types, lengths, numbers, each tensor's dtype, shape and bytes.

    PyTorch's reader does not verify the file's own checksums, so a flipped bit in a weight would load in silence.
    """
    digest = hashlib.sha256()
    _feed(content, digest.update)
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[bytes | memoryview], None]) -> None:
    if isinstance(value, torch.Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)} ".encode())
        for key, item in value.items():
            _feed(key, update)
            _feed(item, update)
    elif isinstance(value, (list, tuple)):
        update(f"sequence {len(value)} ".encode())
        for item in value:
            _feed(item, update)
    elif isinstance(value, float):
        update(b"float " + struct.pack("<d", value))
    else:
        text = repr(value).encode()
        update(f"{type(value).__name__} {len(text)} ".encode() + text)
