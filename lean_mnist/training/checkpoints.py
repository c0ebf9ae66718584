"""Checkpoint files: written atomically, verified by hash, of plain values and tensors only.

A checkpoint opens with ``torch.load(path)`` and its safe default, without this package. It holds ``format_version``,
``model`` (a ``state_dict``), ``architecture``, ``normalization``, ``config``, ``metrics``, ``crosscheck``, ``data``,
``versions`` and ``content_sha256``; ``last.pt`` also ``training``, what a run needs to continue.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError, CheckpointError, LeanMnistError
from lean_mnist.files import write_atomically
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.quantized import network_of
from lean_mnist.training.config import Config
from lean_mnist.training.config.config import config_from_dict

FORMAT_VERSION = 1
_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_REQUIRED = ("format_version", "model", "architecture", "normalization", "config", "metrics", "crosscheck", "data")
_MAPPINGS = ("model", "architecture", "normalization", "config")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is known of it."""

    model: MLP  # on the CPU
    normalization: Normalization
    config: Config
    metrics: dict[str, Any]
    crosscheck: dict[str, Any]
    data: dict[str, Any]  # name and fingerprint of the data set it was trained on


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The network in ``best.pt`` or ``last.pt``; raises ``CheckpointError`` if it is damaged or not one of ours."""
    path = Path(path)
    content = read_checkpoint(path)
    for name in _MAPPINGS:
        if not isinstance(content[name], dict):
            raise CheckpointError(f"{path}: {name}: expected names and values, found {type(content[name]).__name__}")
    if "gaussian_sizes" in content["architecture"]:
        raise CheckpointError(f"{path}: expected one network, found a Gaussian over networks (lean_mnist.pacbayes)")
    try:
        model = network_of(content["architecture"])
    except (ArgumentError, TypeError) as error:
        raise CheckpointError(f"{path}: its architecture cannot be built: {error}") from None
    try:
        restore_weights(model, content["model"], path)
        # Put the parameters into memory as a run has them, so that products give the same bits as in the run.
        FlatParameters(model)
        for parameter in model.parameters():
            parameter.grad = None
        return Checkpoint(
            model=model,
            normalization=Normalization.from_dict(content["normalization"]),
            config=config_from_dict(content["config"], str(path), Config),
            metrics=content["metrics"],
            crosscheck=content["crosscheck"],
            data=content["data"],
        )
    except LeanMnistError as error:  # the hash is right, so somebody wrote it like this
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def restore_weights(model: MLP, weights: Mapping[str, Any], path: Path) -> None:
    """Load ``weights`` into ``model``; raises ``CheckpointError`` naming the tensor that does not fit."""
    own = model.state_dict()
    for name in [*own, *(name for name in weights if name not in own)]:
        expected = tuple(own[name].shape) if name in own else "no such tensor"
        found = tuple(weights[name].shape) if isinstance(weights.get(name), torch.Tensor) else "none"
        if expected != found:
            raise CheckpointError(f"{path}: {name}: expected {expected} for {model.architecture}, found {found}")
        if weights[name].dtype not in _FLOATING:
            raise CheckpointError(f"{path}: {name}: expected floating weights, found {weights[name].dtype}")
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(f"{path}: {name}: expected finite weights, found infinities or NaN")
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)


def write_checkpoint(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``content``, with its hash, so that ``path`` is always a whole checkpoint: the old one or this one.

    The old one goes on as ``previous``, if that is given.
    """
    write_atomically(path, packed(content)[0], previous=previous)


def packed(content: dict[str, Any]) -> tuple[bytes, str]:
    """``content`` as a checkpoint's file, and its hash."""
    content = {"format_version": FORMAT_VERSION, **content}
    buffer, found = io.BytesIO(), content_hash(content)
    torch.save({**content, "content_sha256": found}, buffer)
    return buffer.getvalue(), found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, its hash verified; nothing in the file is ever executed.

    Raises ``CheckpointError``: no such file, not a checkpoint, holds code, damaged, or of a later format.
    """
    try:
        with warnings.catch_warnings():  # a damaged file may look like one of an old format
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        ours = isinstance(content, dict) and all(name in content for name in _REQUIRED)
        stored = content.pop("content_sha256", None) if ours else None
        computed = content_hash(content) if ours else ""
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint, found {error.strerror}") from None
    except Exception as error:  # damage shows as almost any: RuntimeError, EOFError, KeyError, RecursionError, ...
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path}: holds objects other than tensors and plain values; it was refused and nothing in it was run"
            ) from None
        raise CheckpointError(f"{path}: expected a checkpoint, found a file that is none, or a damaged one") from None
    if not ours:
        raise CheckpointError(f"{path}: expected a checkpoint of lean_mnist, found a file of another program")
    if content["format_version"] != FORMAT_VERSION:
        found = content["format_version"]
        raise CheckpointError(f"{path}: expected format version {FORMAT_VERSION}, found {found}")
    if stored != computed:
        raise CheckpointError(f"{path}: damaged: its content does not have the hash that was written with it")
    return content


def content_hash(content: Any) -> str:
    """SHA-256 over the values themselves, bit for bit: types, lengths, numbers, each tensor's dtype, shape and bytes.

    PyTorch's reader does not verify the file's own checksums, so a flipped bit in a weight would load in silence.
    """
    digest = hashlib.sha256()
    _feed(content, digest.update)
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[bytes], None]) -> None:
    if isinstance(value, torch.Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
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
