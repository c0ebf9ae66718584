"""Networks from elsewhere: read right, verified on data, and nothing hostile is run or believed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.errors import ArgumentError, DataError
from lean_mnist.generalization.imports import (
    ImportedNetwork,
    Scaling,
    network_from_tensors,
    read_arrays,
    read_mlcert,
    read_network,
    read_onnx,
    read_safetensors,
    read_state_dict,
    verify_on_data,
)
from lean_mnist.generalization.imports import files as files_module
from lean_mnist.generalization.quantize import fold_scaling, quantize_layers
from lean_mnist.generalization.spaces import IntegerNetwork, code_length
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import write_checkpoint

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
B16, B2 = "params-EMNIST-b16-N10-073018.pkl.gz", "params-EMNIST-b2-N10-073118.pkl.gz"


@pytest.fixture(scope="module")
def shared() -> Path:
    for root in (os.environ.get("LEAN_MNIST_DATA"), SHARED):
        if root and Path(root, "mlcert", B2).is_file():
            return Path(root)
    pytest.skip("MLCERT's networks are neither in LEAN_MNIST_DATA nor in ../shared/data")


@pytest.fixture(scope="module")
def mnist(shared: Path) -> Dataset:
    if not (shared / "MNIST" / "raw").is_dir():
        pytest.skip("real MNIST is not beside MLCERT's networks")
    return load_dataset("mnist", shared, download=False)


def attempt(reader: Callable[[Path], Any], path: Path) -> Any:
    """What the reader makes of a file, ``None`` where it refuses it; any other error than one line passes through."""
    try:
        return reader(path)
    except DataError as refusal:
        if "\n" in str(refusal):
            raise
        return None


# --- MLCERT's two networks


@pytest.mark.parametrize(("name", "bits", "correct"), [(B16, 127_104, 6965), (B2, 15_944, 6353)])
def test_networks_of_mlcert_on_mnist(shared: Path, mnist: Dataset, name: str, bits: int, correct: int) -> None:
    network = read_mlcert(shared / "mlcert" / name)
    assert network.space.size_in_bits == bits
    images, labels = mnist.test.images.numpy(), mnist.test.labels.numpy()
    assert IntegerNetwork(network).correct(images, labels) == correct
    few = slice(0, 2000)
    accuracy = IntegerNetwork(network).correct(images[few], labels[few]) / 2000
    verified = verify_on_data(network, images[few], labels[few], accuracy)
    assert (verified.reading, verified.readings) == ("layers as they are, images as they are", 4)
    with pytest.raises(DataError, match=r"no reading of 4 has accuracy 0.96"):
        verify_on_data(network, images[few], labels[few], 0.96)


def test_numbers_of_the_two_bit_network(shared: Path) -> None:
    first, second = read_mlcert(shared / "mlcert" / B2).layers
    numbers = [float(value) for layer in (first, second) for value in (layer.shift, layer.scale)]
    assert numbers == [-0.09674072265625, 0.0965576171875, -0.55322265625, 0.55322265625]
    assert code_length(read_mlcert(shared / "mlcert" / B2)) == 13_816


def test_the_files_survive_no_alteration_unnoticed(shared: Path, tmp_path: Path) -> None:
    content = gzip.decompress((shared / "mlcert" / B16).read_bytes())
    whole = read_mlcert(shared / "mlcert" / B16)
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


# --- hostile pickles


class Runs:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


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
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(tmp_path / "none.pkl")
    path = tmp_path / "bomb.pkl.gz"
    monkeypatch.setattr(files_module, "LARGEST", 1 << 20)
    path.write_bytes(gzip.compress(b"\0" * (1 << 22)))
    with pytest.raises(DataError, match="more than 1 MiB"):
        read_arrays(path)
    path.write_bytes(gzip.compress(b"hello")[:-4])
    with pytest.raises(DataError, match="damaged gzip file"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((np.zeros((2, 2), np.float16),) * 3, "holds float16 .*, expected two float16 matrices"),
        ((np.zeros((2, 2), np.float16), np.zeros((3, 2), np.float16)), r"layers\[1\]: 3 inputs, expected 2"),
        ((np.zeros(2, np.float16),) * 2, "matrix 0 has shape"),
        ((np.full((2, 2), np.nan, np.float16),) * 2, "codes: hold infinities or NaN"),
        ((np.array([["02"]]), np.array([["01"]]), *[np.float32(v) for v in (0, 1, 0, 1)]), "'02' in matrix 0"),
        ((np.array([["01"]]), np.array([["01"]]), *[np.float32(v) for v in (1, 1, 0, 1)]), "bounds 1.0 and 1.0"),
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


# --- state_dict and safetensors


def torch_network(*sizes: int, bias: bool = True) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):  # noqa: RUF007
        layers += [torch.nn.Linear(before, after, bias=bias), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


IMAGES = np.random.default_rng(3).integers(0, 256, (200, 3, 4)).astype(np.uint8)
UNIT = Scaling(0.0, 255.0)


def labels_of(model: torch.nn.Module, images: np.ndarray = IMAGES) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images).flatten(1).float() / 255).argmax(1).numpy()


def assert_same(network: ImportedNetwork, model: torch.nn.Sequential) -> None:
    weights = [(layer.weight, layer.bias) for layer in model if isinstance(layer, torch.nn.Linear)]
    for (weight, bias), (expected, expected_bias) in zip(network.layers, weights, strict=True):
        assert np.array_equal(weight, expected.detach().double().numpy())
        assert (bias is None) == (expected_bias is None)
        assert bias is None or np.array_equal(bias, expected_bias.detach().double().numpy())
    assert np.array_equal(network.logits(IMAGES, UNIT).argmax(1), labels_of(model))


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        kind = {"f": f"F{8 * array.dtype.itemsize}", "u": "BF16", "i": "I64"}[array.dtype.kind]
        content = array.tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    for name, entry in changes.get("entries", {}).items():
        header[name] = {**header.get(name, {}), **entry} if isinstance(entry, dict) else entry
    text = json.dumps(header).encode() if "text" not in changes else changes["text"]
    path.write_bytes(struct.pack("<Q", changes.get("size", len(text))) + text + data + changes.get("tail", b""))
    return path


def arrays_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_and_safetensors(tmp_path: Path, bias: bool) -> None:
    model = torch_network(12, 7, 5, 3, bias=bias)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "b.pt")
    write_safetensors(tmp_path / "c.safetensors", arrays_of(model))
    for name in ("a.pt", "b.pt", "c.safetensors"):
        network = read_network(tmp_path / name, features=12, classes=3)
        assert_same(network, model)
        assert network.known == (True, True, True)
        assert network.model().state_dict().keys() == MLP((12, 7, 5, 3), bias=bias).state_dict().keys()
    quantized = quantize_layers(network.layers, 16, encoding="float16")
    assert (IntegerNetwork(quantized).labels(IMAGES) == labels_of(model)).mean() > 0.98


def test_our_own_checkpoint(tmp_path: Path) -> None:
    model = MLP((12, 4, 3))
    content = {"model": model.state_dict(), "architecture": model.architecture, "normalization": {}, "config": {}}
    content |= {"metrics": {}, "crosscheck": {}, "data": {}}
    write_checkpoint(tmp_path / "best.pt", content)
    network = read_network(tmp_path / "best.pt", features=12, classes=3)
    assert np.array_equal(network.layers[0][0], model.layers[0].weight.detach().double().numpy())  # type: ignore[union-attr]
    write_checkpoint(tmp_path / "tanh.pt", {**content, "architecture": {"activation": "tanh"}})
    with pytest.raises(DataError, match="a network with 'tanh', expected relu"):
        read_network(tmp_path / "tanh.pt")


def test_stored_the_other_way_round(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    turned = {name: np.ascontiguousarray(a.T) for name, a in arrays_of(model).items()}
    network = network_from_tensors(turned, "turned", features=12, classes=3)
    assert_same(network, model)
    assert network.transposed == (True, True)


def test_order_is_found_by_shapes(tmp_path: Path) -> None:
    model = torch_network(12, 7, 5, 3)
    named = arrays_of(model)
    renamed = {
        {"0": "input", "2": "hidden", "4": "classifier"}[name.split(".")[0]] + "." + name.split(".")[1]: array
        for name, array in named.items()
    }
    path = write_safetensors(tmp_path / "a.safetensors", dict(sorted(renamed.items())))
    assert_same(read_network(path, features=12, classes=3), model)
    many = torch_network(*[12] + [4] * 11 + [3])  # layers.10 comes after layers.2
    path = write_safetensors(tmp_path / "b.safetensors", dict(sorted(arrays_of(many).items())))
    assert_same(read_network(path, features=12, classes=3), many)
    square = {f"{name}.weight": np.eye(4, dtype=np.float32) for name in ("b", "a")}
    last = {"c.weight": np.ones((3, 4), np.float32)}
    with pytest.raises(DataError, match="fit together in more than one order"):
        network_from_tensors({**last, **square}, "x", features=4, classes=3)
    with pytest.raises(DataError, match="fit together in more than one order"):  # no order of its own: a, b or b, a?
        network_from_tensors({**square, **last}, "x", features=4, classes=3, ordered=False)
    assert network_from_tensors({**square, **last}, "x", features=4, classes=3).sizes == (4, 4, 4, 3)
    numbered = {f"fc{k}.weight": np.full((4, 4), k, np.float32) for k in (10, 9, 2)}
    network = network_from_tensors(
        {**numbered, "a.weight": last["c.weight"]}, "x", features=4, classes=3, ordered=False
    )
    assert [weight[0, 0] for weight, _ in network.layers] == [2, 9, 10, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": np.full((7, 12), np.nan, np.float32)}, "0.weight holds infinities or NaN"),
        ({"2.bias": np.array([0, np.inf, 0], np.float32)}, "2.weight's bias holds infinities"),
        ({"2.bias": np.zeros(4, np.float32)}, "2.weight's bias has 4 numbers, expected 3"),
        ({"2.weight": np.zeros((3, 8), np.float32)}, r"2.weight has shape \(3, 8\), expected 7 inputs"),
        ({"1.running_mean": np.zeros(7, np.float32)}, "1.running_mean of shape .* belongs to no dense layer"),
        ({"1.weight": np.zeros(7, np.float32)}, r"1.weight of shape \(7,\) belongs to no dense layer"),
        ({"9.bias": np.zeros(7, np.float32)}, "9.bias has no 9.weight beside it"),
        ({"0.weight": np.zeros((7, 0), np.float32)}, "0.weight has shape"),
    ],
)
def test_tensors_that_are_no_network(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        network_from_tensors({**arrays_of(torch_network(12, 7, 3)), **change}, "x", features=12, classes=3)
    with pytest.raises(DataError, match="gives 3 classes, expected 10"):
        network_from_tensors(arrays_of(torch_network(12, 7, 3)), "x", features=12, classes=10)
    with pytest.raises(DataError, match="holds no layer"):
        network_from_tensors({}, "x")


def test_hostile_and_foreign_torch_files(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"model": Runs(os.system, f"touch {marker}")}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 damaged")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(DataError, match="refused, damaged or holds other objects"):
            read_state_dict(tmp_path / name)
    assert not marker.exists()
    for content, message in (
        ({"x": 3}, "'x' is a int, expected a dense tensor"),
        ([1], "holds no named tensors"),
        ({"a.weight": torch.zeros(2, 2, dtype=torch.int64)}, "a.weight is torch.int64, expected floating"),
    ):
        torch.save(content, tmp_path / "c.pt")
        with pytest.raises(DataError, match=message):
            read_state_dict(tmp_path / "c.pt")
    with pytest.raises(DataError, match="cannot be read"):
        read_state_dict(tmp_path / "none.pt")


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    exact = np.array([1.5, -2.0, 0.0078125], np.float32)
    path = write_safetensors(tmp_path / "a.safetensors", {"x": (exact.view(np.uint32) >> 16).astype(np.uint16)})
    assert read_safetensors(path)["x"].tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1 << 40}, "a header of 1099511627776 bytes"),
        ({"text": b"{nonsense"}, "its header is no JSON object"),
        ({"text": b"[1]"}, "its header is a list"),
        ({"text": b'{"a":1,"a":2}'}, "no JSON object with distinct names"),
        ({"text": b"[" * 90_000}, "its header is no JSON object"),
        ({"entries": {"a": 7}}, "a is 7, expected dtype, shape and two data_offsets"),
        ({"entries": {"a": {"dtype": "I64"}}}, "a is 'I64', expected one of F64"),
        ({"entries": {"a": {"shape": [2, -2]}}}, "a has shape"),
        ({"entries": {"a": {"shape": [2, 3]}}}, "a lies at 0 to 16, expected 0 to 24"),
        ({"entries": {"a": {"data_offsets": [8, 24]}}}, "a lies at 8 to 24, expected 0 to 16"),
        ({"entries": {"a": {"data_offsets": [-1, 15]}}}, "expected dtype, shape and two data_offsets"),
        ({"entries": {"b": {"data_offsets": [0, 8]}}}, "lies at 0 to"),
        ({"tail": b"xy"}, "2 bytes after the last tensor"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tensors = {"a": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    with pytest.raises(DataError, match=message):
        read_safetensors(write_safetensors(tmp_path / "a.safetensors", tensors, **changes))
    (tmp_path / "short.safetensors").write_bytes(b"1234")
    with pytest.raises(DataError, match="holds 4 bytes"):
        read_safetensors(tmp_path / "short.safetensors")


def test_altered_safetensors_raise_nothing_else(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", arrays_of(torch_network(4, 3, 2)))
    content = path.read_bytes()
    print("seed 2")
    random = np.random.default_rng(2)
    for place in range(0, len(content), 2):
        altered = bytearray(content)
        altered[place] ^= 1 << int(random.integers(8))
        for each in (bytes(altered), content[:place]):
            path.write_bytes(each)
            attempt(read_network, path)


# --- ONNX, written by the few lines below


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = b""
    while value > 127:
        result, value = result + bytes([value & 127 | 128]), value >> 7
    return result + bytes([value])


def message(*pairs: tuple[int, Any]) -> bytes:
    result = b""
    for number, value in pairs:
        if isinstance(value, int):
            result += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            result += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            value = value.encode() if isinstance(value, str) else value
            result += varint(number << 3 | 2) + varint(len(value)) + value
    return result


def tensor(name: str, array: np.ndarray, *extra: tuple[int, Any]) -> bytes:
    kind = {"f4": 1, "i8": 7, "f2": 10, "f8": 11, "i4": 6}[array.dtype.str[1:]]
    return message(*((1, n) for n in array.shape), (2, kind), (8, name), (9, array.tobytes()), *extra)


def node(operator: str, inputs: list[str], output: str, *more: tuple[int, Any], **attributes: Any) -> bytes:
    own = [(5, message((1, k), (2 if isinstance(v, float) else 3, v))) for k, v in attributes.items()]
    return message(*((1, name) for name in inputs), (2, output), (3, f"node-{output}"), (4, operator), *own, *more)


def onnx(path: Path, nodes: list[bytes], constants: dict[str, np.ndarray], output: str = "y", **options: Any) -> Path:
    tensors = [(5, tensor(name, array)) for name, array in constants.items()]
    ends = [(11, message((1, "x"))), (12, message((1, output)))]
    graph = message(*((1, each) for each in nodes), (2, "g"), *tensors, *ends, *options.get("graph", ()))
    path.write_bytes(message((1, 8), (7, graph), (8, message((1, ""), (2, 17)))))
    return path


def parts(model: torch.nn.Sequential) -> dict[str, np.ndarray]:
    return {name.replace(".", ""): array for name, array in arrays_of(model).items()} | {"c": np.array(255, np.float32)}


GEMM = [
    node("Flatten", ["x"], "f", axis=1),
    node("Div", ["f", "c"], "s"),
    node("Gemm", ["s", "0weight", "0bias"], "z", transB=1, alpha=1.0),
    node("Relu", ["z"], "h"),
    node("Gemm", ["h", "2weight", "2bias"], "y", transB=1),
]


def test_graphs_of_gemm(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    network = read_network(onnx(tmp_path / "a.onnx", GEMM, parts(model)), features=12, classes=3)
    assert_same(network, model)
    assert network.scaling == UNIT
    assert network.known == (True, True)
    unscaled = [*GEMM[:1], node("Identity", ["f"], "s"), *GEMM[2:]]
    assert read_onnx(onnx(tmp_path / "b.onnx", unscaled, parts(model))).scaling is None


def test_graphs_of_matmul(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    constants = {name: np.ascontiguousarray(a.T) for name, a in parts(model).items()}
    constants |= {"shape": np.array([0, -1]), "half": np.array([0.5], np.float32)}
    nodes = [
        node("Constant", [], "mean", (5, message((1, "value"), (5, tensor("", np.array([3.0])))))),
        node("Reshape", ["x", "shape"], "f"),
        node("Sub", ["f", "mean"], "a"),
        node("Mul", ["a", "half"], "b"),
        node("MatMul", ["b", "0weight"], "m"),
        node("Add", ["0bias", "m"], "z"),
        node("Relu", ["z"], "h"),
        node("Dropout", ["h"], "d"),
        node("MatMul", ["d", "2weight"], "n"),
        node("Add", ["n", "2bias"], "logits"),
        node("Softmax", ["logits"], "p", axis=1),
        node("ArgMax", ["p"], "y", axis=-1),
    ]
    with pytest.raises(DataError, match=r"node 'node-y' \(ArgMax\): expected only after the last layer"):
        read_onnx(onnx(tmp_path / "a.onnx", nodes, constants))
    network = read_onnx(onnx(tmp_path / "a.onnx", nodes[:-1], constants, "p"), features=12, classes=3)
    assert network.scaling == Scaling(3.0, 2.0)
    assert np.array_equal(network.logits(IMAGES, UNIT).argmax(1), labels_of(model))


@pytest.mark.parametrize(
    ("place", "replacement", "complaint"),
    [
        (3, node("Sigmoid", ["z"], "h"), r"node 'node-h' \(Sigmoid\): unsupported"),
        (3, node("Conv", ["z", "0weight"], "h"), r"node 'node-h' \(Conv\): unsupported"),
        (3, node("Relu", ["z"], "h", (7, "com.evil")), "of the domain 'com.evil'"),
        (3, node("Relu", ["s"], "h"), r"node 'node-h' \(Relu\): expected to be given what the node before"),
        (3, node("Identity", ["z"], "h"), r"node 'node-y' \(Gemm\): follows a dense layer without a Relu"),
        (
            2,
            node("Gemm", ["s", "0weight", "0bias"], "z", transA=1, transB=1),
            "node-z.*an input times a constant matrix",
        ),
        (2, node("Gemm", ["s", "nowhere"], "z"), "takes 'nowhere', which is no constant"),
        (2, node("Gemm", ["s", "s"], "z"), "node-z.*once"),
        (
            2,
            node("Gemm", ["s", "0weight", "2bias"], "z", transB=1),
            r"node-z.*constant of shape \(3,\), expected \(7,\)",
        ),
        (2, node("Gemm", ["s", "0weight"], "z"), "2weight has 7 inputs, expected 12"),
        (1, node("Div", ["c", "f"], "s"), "node-s.*scale or shift the input by one constant"),
        (1, node("Div", ["f", "zero"], "s"), r"node-s.*by 0"),
        (1, node("Mul", ["f", "minus"], "s"), "scales its input by -1"),
        (0, node("Flatten", ["x"], "f", axis=2), "node-f.*changes the shape"),
        (4, node("Gemm", ["h", "2weight", "2bias"], "other", transB=1), "the output 'y' is not what"),
        (4, node("Relu", ["h"], "y"), r"node 'node-y' \(Relu\): expected after a dense layer"),
        (4, node("ArgMax", ["h"], "y"), r"node 'node-y' \(ArgMax\): expected only after the last layer"),
        (0, node("Reshape", ["x", "merge"], "f"), "node-f.*changes the shape"),
        (0, node("Reshape", ["x", "halves"], "f"), "node-z.*has 12 inputs, expected 6, as the Reshape before gives"),
        (0, node("Dropout", ["x", "zero", "zero"], "f"), "node-f.*changes the shape"),
        (3, node("Relu", ["z"], "2bias"), r"node-2bias.*gives '2bias', which is there already"),
        (3, node("Constant", [], "2bias", (5, message((1, "value"), (5, tensor("", np.zeros(3)))))), "defines '2bias'"),
        (2, node("Gemm", ["s", "0weight", "0bias"], "z", transB=1, alpha=float("inf")), "0weight holds infinities"),
        (1, node("Mul", ["f", "tiny"], "s"), "scales its input by 1e-40"),
    ],
)
def test_graphs_that_are_refused(tmp_path: Path, place: int, replacement: bytes, complaint: str) -> None:
    constants = parts(torch_network(12, 7, 3)) | {"zero": np.zeros(1, np.float32), "minus": -np.ones(1, np.float32)}
    constants |= {"merge": np.array([5, -1]), "halves": np.array([-1, 6]), "tiny": np.array([1e-40])}
    nodes = [replacement if index == place else each for index, each in enumerate(GEMM)]
    with pytest.raises(DataError, match=complaint) as caught:
        read_onnx(onnx(tmp_path / "a.onnx", nodes, constants), features=12, classes=3)
    assert "\n" not in str(caught.value)


def test_damaged_onnx_files(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    constants = parts(torch_network(12, 7, 3))
    content = onnx(path, GEMM, constants).read_bytes()
    print("seed 1")
    random = np.random.default_rng(1)
    for place in [*range(0, 250, 2), *random.integers(0, len(content), 80).tolist()]:
        for altered in (
            content[:place],
            content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :],
        ):
            path.write_bytes(altered)
            attempt(read_onnx, path)
    for extra, complaint in (
        ((5, tensor("t", np.zeros(2, np.int32))), "tensor 't' is of data type 6"),
        ((5, tensor("t", np.zeros(2, np.float32), (1, 3))), r"tensor 't' of shape \(2, 3\) has 8 bytes, expected 24"),
        ((5, tensor("t", np.zeros(2, np.float32), (14, 1))), "tensor 't' lies in another file"),
        ((15, message((1, 1))), "sparse weights"),
        ((11, message((1, "second"))), "2 inputs and 1 outputs"),
    ):
        with pytest.raises(DataError, match=complaint):
            read_onnx(onnx(path, GEMM, constants, graph=[extra]))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no graph"):
        read_onnx(path)
    path.write_bytes(message((8, message((1, ""), (2, 6)))))
    with pytest.raises(DataError, match="operators of version 6, expected at least 7"):
        read_onnx(path)
    path.write_bytes(message((25, b"")))
    with pytest.raises(DataError, match="defines operators of its own"):
        read_onnx(path)


# --- verified, not guessed


def square_network() -> tuple[torch.nn.Sequential, ImportedNetwork]:
    model = torch_network(12, 6, 6, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1)
        model[-1].bias -= model(torch.from_numpy(IMAGES).flatten(1).float() / 255).mean(0)  # all classes occur
    return model, network_from_tensors(arrays_of(model), "x", features=12, classes=3)


def test_data_decide_what_shapes_leave_open() -> None:
    model, network = square_network()
    assert network.known == (True, False, True)
    labels = labels_of(model)
    wrong = network.turned((False, True, False))
    for candidate in (network, wrong):
        verified = verify_on_data(candidate, IMAGES, labels, 1.0)
        assert_same(verified.network, model)
        assert (verified.correct, verified.scaling, verified.images_transposed) == (200, UNIT, False)
        assert verified.readings == 8
    sideways = np.ascontiguousarray(IMAGES.transpose(0, 2, 1))
    assert verify_on_data(wrong, sideways, labels, 1.0).images_transposed
    quantized = quantize_layers(wrong.layers, 16, encoding="float16")
    accuracy = (IntegerNetwork(quantize_layers(network.layers, 16, encoding="float16")).labels(IMAGES) == labels).mean()
    assert verify_on_data(quantized, IMAGES, labels, float(accuracy)).reading.startswith("layers 1 transposed")


def test_an_imported_network_becomes_one_of_integers() -> None:
    _, network = square_network()
    standard = Scaling(127.5, 73.9)
    labels = network.logits(IMAGES, standard).argmax(1)
    verified = verify_on_data(network, IMAGES, labels, 1.0, scalings=[UNIT, standard])
    assert verified.scaling == standard
    folded = fold_scaling(verified.network.layers, verified.scaling.mean, verified.scaling.scale)
    quantized = quantize_layers(folded, 16, encoding="float16")
    assert IntegerNetwork(quantized).correct(IMAGES, labels) >= 196
    with pytest.raises(ArgumentError, match="mean, scale: 0, 0"):
        fold_scaling(network.layers, 0, 0)


def test_no_reading_or_more_than_one_is_an_error() -> None:
    model, network = square_network()
    labels = labels_of(model)
    with pytest.raises(
        DataError, match=r"no reading of 8 has accuracy 0.5 ± 0.001 on 200 examples; the best, .* has 1.0000"
    ):
        verify_on_data(network, IMAGES, labels, 0.5)
    with pytest.raises(DataError, match=r"8 of 8 readings have accuracy 0.5 ± 0.5, such as .*; expected one"):
        verify_on_data(network, IMAGES, labels, 0.5, tolerance=0.5)
    many = network_from_tensors({f"{k}.weight": np.eye(12) for k in range(10)}, "x", features=12)
    with pytest.raises(DataError, match="10 square layers, expected at most 8"):
        verify_on_data(many, IMAGES, labels, 1.0)
    with pytest.raises(ArgumentError, match=r"accuracy, tolerance: 1.5"):
        verify_on_data(network, IMAGES, labels, 1.5)
    with pytest.raises(ArgumentError, match="images, labels"):
        verify_on_data(network, IMAGES[:0], labels[:0], 1.0)
    with pytest.raises(ArgumentError, match="scaling"):
        Scaling(0.0, 0.0)
