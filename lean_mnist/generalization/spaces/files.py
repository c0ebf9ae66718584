"""Files of quantised networks: plain JSON, one text for each network, with its hash."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.files import write_atomically
from lean_mnist.generalization.reading import read_bytes
from lean_mnist.generalization.spaces.encoding import decode, encode
from lean_mnist.generalization.spaces.network import NetworkSpace, QuantizedNetwork

FORMAT = "lean_mnist quantised network 1"
_FIELDS = {"sizes": list, "bits": int, "biases": bool, "encoding": str, "denominator": int}


def network_hash(network: QuantizedNetwork) -> str:
    """SHA-256 (hexadecimal) of the space, as JSON with sorted keys, a line feed and the fixed encoding."""
    space = json.dumps(network.space.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(space.encode() + b"\n" + encode(network)).hexdigest()


def write_network(path: str | Path, network: QuantizedNetwork) -> None:
    """Write ``network``; the file appears whole or not at all. It holds ``format``, ``space``, ``weights``, ``sha256``.

    ``weights`` is the fixed encoding in base64.
    """
    content = {
        "format": FORMAT,
        "space": network.space.to_dict(),
        "weights": base64.b64encode(encode(network)).decode(),
        "sha256": network_hash(network),
    }
    write_atomically(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def read_network(path: str | Path) -> QuantizedNetwork:
    """The inverse of :func:`write_network`; ``DataError``, naming the field, for what it cannot have written."""
    text = read_bytes(path, "a quantised network")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: no JSON, expected a quantised network") from None
    if not isinstance(content, dict) or set(content) != {"format", "space", "weights", "sha256"}:
        raise DataError(f"{path}: expected the fields format, space, weights and sha256")
    if content["format"] != FORMAT:
        raise DataError(f"{path}: format: {str(content['format'])[:60]!r}, expected {FORMAT!r}")
    space = _space(content["space"], path)
    try:
        network = decode(base64.b64decode(content["weights"], validate=True), space)
    except DataError as error:
        raise DataError(f"{path}: weights: {error}") from None
    except (TypeError, ValueError):
        raise DataError(f"{path}: weights: expected base64") from None
    if content["sha256"] != network_hash(network):
        raise DataError(f"{path}: sha256: {str(content['sha256'])[:64]!r}, expected {network_hash(network)}")
    return network


def _space(values: Any, path: str | Path) -> NetworkSpace:
    if not isinstance(values, dict) or set(values) != set(_FIELDS):
        raise DataError(f"{path}: space: expected the fields {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind or (kind is list and not all(type(size) is int for size in values[name])):
            raise DataError(f"{path}: space.{name}: {str(values[name])[:60]}, expected {kind.__name__}")
    if len(values["sizes"]) > 100 or any(size > 1 << 24 for size in values["sizes"]):
        raise DataError(f"{path}: space.sizes: {str(values['sizes'])[:60]}, expected at most 100 of at most {1 << 24}")
    try:
        return NetworkSpace(**{**values, "sizes": tuple(values["sizes"])})
    except ArgumentError as error:
        raise DataError(f"{path}: space.{error}") from None
