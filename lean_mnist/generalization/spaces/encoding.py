"""The bits of a quantised network: a fixed encoding, its files, and the length of its word in a prefix code.

The fixed encoding writes, layer by layer: shift and scale (16 bits each), the codes row by row (b bits each, most
significant first), the biases (16 bits each). It has exactly ``space.size_in_bits`` bits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.files import write_atomically
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, NetworkSpace, QuantizedLayer, QuantizedNetwork
from lean_mnist.reading.files import read_bytes

#: Bits a weight up to which an enumerative code is worth its table of counts.
MOST_CODED_BITS = 8


def encode(network: QuantizedNetwork) -> bytes:
    """The fixed encoding, filled up with zero bits to whole bytes."""
    parts = []
    for layer in network.layers:
        halves = np.array([layer.shift, layer.scale])
        parts += [_to_bits(halves.view(np.uint16), FLOAT16_BITS), _to_bits(layer.codes, layer.bits)]
        parts += [] if layer.bias is None else [_to_bits(layer.bias.view(np.uint16), FLOAT16_BITS)]
    bits = np.concatenate(parts)
    assert len(bits) == network.space.size_in_bits
    return np.packbits(bits).tobytes()


def decode(content: bytes, space: NetworkSpace) -> QuantizedNetwork:
    """The inverse of :func:`encode`; ``DataError`` for another length, padding that is not 0, or infinities or NaN."""
    expected = -(-space.size_in_bits // 8)
    if len(content) != expected:
        raise DataError(f"network: {len(content)} bytes, expected {expected} for {space.size_in_bits} bits")
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    if bits[space.size_in_bits :].any():
        raise DataError("network: its last bits, which only fill up a byte, are not 0")
    layers, place = [], 0

    def take(count: int, width: int) -> npt.NDArray[np.uint16]:
        nonlocal place
        words = bits[place : place + count * width].reshape(count, width)
        place += count * width
        return (words @ (1 << np.arange(width - 1, -1, -1))).astype(np.uint16)

    for units, inputs in space.layer_shapes:
        shift, scale = take(2, FLOAT16_BITS).view(np.float16)
        codes = take(units * inputs, space.bits).reshape(units, inputs)
        bias = take(units, FLOAT16_BITS).view(np.float16) if space.biases else None
        try:
            layers.append(QuantizedLayer(codes, space.bits, shift, scale, bias, space.encoding))
        except ArgumentError as error:
            raise DataError(f"network, layer {len(layers)}: {error}") from None
    return QuantizedNetwork(tuple(layers), space.denominator)


def code_length(network: QuantizedNetwork) -> int:
    """The number of bits of ``network`` with each layer's codes as one word of an enumerative code.

    Everything else is as in the fixed encoding. Raises ``ArgumentError`` for more than 8 bits a weight.
    """
    space = network.space
    if space.bits > MOST_CODED_BITS:
        raise ArgumentError(f"bits: {space.bits}, expected at most {MOST_CODED_BITS} for an enumerative code")
    words = sum(enumerative_length(layer.codes.ravel(), 1 << space.bits) for layer in network.layers)
    weights = sum(units * inputs for units, inputs in space.layer_shapes)
    return space.size_in_bits - weights * space.bits + words


def enumerative_length(symbols: Sequence[int] | npt.NDArray[Any], alphabet: int) -> int:
    """The length of the word for n ``symbols``, each 0 … K − 1 with K = ``alphabet``, in an enumerative code.

    First how often each symbol occurs, then which of the sequences with these counts it is (Cover, 1973):
    ``⌈log2 C(n + K − 1, K − 1)⌉ + ⌈log2 (n! / Π n_k!)⌉`` bits. It needs no table of frequencies, so nothing about the
    sequence has to be known beforehand, and it costs little more than its entropy. For each n, ``Σ 2^−length ≤ 1``
    (Kraft, 1949), because the numbers of each table's sequences, and those of the tables, do so each.
    """
    counts = np.bincount(np.asarray(symbols, np.int64), minlength=alphabet).tolist()
    sequences, total = 1, 0
    for count in counts:
        total += count
        sequences *= math.comb(total, count)
    tables = math.comb(total + alphabet - 1, alphabet - 1)
    return (tables - 1).bit_length() + (sequences - 1).bit_length()


def _to_bits(values: npt.NDArray[np.uint16], width: int) -> npt.NDArray[np.uint8]:
    """The ``width`` lowest bits of each value, most significant first, one after another."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
    return (values.reshape(-1, 1) >> shifts & 1).astype(np.uint8).ravel()


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
