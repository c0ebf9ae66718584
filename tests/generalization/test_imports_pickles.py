"""MLCERT's pickles: its two networks are read as it reads them, and nothing hostile is run or believed."""

import gzip
import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.data.datasets import Dataset
from lean_mnist.errors import DataError
from lean_mnist.generalization.imports import mlcert as mlcert_module
from lean_mnist.generalization.imports.certified import verify_on_data
from lean_mnist.generalization.imports.mlcert import read_arrays, read_mlcert
from lean_mnist.generalization.spaces.encoding import code_length
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from tests.support.import_cases import (
    B2,
    B16,
    Runs,
    attempt,
)


@pytest.mark.parametrize(("name", "bits", "correct"), [(B16, 127_104, 6965), (B2, 15_944, 6353)])
def test_networks_of_mlcert_on_mnist(mlcert: Path, mnist: Dataset, name: str, bits: int, correct: int) -> None:
    network = read_mlcert(mlcert / name)
    assert network.space.size_in_bits == bits
    images, labels = mnist.test.images.numpy(), mnist.test.labels.numpy()
    assert IntegerNetwork(network).correct(images, labels) == correct
    few = slice(0, 2000)
    accuracy = Fraction(IntegerNetwork(network).correct(images[few], labels[few]), 2000)
    verified = verify_on_data(network, images[few], labels[few], accuracy)
    assert (verified.words, verified.readings) == ("layers as they are, images as they are", 4)
    with pytest.raises(DataError, match=r"no reading of 4 has accuracy 0.96"):
        verify_on_data(network, images[few], labels[few], Fraction("0.96"))


def test_numbers_of_the_two_bit_network(mlcert: Path) -> None:
    first, second = read_mlcert(mlcert / B2).layers
    numbers = [float(value) for layer in (first, second) for value in (layer.shift, layer.scale)]
    assert numbers == [-0.09674072265625, 0.0965576171875, -0.55322265625, 0.55322265625]
    assert code_length(read_mlcert(mlcert / B2)) == 13_816


def test_the_files_survive_no_alteration_unnoticed(mlcert: Path, tmp_path: Path) -> None:
    content = gzip.decompress((mlcert / B16).read_bytes())
    whole = read_mlcert(mlcert / B16)
    print("seed 0")
    random, path = np.random.default_rng(0), tmp_path / "a.pkl"
    for place in [*range(0, 220), *random.integers(0, len(content), 60).tolist()]:
        altered = bytearray(content)
        altered[place] ^= 1 << int(random.integers(8))
        path.write_bytes(altered)
        network = attempt(read_mlcert, path)
        if network is None:
            continue
        same = all(np.array_equal(a.codes, b.codes) for a, b in zip(network.layers, whole.layers, strict=True))
        assert not same or place < 220  # some bits of the header, such as the protocol's number, mean nothing


def hostile(marker: Path) -> dict[str, bytes]:
    array = np.zeros((2, 2), np.float16)
    dumps = [pickle.dumps((array, array), protocol) for protocol in range(6)]
    ours = dumps[3]
    return {
        "system": pickle.dumps((Runs(os.system, f"touch {marker}"), array), 3),
        "eval": pickle.dumps((Runs(eval, f"open({str(marker)!r}, 'w')"), array), 3),
        "stack-global": pickle.dumps((Runs(os.system, f"touch {marker}"), array), 4),
        "numpy-function": b"\x80\x03cnumpy\nsave\n(U\x01atR.",
        "getattr": b"\x80\x03cbuiltins\ngetattr\n.",
        "instance": b"(ios\nsystem\n.",
        "object-array": pickle.dumps((np.array([[1, None]], dtype=object), array), 3),
        "object-scalar": ours.replace(b"f2", b"O8"),
        "wrong-size": ours.replace(b"\x08\x00\x00\x00\x00\x00\x00\x00\x00", b"\x07\x00\x00\x00\x00\x00\x00\x00"),
        "too-many-bytes": ours.replace(b"K\x02K\x02", b"K\x02K\x03"),
        "structured": pickle.dumps((np.zeros(2, "f2,f2"), array), 3),
        "column-order": pickle.dumps((np.asfortranarray(np.arange(6.0).reshape(2, 3)), array), 3),
        "long": pickle.dumps((10**400, array), 3),
        "a-list": pickle.dumps([array, array], 3),
        "one-array": pickle.dumps(array, 3),
        "a-number": pickle.dumps((array, 3), 3),
        "text": pickle.dumps((array, "word"), 3),
        "recursion": b"\x80\x03" + b"(" * 20_000 + b"t" * 20_000 + b".",
        "trailing": ours + b"0",
        "memo": b"\x80\x03h\x05.",
        "empty": b"",
        "cut": ours[:-1],
        "half": ours[: len(ours) // 2],
        "no-pickle": b"hello, world",
        "persistent": b"\x80\x03K\x01Q.",
        "build-anything": b"\x80\x03cnumpy\nndarray\n}b.",
        "bytes": b"\x80\x03(C\x01aC\x01bt.",
    }


@pytest.mark.parametrize("name", list(hostile(Path("marker"))))
def test_hostile_pickles_are_refused_and_not_run(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "hostile.pkl"
    path.write_bytes(hostile(marker)[name])
    with pytest.raises(
        DataError, match=r"refused, .*; expected a pickle of NumPy arrays, and nothing in it was run"
    ) as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_free_reader_would_have_run_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(hostile(marker)["eval"])[0].close()  # what the test above guards against
    assert marker.exists()


def test_plain_pickles_are_read(tmp_path: Path) -> None:
    floats, words = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([["01", "10"]])
    for protocol in (2, 3):
        path = tmp_path / "plain.pkl"
        path.write_bytes(pickle.dumps((floats, words, np.float32(0.5)), protocol))
        if protocol == 2:  # it holds bytes in another way
            with pytest.raises(DataError, match="refused"):
                read_arrays(path)
            continue
        arrays = read_arrays(path)
        assert np.array_equal(arrays[0], floats)
        assert np.array_equal(arrays[1], words)
        assert float(arrays[2]) == 0.5


def test_files_that_are_too_large_damaged_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="expected a pickle of NumPy arrays, found: No such file"):
        read_arrays(tmp_path / "none.pkl")
    path = tmp_path / "bomb.pkl.gz"
    monkeypatch.setattr(mlcert_module, "_LARGEST_FILE", 1 << 20)
    path.write_bytes(gzip.compress(b"\0" * (1 << 22)))
    with pytest.raises(DataError, match="more than 1,048,576 bytes"):
        read_arrays(path)
    path.write_bytes(gzip.compress(b"hello")[:-4])
    with pytest.raises(DataError, match="damaged gzip file"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((np.zeros((2, 2), np.float16),) * 3, "holds float16 .*, expected two float16 matrices"),
        ((np.zeros((2, 2), np.float16), np.zeros((3, 2), np.float16)), r"layers\[1\]: 3 inputs, expected 2"),
        ((np.zeros(2, np.float16),) * 2, r"codes: uint16 of shape \(2,\)"),
        ((np.full((2, 2), np.nan, np.float16),) * 2, "codes: hold infinities or NaN"),
        ((np.array([["02"]]), np.array([["01"]]), *[np.float32(v) for v in (0, 1, 0, 1)]), "'02' in a matrix"),
        ((np.array([["01"]]), np.array([["01"]]), *[np.float32(v) for v in (1, 1, 0, 1)]), "bounds 1.0 and 1.0"),
        (
            (np.array([["01"]]), np.array([["01"]]), *[np.float64(v) for v in (0, 1e300, 0, 1)]),
            "expected a finite float16",
        ),
        ((np.array([["01"]]), np.array([["01"]]), *[np.float32(v) for v in (-3e38, 3e38, 0, 1)]), "a finite float16"),
        (
            (np.array([["01"]]), np.array([["01"]]), *[np.float32(v) for v in (0, np.inf, 0, 1)]),
            "expected a finite number",
        ),
    ],
)
def test_pickles_that_are_no_network(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, 3))
    with pytest.raises(DataError, match=message):
        read_mlcert(path)
