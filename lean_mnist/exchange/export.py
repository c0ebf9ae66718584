"""Export of a checkpoint to safetensors, ONNX or torch.export, each read back and run before it is written."""

import contextlib
import importlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lean_mnist.errors import ConfigError, DataError, LeanMnistError
from lean_mnist.exchange.pixels import PixelNetwork, onnx_model
from lean_mnist.files import write_atomically
from lean_mnist.generalization.certificates.networks import weights_hash
from lean_mnist.generalization.imports.tensors import read_safetensors
from lean_mnist.nn.quantized import exact_network
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.checkpoints import Checkpoint, load_checkpoint
from lean_mnist.training.config.places import checkpoint_path
from lean_mnist.training.evaluation.report import data_of

if TYPE_CHECKING:
    from lean_mnist.export import ExportArguments

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}
_INSTALL = "pip install 'lean_mnist[export]'"
_RANDOM_IMAGES = 1000


@dataclass(frozen=True)
class Comparison:
    """Agreement of what was exported with the checkpoint on the same images."""

    images: int
    source: str  # of the images
    reader: str  # what ran the exported network
    differing: int  # predictions that are not the checkpoint's
    largest: float  # difference between two logits
    allowed: float  # by rounding


@dataclass(frozen=True)
class Exported:
    """A file that was written; ``str(exported)`` is for people."""

    path: str
    format: str
    bytes: int
    holds: str  # in words
    comparison: Comparison | None  # None where nothing here can run the format

    def __str__(self) -> str:
        lines = [f"written   {shown(self.path)} ({self.format}, {self.bytes:,} bytes)", f"holds     {self.holds}"]
        found = self.comparison
        if found is None:
            return "\n".join([*lines, f"compared  not at all: onnxruntime is not installed here ({_INSTALL})"])
        lines += [
            f"compared  on {found.source}, by {found.reader}:",
            f"          {found.images - found.differing:,} of {found.images:,} predictions are the checkpoint's,",
            f"          logits within {found.largest:.1e} of its own (rounding explains {found.allowed:.1e})",
        ]
        return "\n".join(lines)


def export_checkpoint(arguments: "ExportArguments") -> Exported:
    """Write a checkpoint's network in another format; raises ``LeanMnistError`` where that computes something else."""
    source = checkpoint_path(arguments.checkpoint)
    checkpoint = load_checkpoint(source)
    kind, out = _target(arguments, source)
    if not out.parent.is_dir():
        raise ConfigError(f"--out: expected a file in a folder that is there, found {shown(out)}")
    network = PixelNetwork(checkpoint)
    write, run = _FORMATS[kind]
    content = write(checkpoint, network)
    images, about = _images(checkpoint, arguments.data_dir)
    comparison = None
    with contextlib.suppress(_NoReader), torch.no_grad():
        comparison = compare(checkpoint, images, about, *run(content, checkpoint, images))
    write_atomically(out, content)
    return Exported(str(out), kind, len(content), _holds(network, kind), comparison)


def compare(checkpoint: Checkpoint, images: Tensor, about: str, reader: str, logits: Tensor) -> Comparison:
    """Compare ``logits`` (B, C), that ``reader`` computed of ``images``, with the checkpoint's own.

    Either may be ten times as far from the same network in float64 as the checkpoint's own are, and 32 units of
    rounding; raises ``LeanMnistError`` for more.
    """
    own, exact = checkpoint.logits(images), PixelNetwork(checkpoint, torch.float64)(images)
    unit = torch.finfo(logits.dtype).eps * float(exact.abs().max())
    allowed = 10 * float((own.double() - exact).abs().max()) + 32 * unit
    largest = float((logits.double() - own.double()).abs().max()) if logits.shape == own.shape else math.inf
    if not largest <= allowed:  # NaN is more than anything
        found = f"its logits are {largest:.1e} from the checkpoint's on {about}"
        raise LeanMnistError(f"export: {found}, where rounding explains {allowed:.1e}; nothing was written")
    differing = int((logits.argmax(1) != own.argmax(1)).sum())
    return Comparison(len(images), about, reader, differing, largest, allowed)


class _NoReader(Exception):
    """Nothing here can run the format."""


def _target(arguments: "ExportArguments", source: Path) -> tuple[str, Path]:
    """The format and the file to write."""
    kinds: dict[str, str] = {arguments.format: SUFFIXES[arguments.format]} if arguments.format else SUFFIXES
    if arguments.out is None:
        if arguments.format is None:
            raise ConfigError(f"--format: expected one of {', '.join(SUFFIXES)}, or --out FILE with an end of theirs")
        return arguments.format, source.with_suffix(SUFFIXES[arguments.format])
    out = Path(arguments.out)
    for kind, suffix in kinds.items():  # no other end, so that no checkpoint or certificate is written over
        if out.suffix == suffix:
            return kind, out
    raise ConfigError(f"--out: expected a file that ends in {', '.join(kinds.values())}, found {shown(out)}")


def _holds(network: PixelNetwork, kind: str) -> str:
    rows, columns = network.image_shape
    dtype = str(network.dtype).removeprefix("torch.")
    if kind == "safetensors":
        return f"weights, {dtype}; its metadata say how pixels become features"
    classes = len(network.weights[-1])
    return f"raw pixels uint8 (B, {rows}, {columns}) in, logits {dtype} (B, {classes}) out"


def _images(checkpoint: Checkpoint, data_dir: str | None) -> tuple[Tensor, str]:
    """Test images of the checkpoint's data, or random ones where these are not here."""
    with contextlib.suppress(DataError, ConfigError):
        dataset = data_of(checkpoint, checkpoint.data["name"], data_dir, download=False)
        if dataset.fingerprint() == checkpoint.data["sha256"]:
            return dataset.test.images, f"the {len(dataset.test):,} test images of {dataset.name}"
    random = torch.Generator().manual_seed(0)
    shape = (_RANDOM_IMAGES, *checkpoint.image_shape)
    images = torch.randint(0, checkpoint.maximum + 1, shape, dtype=torch.uint8, generator=random)
    return images, f"{_RANDOM_IMAGES:,} random images (the test images of its run are not here)"


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Description of its network that a file holds: texts, those of ``lean_mnist.*`` in JSON."""
    about = {
        "architecture": {"sizes": list(checkpoint.model.sizes), "activation": checkpoint.model.activation},
        "normalization": checkpoint.normalization.to_dict(),
        "image_shape": list(checkpoint.image_shape),
        "class_names": list(checkpoint.class_names),
        "data": checkpoint.data["name"],
        "certified_weights_sha256": weights_hash(exact_network(checkpoint.model)),
    }
    return {f"lean_mnist.{name}": json.dumps(value, ensure_ascii=False) for name, value in about.items()}


def _safetensors(checkpoint: Checkpoint, network: PixelNetwork) -> bytes:
    """A header in JSON behind its length, then numbers, little-endian: https://huggingface.co/docs/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata(checkpoint)}}
    content = io.BytesIO()
    has_bias = checkpoint.model.weights_and_biases()[0][1] is not None
    for index, pair in enumerate(zip(network.weights, network.biases, strict=True)):
        for name, tensor in list(zip(("weight", "bias"), pair, strict=True))[: 1 + has_bias]:
            array, start = tensor.numpy(), content.tell()
            content.write(array.astype(array.dtype.newbyteorder("<")).tobytes())
            entry = {"dtype": f"F{8 * array.dtype.itemsize}", "shape": list(array.shape)}
            header[f"layers.{index}.{name}"] = {**entry, "data_offsets": [start, content.tell()]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content.getvalue()


def _run_safetensors(content: bytes, checkpoint: Checkpoint, images: Tensor) -> tuple[str, Tensor]:
    """By our own reader, whose weights take the place of the checkpoint's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        path.write_bytes(content)
        tensors = read_safetensors(path).arrays
    network = PixelNetwork(checkpoint)
    for kind, parameters in (("weight", network.weights), ("bias", network.biases)):
        for index, parameter in enumerate(parameters):
            if (array := tensors.get(f"layers.{index}.{kind}")) is not None:
                parameter.data = torch.from_numpy(array.copy())
    return "PyTorch on the weights read back", network(images)


def _onnx(checkpoint: Checkpoint, network: PixelNetwork) -> bytes:
    try:
        return onnx_model(network, metadata(checkpoint))
    except ImportError:
        raise ConfigError(f"--format onnx: expected the package onnx, found none here ({_INSTALL})") from None


def _run_onnx(content: bytes, checkpoint: Checkpoint, images: Tensor) -> tuple[str, Tensor]:
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        raise _NoReader from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    reader = f"onnxruntime {runtime.__version__}"
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        parts = [torch.from_numpy(session.run(None, {"pixels": part.numpy()})[0]) for part in images.split(1000)]
    except Exception as fault:  # it has an exception for each fault, all of its own
        raise LeanMnistError(f"export: {reader} cannot run it ({printable(fault, 200)}); nothing was written") from None
    return reader, torch.cat(parts)


def _torch_export(checkpoint: Checkpoint, network: PixelNetwork) -> bytes:
    rows, columns = checkpoint.image_shape
    example = torch.zeros(2, rows, columns, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of its own modules
        program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}})
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _run_torch_export(content: bytes, checkpoint: Checkpoint, images: Tensor) -> tuple[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(content)).module()
    return f"torch.export of PyTorch {torch.__version__}", module(images)


_Write = Callable[[Checkpoint, PixelNetwork], bytes]
_Run = Callable[[bytes, Checkpoint, Tensor], tuple[str, Tensor]]
_FORMATS: dict[str, tuple[_Write, _Run]] = {
    "safetensors": (_safetensors, _run_safetensors),
    "onnx": (_onnx, _run_onnx),
    "torch-export": (_torch_export, _run_torch_export),
}
