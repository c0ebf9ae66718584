"""Honest data and networks, altered at random: read, or refused in one line that names the file."""

import gzip
import io
import itertools
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from lean_mnist.data.idx import read_idx, read_images, read_labels
from lean_mnist.errors import LeanMnistError
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.learners.experiments import read_examples
from lean_mnist.generalization.spaces.encoding import read_network, write_network
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork
from tests.support.import_cases import GEMM, arrays_of, imported, model_of, parts, torch_network

INPUTS = 80  # of each
WORDS = (
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    bytes(8),
    b"[" * 99,
    b"9" * 99,
    b"\x1b[2J\n",
    b"nan",
    b"-1",
    b"R",
    b"b",
)


def network_file(folder: Path) -> bytes:
    halves = np.array([-0.5, 0.25], np.float16)
    layers = [QuantizedLayer(np.arange(12, dtype=np.uint16).reshape(3, 4), 5, *halves)]
    write_network(folder / "n.json", QuantizedNetwork(tuple(layers)))
    return (folder / "n.json").read_bytes()


def saved(write: Callable[[Any], None]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


READERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], bytes]]] = {
    "images.idx": (read_images, lambda _: struct.pack(">4I", 0x803, 3, 5, 4) + bytes(60)),
    "labels.idx": (read_labels, lambda _: struct.pack(">2I", 0x801, 9) + bytes(range(9))),
    "extended.idx": (read_idx, lambda _: struct.pack(">3I", 0xC02, 3, 8) + bytes(96)),
    "packed.idx": (read_idx, lambda _: gzip.compress(struct.pack(">2I", 0x801, 9) + bytes(range(9)))),
    "halves.pkl": (read_mlcert, lambda _: pickle.dumps((np.ones((3, 2), np.float16), np.ones((2, 2), np.float16)), 3)),
    "words.pkl": (
        read_mlcert,
        lambda _: pickle.dumps((np.array([["01", "1"]]), np.array([["01"], ["1"]]), *map(np.float32, (0, 1, 0, 1))), 3),
    ),
    "a.onnx": (imported, lambda _: model_of(GEMM, parts(torch_network(12, 7, 3))).SerializeToString()),
    "a.safetensors": (imported, lambda _: safetensors.numpy.save(arrays_of(torch_network(12, 7, 3)))),
    "a.pt": (imported, lambda _: saved(lambda file: torch.save(torch_network(12, 7, 3).state_dict(), file))),
    "a.json": (read_network, network_file),
    "a.dat": (read_examples, lambda _: b"2,0.1,-2.5e-2,True\n1,3,4,False\n0,1e3,16777217,True\n"),
}


def mutations(content: bytes, seed: int) -> list[bytes]:
    """``content`` with bits flipped, cut, spliced, repeated, and numbers and words put over it, a few at a time."""
    drawn, altered = random.Random(seed), []
    for _ in range(INPUTS):
        own = bytearray(content)
        for _ in range(drawn.choice((1, 1, 2, 5))):
            place = drawn.randrange(max(1, min(len(own), drawn.choice((40, 300, 1 << 20)))))
            length, word = drawn.randrange(1, 60), drawn.choice(WORDS)
            how = drawn.randrange(6)
            if how == 0 and own:
                own[place] ^= 1 << drawn.randrange(8)
            elif how == 1:
                del own[place:]
            elif how == 2:
                del own[place : place + length]
            elif how == 3:
                own[place:place] = own[:length] * drawn.choice((1, 30))
            elif how == 4:
                own[place : place + len(word)] = word
            else:
                own[place:place] = word
        altered.append(bytes(own))
    return altered


@pytest.mark.parametrize("name", READERS)
def test_altered_files_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (read, content), path, refused = READERS[name], tmp_path / name, 0
    honest = content(tmp_path)
    path.write_bytes(honest)
    read(path)
    for inside, seed in itertools.product((False, True) if name == "packed.idx" else (False,), (1, 2)):
        print(f"seed {seed}")
        for altered in mutations(gzip.decompress(honest) if inside else honest, seed):
            path.write_bytes(gzip.compress(altered) if inside else altered)
            refusal = refusal_of(read, path)
            refused += refusal is not None
            assert refusal is None or (refusal.isprintable() and str(path) in refusal)
            assert refusal is None or len(refusal) < len(str(path)) + 400
    assert refused > INPUTS


def refusal_of(read: Callable[[Path], object], path: Path) -> str | None:
    """The message of the error with which a file is refused; errors that are not ours pass through."""
    try:
        read(path)
    except LeanMnistError as error:
        return str(error)
    return None
