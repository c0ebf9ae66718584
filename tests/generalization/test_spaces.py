"""Networks as bits, and labels by integers: sizes exact, nothing lost, nothing rounded."""

import hashlib
import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.spaces import integers as integers_module
from lean_mnist.generalization.spaces.encoding import decode, encode, read_network, write_network
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import NetworkSpace, QuantizedLayer, QuantizedNetwork


def half(value: float) -> np.float16:
    return np.float16(value)


def random_network(
    sizes: tuple[int, ...],
    bits: int,
    seed: int,
    *,
    bias: bool = False,
    encoding: str = "integer",
    denominator: int = 255,
) -> QuantizedNetwork:
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    layers = []
    for inputs, units in itertools.pairwise(sizes):
        codes = random.integers(0, 2**bits, (units, inputs)).astype(np.uint16)
        if encoding == "float16":
            codes = random.normal(0, 0.3, (units, inputs)).astype(np.float16).view(np.uint16)
        shift, scale = random.normal(0, 0.1, 2).astype(np.float16)
        own = random.normal(0, 1, units).astype(np.float16) if bias else None
        layers.append(QuantizedLayer(codes, bits, shift, scale, own, encoding))
    return QuantizedNetwork(tuple(layers), denominator)


def exact_logits(network: QuantizedNetwork, pixels: np.ndarray) -> list[Fraction]:
    """The definition, in fractions: one image."""
    h = [Fraction(int(p), network.denominator) for p in pixels]
    for index, layer in enumerate(network.layers):
        h = [max(v, Fraction(0)) for v in h] if index else h
        values = layer.codes.view(np.float16) if layer.encoding == "float16" else layer.codes
        z = []
        for unit in range(len(layer.codes)):
            weights = [
                Fraction(float(layer.shift)) + Fraction(float(layer.scale)) * Fraction(float(v)) for v in values[unit]
            ]
            total = sum((w * x for w, x in zip(weights, h, strict=True)), Fraction(0))
            z.append(total + (Fraction(float(layer.bias[unit])) if layer.bias is not None else 0))
        h = z
    return h


@pytest.mark.parametrize(
    ("sizes", "bits", "biases", "expected"),
    [
        ((784, 10, 10), 2, False, 15_944),  # MLCERT's two kernels
        ((784, 10, 10), 16, False, 127_104),
        ((784, 10, 10), 1, False, 4 * 16 + 7_940),
        ((784, 128, 10), 4, True, 4 * 16 + 101_632 * 4 + 16 * 138),
        ((5, 4, 3, 2), 3, True, 6 * 16 + 3 * (20 + 12 + 6) + 16 * 9),
        ((3, 2), 16, False, 32 + 96),
    ],
)
def test_size_in_bits(sizes: tuple[int, ...], bits: int, biases: bool, expected: int) -> None:
    assert NetworkSpace(sizes, bits, biases).size_in_bits == expected


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize(("sizes", "bias"), [((7, 3, 2), False), ((5, 4, 3, 2), True), ((3, 2), True)])
def test_encoding_is_exactly_as_long_and_comes_back(sizes: tuple[int, ...], bias: bool, bits: int) -> None:
    network = random_network(sizes, bits, bits, bias=bias)
    content = encode(network)
    assert len(content) == -(-network.space.size_in_bits // 8)
    back = decode(content, network.space)
    assert back.space == network.space
    for before, after in zip(network.layers, back.layers, strict=True):
        assert np.array_equal(before.codes, after.codes)
        assert before.shift.tobytes() + before.scale.tobytes() == after.shift.tobytes() + after.scale.tobytes()
        if before.bias is None or after.bias is None:
            assert before.bias is after.bias
        else:
            assert np.array_equal(before.bias, after.bias)
    assert encode(back) == content


def test_every_single_bit_counts() -> None:
    network = random_network((2, 2, 2), 1, 3)
    content, space = encode(network), network.space
    seen = set()
    for place in range(space.size_in_bits):
        changed = bytearray(content)
        changed[place // 8] ^= 128 >> place % 8
        try:
            seen.add(encode(decode(bytes(changed), space)))
        except DataError:  # an exponent of all ones: infinity or NaN
            seen.add(bytes(changed))
    assert len(seen) == space.size_in_bits
    assert content not in seen


def test_decoding_refuses_what_is_no_network() -> None:
    network = random_network((3, 3, 2), 3, 0, bias=True)
    content, space = encode(network), network.space
    with pytest.raises(DataError, match=r"network: \d+ bytes, expected"):
        decode(content + b"\0", space)
    with pytest.raises(DataError, match="only fill up a byte, are not 0"):
        decode(content[:-1] + bytes([content[-1] | 1]), space)
    with pytest.raises(DataError, match=r"layer 0: shift: .*nan.*, expected a finite float16"):
        decode(b"\x7e\x00" + content[2:], space)


@pytest.mark.parametrize(
    ("sizes", "bits", "bias", "encoding"),
    [
        ((6, 4, 3), 2, False, "integer"),
        ((6, 4, 3), 1, True, "integer"),
        ((6, 4, 3), 16, True, "float16"),
        ((5, 4, 4, 4, 4, 4, 3), 8, True, "integer"),  # deep: beyond 64 bits
        ((5, 4, 4, 4, 3), 16, False, "float16"),
        ((9, 2), 5, True, "integer"),
    ],
)
def test_integer_logits_are_the_exact_ones(sizes: tuple[int, ...], bits: int, bias: bool, encoding: str) -> None:
    network = random_network(sizes, bits, 11, bias=bias, encoding=encoding, denominator=16)
    images = np.random.default_rng(5).integers(0, 17, (9, sizes[0])).astype(np.uint8)
    integers = IntegerNetwork(network, maximum=16)
    logits = integers.logits(images)
    for image, row in zip(images, logits, strict=True):
        exact = exact_logits(network, image)
        assert [Fraction(int(v), network.denominator << integers.exponent) for v in row] == exact
        assert max(abs(int(v)) for v in row) <= integers.layers[-1].bound
    expected = [max(range(sizes[-1]), key=lambda c: (exact_logits(network, i)[c], -c)) for i in images]
    assert integers.labels(images).tolist() == expected


def test_integers_of_any_width_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network((30, 12, 11, 5), 6, 2, bias=True)
    images = np.random.default_rng(1).integers(0, 256, (40, 30)).astype(np.uint8)
    results = []
    for largest in (2**63 - 1, 2**40, 2**33, 2**20):  # pretend that integers are narrower
        monkeypatch.setattr(integers_module, "_INT64", largest)
        results.append(IntegerNetwork(network).logits(images).astype(object))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_largest_numbers_do_not_overflow() -> None:
    codes = np.full((3, 8), 65535, np.uint16)
    layers = (
        QuantizedLayer(codes, 16, half(65504), half(65504)),
        QuantizedLayer(codes[:, :3].copy(), 16, half(-65504), half(2**-24)),
    )
    network = QuantizedNetwork(layers)
    images = np.full((1, 8), 255, np.uint8)
    integers = IntegerNetwork(network)
    value = exact_logits(network, images[0])[0]
    assert Fraction(int(integers.logits(images)[0, 0]), 255 << integers.exponent) == value
    assert integers.layers[-1].bound > 2**63
    assert integers.logits(images[:0]).shape == (0, 3)


def test_ties_go_to_the_lowest_class() -> None:
    codes = np.zeros((3, 4), np.uint16)
    network = QuantizedNetwork((QuantizedLayer(codes, 1, half(0), half(1)),))
    images = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert IntegerNetwork(network).labels(images).tolist() == [0, 0]
    codes[1:] = 1
    assert IntegerNetwork(network).labels(images).tolist() == [1, 1]
    wide = QuantizedNetwork((QuantizedLayer(np.ones((2, 4), np.uint16), 16, half(60000), half(60000)),) * 1)
    assert IntegerNetwork(wide).labels(images).tolist() == [0, 0]


def test_counting_and_empty_batches() -> None:
    network = random_network((4, 3), 4, 9)
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2)).astype(np.uint8)
    integers = IntegerNetwork(network)
    labels = integers.labels(images)
    assert integers.correct(images, labels) == 5
    assert integers.correct(images, (labels + 1) % 3) == 0  # it can say no
    assert integers.labels(images[:0]).shape == (0,)


def test_bad_images_and_labels() -> None:
    integers = IntegerNetwork(random_network((4, 3), 4, 9), maximum=16)
    images = np.zeros((2, 4), np.uint8)
    for outside in (3, -1):
        assert integers.correct(images, np.array([outside, outside])) == 0
    with pytest.raises(ArgumentError, match=r"labels: shape \(1,\), expected \(2,\)"):
        integers.correct(images, np.array([0]))
    with pytest.raises(ArgumentError, match="a pixel of 17, expected at most 16"):
        integers.labels(images + np.uint8(17))
    with pytest.raises(ArgumentError, match="images: float64, expected uint8"):
        integers.labels(images.astype(float))
    with pytest.raises(ArgumentError, match="5 pixels each, expected 4"):
        integers.labels(np.zeros((2, 5), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits: 0, expected a whole number from 1 to 16"),
        ({"bits": 17}, "bits: 17"),
        ({"bits": 2}, "codes: 5, expected at most 3 for 2 bits"),
        ({"codes": np.zeros((2, 2), np.int64)}, "codes: int64 of shape"),
        ({"codes": np.zeros((0, 2), np.uint16)}, "codes: uint16 of shape"),
        ({"shift": np.float16("nan")}, "shift: .*nan.*, expected a finite float16"),
        ({"scale": np.float16("inf")}, "scale: .*inf"),
        ({"scale": 0.5}, "scale: 0.5, expected a finite float16"),
        ({"bias": np.array([0, np.nan], np.float16)}, "bias: holds infinities or NaN"),
        ({"bias": np.zeros(3, np.float16)}, r"bias: float16 of shape \(3,\)"),
        ({"encoding": "float16"}, "bits: 3, expected 16 for the encoding float16"),
        ({"encoding": "flaot16"}, "encoding: 'flaot16', expected one of integer, float16"),
        (
            {"encoding": "float16", "bits": 16, "codes": np.full((2, 2), 0x7E00, np.uint16)},
            "codes: hold infinities or NaN",
        ),
    ],
)
def test_impossible_layers(options: dict[str, object], message: str) -> None:
    values = {"codes": np.full((2, 2), 5, np.uint16), "bits": 3, "shift": half(0), "scale": half(1), **options}
    with pytest.raises(ArgumentError, match=message):
        QuantizedLayer(**values)  # type: ignore[arg-type]


def test_impossible_networks_and_spaces() -> None:
    first, second = random_network((4, 3, 2), 2, 0).layers
    with pytest.raises(ArgumentError, match=r"layers\[1\]: 4 inputs, expected 3"):
        QuantizedNetwork((first, first))
    with pytest.raises(ArgumentError, match="layers: none"):
        QuantizedNetwork(())
    with pytest.raises(ArgumentError, match=r"layers\[1\].bits: 5, expected that of layers\[0\]"):
        QuantizedNetwork((first, random_network((3, 2), 5, 0).layers[0]))
    with pytest.raises(ArgumentError, match=r"layers\[1\].bias: expected biases in every layer or in none"):
        QuantizedNetwork((first, random_network((3, 2), 2, 0, bias=True).layers[0]))
    with pytest.raises(ArgumentError, match="denominator: 0"):
        QuantizedNetwork((first, second), 0)
    with pytest.raises(ArgumentError, match="sizes"):
        NetworkSpace((4,), 2)


def test_float16_is_read_as_ieee_754_has_it() -> None:
    every = np.arange(65536, dtype=np.uint16)
    every = every[np.isfinite(every.view(np.float16))].reshape(1, -1).copy()
    layer = QuantizedLayer(every, 16, half(0), half(1), None, "float16")
    weight, _, exponent = layer.integers()
    assert all(
        Fraction(int(w), 1 << exponent) == Fraction(float(v))
        for w, v in zip(weight[0], every.view(np.float16)[0], strict=True)
    )


def test_space_travels_as_plain_values() -> None:
    space = NetworkSpace((4, 3, 2), 5, True, denominator=16)
    values = space.to_dict()
    assert NetworkSpace(**{**values, "sizes": tuple(values["sizes"])}) == space


def counted_network(sizes: tuple[int, ...], bits: int) -> QuantizedNetwork:
    """A network made by whole-number arithmetic, the same everywhere."""
    layers, state = [], 1
    for inputs, units in itertools.pairwise(sizes):
        codes = []
        for _ in range(inputs * units):
            state = (1_103_515_245 * state + 12_345) % 2**31
            codes.append(state >> 16 & (2**bits - 1))
        bias = np.array([(k % 7 - 3) / 4 for k in range(units)], np.float16)
        shape = (units, inputs)
        layers.append(
            QuantizedLayer(np.array(codes, np.uint16).reshape(shape), bits, half(-0.0977), half(0.2 / 2**bits), bias)
        )
    return QuantizedNetwork(tuple(layers))


def test_the_same_numbers_on_every_machine() -> None:
    images = (np.arange(50 * 20) * 7919 % 251).astype(np.uint8).reshape(50, 20)
    for sizes, bits, expected in (
        ((20, 12, 5), 3, "1d512adcf5a5595f304cadcce278d1ad9d59c0d8e494f366e85c290382c5ffc1"),
        ((20, 12, 12, 12, 12, 5), 9, "d34ffee2c446d667679536547c2e158cd0c0407e47029cde5ac4653947d6b87e"),
    ):
        integers = IntegerNetwork(counted_network(sizes, bits))
        text = ",".join(str(int(v)) for v in integers.logits(images).ravel())
        assert hashlib.sha256(text.encode()).hexdigest() == expected


def test_files_come_back(tmp_path: Path) -> None:
    for bits, bias, encoding in ((2, False, "integer"), (5, True, "integer"), (16, True, "float16")):
        network = random_network((6, 4, 3), bits, 1, bias=bias, encoding=encoding, denominator=16)
        write_network(tmp_path / "a.json", network)
        back = read_network(tmp_path / "a.json")
        assert (encode(back), back.space) == (encode(network), network.space)


def test_hash_covers_weights_and_space(tmp_path: Path) -> None:
    network = random_network((6, 4), 4, 1)
    layer = network.layers[0]
    codes = layer.codes.copy()
    codes[3, 5] ^= 1
    changed = QuantizedNetwork((QuantizedLayer(codes, 4, layer.shift, layer.scale),))
    hashes = set()
    for each in (network, changed, QuantizedNetwork(network.layers, 16)):
        write_network(tmp_path / "a.json", each)
        hashes.add(json.loads((tmp_path / "a.json").read_text())["sha256"])
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "another"}, "format: 'another', expected"),
        ({"more": 1}, "a.json: object contains unknown field more"),
        ({"\n\x1b[2J": 1}, r"unknown field \\n\\x1b\[2J"),
        ({"sha256": "0" * 64}, "sha256: '0000"),
        ({"weights": "AAAA"}, "weights: network: 3 bytes, expected"),
        ({"weights": "!"}, "weights: expected base64"),
        ({"weights": 7}, "weights: expected str, got int"),
        ({"space": {"bits": 4}}, "space: object missing required field sizes"),
        ({"bits": True}, "space.bits: expected int, got bool"),
        ({"bits": 17}, "space.bits: expected int <= 16"),
        ({"sizes": [6, 4.0]}, r"space.sizes\[1\]: expected int, got float"),
        ({"sizes": [6, 1 << 40]}, r"space.sizes\[1\]: expected int <= 16777216"),
        ({"denominator": 16}, "sha256: "),
        ({"denominator": 10**300}, "space.denominator: "),
        ({"sizes": [1] * 101}, "space.sizes: expected array of length <= 100"),
        ({"sizes": [[[]] * 1000]}, "space.sizes"),
        ({"encoding": "x\x1b[2J" * 1000}, r"space.encoding: invalid enum value 'x\\x1b\[2J"),
    ],
)
def test_altered_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.json"
    write_network(path, random_network((6, 4), 4, 1))
    content = json.loads(path.read_text())
    for name, value in change.items():
        (content["space"] if name in content["space"] else content)[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_network(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{nonsense")
    for name, message in (
        ("a.json", "expected a quantised network, found no JSON"),
        ("none.json", "expected a quantised network, found: No such file"),
    ):
        with pytest.raises(DataError, match=message):
            read_network(tmp_path / name)
