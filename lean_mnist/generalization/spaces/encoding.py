"""The bits of a quantised network: a fixed encoding, its files, and the length of its word in a prefix code.

The fixed encoding writes, layer by layer: shift and scale (16 bits each), the codes row by row (b bits each, most
significant first), the biases (16 bits each). It has exactly ``space.size_in_bits`` bits.
"""

import base64
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.files import write_atomically
from lean_mnist.generalization.spaces.network import FLOAT16_BITS, NetworkSpace, QuantizedLayer, QuantizedNetwork
from lean_mnist.reading.json import read_json
from lean_mnist.reading.schema import Fields, Sha256, checked
from lean_mnist.reading.text import printable, shown

#: Bits a weight up to which an enumerative code is worth its table of counts.
MOST_CODED_BITS = 8
_SURE = 1e-6
_BLOCK = 1 << 16  # codes whose bits are handled together


def encode(network: QuantizedNetwork) -> bytes:
    """The fixed encoding, filled up with zero bits to whole bytes."""
    parts = []
    for layer in network.layers:
        halves = np.array([layer.shift, layer.scale])
        parts += [(halves.view(np.uint16), FLOAT16_BITS), (layer.codes, layer.bits)]
        parts += [] if layer.bias is None else [(layer.bias.view(np.uint16), FLOAT16_BITS)]
    content, open_bits = bytearray(), np.zeros(0, np.uint8)
    for values, width in parts:
        flat = values.ravel()
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            bits = np.concatenate((open_bits, np.zeros(len(block) * width, np.uint8)))
            for bit in range(width):
                bits[len(open_bits) + bit :: width] = block >> (width - 1 - bit) & 1
            whole = len(bits) - len(bits) % 8
            content += np.packbits(bits[:whole]).tobytes()
            open_bits = bits[whole:]
    content += np.packbits(open_bits).tobytes()
    assert len(content) == -(-network.space.size_in_bits // 8)
    return bytes(content)


def decode(content: bytes, space: NetworkSpace) -> QuantizedNetwork:
    """The inverse of :func:`encode`; ``DataError`` for another length, padding that is not 0, or infinities or NaN."""
    expected = -(-space.size_in_bits // 8)
    if len(content) != expected:
        raise DataError(f"network: {len(content)} bytes, expected {expected} for {space.size_in_bits} bits")
    if content[-1] & ((1 << -space.size_in_bits % 8) - 1):
        raise DataError("network: its last bits, which only fill up a byte, are not 0")
    packed, layers, place = np.frombuffer(content, np.uint8), [], 0

    def take(count: int, width: int) -> npt.NDArray[np.uint16]:
        """The next ``count`` numbers of ``width`` bits."""
        nonlocal place
        values = np.zeros(count, np.uint16)
        for start in range(0, count, _BLOCK):
            block = values[start : start + _BLOCK]
            skipped, length = place % 8, len(block) * width
            bits = np.unpackbits(packed[place // 8 : -(-(place + length) // 8)])[skipped : skipped + length]
            for bit in range(width):
                block <<= 1
                block |= bits[bit::width]
            place += length
        return values

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
    n, k = sum(counts), alphabet - 1
    return _bits_of_multinomial(counts) + (math.comb(n + k, k) - 1).bit_length()


def _bits_of_multinomial(counts: list[int]) -> int:
    """``⌈log2 (n! / Π n_k!)⌉``, exactly: where logarithms leave it open the numbers decide, which takes much longer."""
    logarithms = [math.lgamma(count + 1) / math.log(2) for count in (sum(counts), *counts)]
    about, rounding = logarithms[0] - math.fsum(logarithms[1:]), 64 * sys.float_info.epsilon * sum(logarithms)
    if sum(counts) > 1 << 12 and math.ceil(about - rounding - _SURE) == math.ceil(about + rounding + _SURE):
        return math.ceil(about)
    sequences, total = 1, 0
    for count in counts:
        total += count
        sequences *= math.comb(total, count)
    return (sequences - 1).bit_length()


FORMAT = "lean_mnist quantised network 1"


class _SpaceFields(Fields):
    sizes: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 24)], ...], Meta(max_length=100)]
    bits: Annotated[int, Meta(ge=1, le=16)]
    biases: bool
    encoding: Literal["integer", "float16"]
    denominator: Annotated[int, Meta(ge=1, le=1 << 62)]


class _NetworkFile(Fields):
    format: str
    space: _SpaceFields
    weights: str
    sha256: Sha256


def network_hash(space: NetworkSpace, encoded: bytes) -> str:
    """SHA-256 (hexadecimal) of the space, as JSON with sorted keys, a line feed and the fixed encoding."""
    text = json.dumps(space.to_dict(), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode() + b"\n")
    digest.update(encoded)
    return digest.hexdigest()


def write_network(path: str | Path, network: QuantizedNetwork) -> None:
    """Write ``network``; the file appears whole or not at all. It holds ``format``, ``space``, ``weights``, ``sha256``.

    ``weights`` is the fixed encoding in base64.
    """
    encoded = encode(network)
    content = {
        "format": FORMAT,
        "space": network.space.to_dict(),
        "weights": base64.b64encode(encoded).decode(),
        "sha256": network_hash(network.space, encoded),
    }
    write_atomically(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def read_network(path: str | Path) -> QuantizedNetwork:
    """The inverse of :func:`write_network`; ``DataError``, naming the field, for what it cannot have written."""
    name = shown(path)
    file = checked(read_json(path, "a quantised network"), _NetworkFile, name, "", DataError)
    if file.format != FORMAT:
        raise DataError(f"{name}: format: {printable(file.format, 60)!r}, expected {FORMAT!r}")
    try:
        space = NetworkSpace(**msgspec.structs.asdict(file.space))
    except ArgumentError as error:
        raise DataError(f"{name}: space.{error}") from None
    try:
        content = base64.b64decode(file.weights, validate=True)
        network = decode(content, space)
    except DataError as error:
        raise DataError(f"{name}: weights: {error}") from None
    except ValueError:
        raise DataError(f"{name}: weights: expected base64") from None
    if file.sha256 != (expected := network_hash(space, content)):
        raise DataError(f"{name}: sha256: {file.sha256!r}, expected {expected}")
    return network
