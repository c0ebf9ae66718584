"""Networks from elsewhere: read right, verified on data, certified, and nothing hostile is run or believed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import helper, numpy_helper

from lean_mnist.certify import main as certify_command
from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import ArgumentError, CertificateError, CheckpointError, DataError, LeanMnistError
from lean_mnist.generalization import checker
from lean_mnist.generalization.imports import files as files_module
from lean_mnist.generalization.imports import onnx as onnx_module
from lean_mnist.generalization.imports.certified import NetworkFile, import_network, kind_of
from lean_mnist.generalization.imports.mlcert import read_mlcert
from lean_mnist.generalization.imports.network import ImportedNetwork, scaling_of
from lean_mnist.generalization.imports.onnx import read_onnx
from lean_mnist.generalization.imports.pickles import read_arrays
from lean_mnist.generalization.imports.tensors import network_from_tensors, read_safetensors, read_state_dict
from lean_mnist.generalization.imports.verify import verify_on_data
from lean_mnist.generalization.quantize import quantize_layers
from lean_mnist.generalization.spaces import IntegerNetwork, QuantizedNetwork, code_length
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import write_checkpoint

Array = npt.NDArray[Any]

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
    accuracy = Fraction(IntegerNetwork(network).correct(images[few], labels[few]), 2000)
    verified = verify_on_data(network, images[few], labels[few], accuracy)
    assert (verified.words, verified.readings) == ("layers as they are, images as they are", 4)
    with pytest.raises(DataError, match=r"no reading of 4 has accuracy 0.96"):
        verify_on_data(network, images[few], labels[few], Fraction("0.96"))


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
        ((np.zeros(2, np.float16),) * 2, r"codes: uint16 of shape \(2,\)"),
        ((np.full((2, 2), np.nan, np.float16),) * 2, "codes: hold infinities or NaN"),
        ((np.array([["02"]]), np.array([["01"]]), *[np.float32(v) for v in (0, 1, 0, 1)]), "'02' in a matrix"),
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
UNIT = scaling_of(0.0, 255.0)


def labels_of(model: torch.nn.Module, images: Array = IMAGES) -> Array:
    with torch.no_grad():
        return model(torch.from_numpy(images).flatten(1).float() / 255).argmax(1).numpy()


def read_as(network: ImportedNetwork, images: Array = IMAGES, scaling: Normalization = UNIT) -> Array:
    with torch.no_grad():
        labels: Array = (
            network.model().double()(scaling.apply(torch.from_numpy(images), torch.float64)).argmax(1).numpy()
        )
    return labels


def assert_same(network: ImportedNetwork, model: torch.nn.Sequential) -> None:
    weights = [(layer.weight, layer.bias) for layer in model if isinstance(layer, torch.nn.Linear)]
    for (weight, bias), (expected, expected_bias) in zip(network.layers, weights, strict=True):
        assert np.array_equal(weight, expected.detach().double().numpy())
        assert (bias is None) == (expected_bias is None)
        assert bias is None or np.array_equal(bias, expected_bias.detach().double().numpy())
    assert np.array_equal(read_as(network), labels_of(model))


def damaged_safetensors(path: Path, tensors: dict[str, Array], **changes: Any) -> Path:
    """A safetensors file by hand, with ``changes`` to its header: entries, text, size, tail."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    for name, entry in changes.get("entries", {}).items():
        header[name] = {**header[name], **entry} if isinstance(entry, dict) else entry
    text = changes.get("text", json.dumps(header).encode())
    path.write_bytes(struct.pack("<Q", changes.get("size", len(text))) + text + data + changes.get("tail", b""))
    return path


def arrays_of(model: torch.nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_and_safetensors(tmp_path: Path, bias: bool) -> None:
    model = torch_network(12, 7, 5, 3, bias=bias)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "b.pt")
    safetensors.numpy.save_file(arrays_of(model), tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pt", "c.safetensors"):
        network = imported(tmp_path / name)
        assert_same(network, model)
        assert network.known == (True, True, True)
        assert network.model().state_dict().keys() == MLP((12, 7, 5, 3), bias=bias).state_dict().keys()
    quantized = quantize_layers(network.layers, 16, encoding="float16")
    assert (IntegerNetwork(quantized).labels(IMAGES) == labels_of(model)).mean() > 0.98


def imported(path: Path) -> ImportedNetwork:
    network = import_network(str(path), kind_of(str(path)), features=12, classes=3)
    assert isinstance(network, ImportedNetwork)
    return network


def stored(path: Path, tensors: dict[str, Array]) -> ImportedNetwork:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return imported(path)


def test_our_own_checkpoint(tmp_path: Path) -> None:
    model = MLP((12, 4, 3))
    normalization = {"kind": "standard", "mean": 3.0, "scale": 2.0}
    content = {"model": model.state_dict(), "architecture": model.architecture, "normalization": normalization}
    content |= {"metrics": {}, "crosscheck": {}, "data": {}, "config": {}}
    write_checkpoint(tmp_path / "best.pt", content)
    network = imported(tmp_path / "best.pt")
    assert network.scaling == scaling_of(3.0, 2.0)
    assert np.array_equal(network.layers[0][0], model.weights_and_biases()[0][0].detach().double().numpy())
    write_checkpoint(tmp_path / "tanh.pt", {**content, "architecture": {"activation": "tanh"}})
    with pytest.raises(DataError, match="a network with 'tanh', expected relu"):
        imported(tmp_path / "tanh.pt")
    write_checkpoint(tmp_path / "own.pt", {**content, "normalization": {**normalization, "kind": "per-image"}})
    with pytest.raises(DataError, match=r"own.pt: per-image normalisation, expected standard or unit"):
        imported(tmp_path / "own.pt")


def test_stored_the_other_way_round(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    turned = {name: np.ascontiguousarray(a.T) for name, a in arrays_of(model).items()}
    network = network_from_tensors(turned, "turned", features=12, classes=3)
    assert_same(network, model)


def test_order_is_found_by_shapes(tmp_path: Path) -> None:
    model = torch_network(12, 7, 5, 3)
    named = arrays_of(model)
    renamed = {
        {"0": "input", "2": "hidden", "4": "classifier"}[name.split(".")[0]] + "." + name.split(".")[1]: array
        for name, array in named.items()
    }
    assert_same(stored(tmp_path / "a.safetensors", dict(sorted(renamed.items()))), model)
    many = torch_network(*[12] + [4] * 11 + [3])  # layers.10 comes after layers.2
    assert_same(stored(tmp_path / "b.safetensors", dict(sorted(arrays_of(many).items()))), many)
    square = {f"{name}.weight": np.eye(4, dtype=np.float32) for name in ("b", "a")}
    last = {"c.weight": np.ones((3, 4), np.float32)}
    with pytest.raises(DataError, match="fit together in more than one order"):
        network_from_tensors({**last, **square}, "x", features=4, classes=3)
    with pytest.raises(DataError, match="fit together in more than one order"):  # no order of its own: a, b or b, a?
        network_from_tensors({**square, **last}, "x", features=4, classes=3, ordered=False)
    assert network_from_tensors({**square, **last}, "x", features=4, classes=3).model().sizes == (4, 4, 4, 3)
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
def test_tensors_that_are_no_network(change: dict[str, Array], message: str) -> None:
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


def test_torch_files_that_announce_more_than_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    torch.save({"0.weight": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(DataError, match=r"0.weight announces shape \(1048576, 1048576\), which its bytes do not fill"):
        read_state_dict(path)
    torch.save({"0.weight": torch.zeros(1000, 1000)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    monkeypatch.setattr("lean_mnist.generalization.imports.tensors.LARGEST", 1 << 20)
    assert (tmp_path / "b.pt").stat().st_size < 1 << 14
    with pytest.raises(DataError, match="refused"):
        read_state_dict(tmp_path / "b.pt")


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    exact = torch.tensor([1.5, -2.0, 0.0078125])
    from safetensors.torch import save_file

    save_file({"x": exact.bfloat16()}, tmp_path / "a.safetensors")
    assert read_safetensors(tmp_path / "a.safetensors")["x"].tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 1 << 40}, "damaged"),
        ({"text": b"{nonsense"}, "damaged"),
        ({"text": b"[1]"}, "damaged"),
        ({"text": b'{"a":1,"a":2}'}, "damaged"),
        ({"text": b"[" * 90_000}, "damaged"),
        ({"entries": {"a": 7}}, "damaged"),
        ({"entries": {"a": {"dtype": "I32"}}}, "a is torch.int32, expected floating weights"),
        ({"entries": {"a": {"dtype": "F31"}}}, "damaged"),
        ({"entries": {"a": {"shape": [2, -2]}}}, "damaged"),
        ({"entries": {"a": {"shape": [2, 3]}}}, "damaged"),
        ({"entries": {"a": {"shape": [1 << 40, 1 << 40]}}}, "damaged"),
        ({"entries": {"a": {"data_offsets": [8, 24]}}}, "damaged"),
        ({"entries": {"a": {"data_offsets": [-1, 15]}}}, "damaged"),
        ({"entries": {"b": {"data_offsets": [0, 8]}}}, "damaged"),
        ({"tail": b"xy"}, "damaged"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    tensors = {"a": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    with pytest.raises(DataError, match=message):
        read_safetensors(damaged_safetensors(tmp_path / "a.safetensors", tensors, **changes))
    assert read_safetensors(damaged_safetensors(tmp_path / "a.safetensors", tensors))["b"].tolist() == [1, 1]
    (tmp_path / "short.safetensors").write_bytes(b"1234")
    with pytest.raises(DataError, match="damaged"):
        read_safetensors(tmp_path / "short.safetensors")


def test_altered_safetensors_raise_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays_of(torch_network(4, 3, 2)), path)
    content = path.read_bytes()
    print("seed 2")
    random = np.random.default_rng(2)
    for place in range(0, len(content), 2):
        altered = bytearray(content)
        altered[place] ^= 1 << int(random.integers(8))
        for each in (bytes(altered), content[:place]):
            path.write_bytes(each)
            attempt(imported, path)


# --- ONNX


def node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"node-{output}", domain=domain, **attributes)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], output: str = "y", opset: int = 17
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", output))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def written(path: Path, *arguments: Any) -> Path:
    path.write_bytes(model_of(*arguments).SerializeToString())
    return path


def parts(model: torch.nn.Sequential, largest: int = 255) -> dict[str, Array]:
    named = {name.replace(".", ""): array for name, array in arrays_of(model).items()}
    return named | {"c": np.array(largest, np.float32)}


GEMM = [
    node("Flatten", ["x"], "f", axis=1),
    node("Div", ["f", "c"], "s"),
    node("Gemm", ["s", "0weight", "0bias"], "z", transB=1, alpha=1.0),
    node("Relu", ["z"], "h"),
    node("Gemm", ["h", "2weight", "2bias"], "y", transB=1),
]


def test_graphs_of_gemm(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    network = imported(written(tmp_path / "a.onnx", GEMM, parts(model)))
    assert_same(network, model)
    assert network.scaling == UNIT
    assert network.known == (True, True)
    unscaled = [*GEMM[:1], node("Identity", ["f"], "s"), *GEMM[2:]]
    assert read_onnx(written(tmp_path / "b.onnx", unscaled, parts(model))).scaling is None


def test_graphs_of_matmul(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    constants = {name: np.ascontiguousarray(a.T) for name, a in parts(model).items()}
    constants |= {"shape": np.array([0, -1]), "half": np.array([0.5], np.float32)}
    nodes = [
        node("Constant", [], "mean", value=numpy_helper.from_array(np.array([3.0]))),
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
        read_onnx(written(tmp_path / "a.onnx", nodes, constants))
    network = read_onnx(written(tmp_path / "a.onnx", nodes[:-1], constants, "p"), features=12, classes=3)
    assert network.scaling == scaling_of(3.0, 2.0)
    assert np.array_equal(read_as(network), labels_of(model))


@pytest.mark.parametrize(
    ("place", "replacement", "complaint"),
    [
        (3, node("Sigmoid", ["z"], "h"), r"node 'node-h' \(Sigmoid\): unsupported"),
        (3, node("Conv", ["z", "0weight"], "h"), r"node 'node-h' \(Conv\): unsupported"),
        (3, node("Relu", ["z"], "h", "com.evil"), "of the domain 'com.evil'"),
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
        (2, node("Gemm", ["s", "0weight"], "z"), "node-y.*has 7 inputs, expected 12, as the layer before gives"),
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
        (3, node("Constant", [], "2bias", value=numpy_helper.from_array(np.zeros(3))), "defines '2bias'"),
        (2, node("Gemm", ["s", "0weight", "0bias"], "z", transB=1, alpha=float("inf")), "0weight holds infinities"),
        (1, node("Mul", ["f", "tiny"], "s"), "scales its input by 1e-40"),
    ],
)
def test_graphs_that_are_refused(tmp_path: Path, place: int, replacement: onnx.NodeProto, complaint: str) -> None:
    constants = parts(torch_network(12, 7, 3)) | {"zero": np.zeros(1, np.float32), "minus": -np.ones(1, np.float32)}
    constants |= {"merge": np.array([5, -1]), "halves": np.array([-1, 6]), "tiny": np.array([1e-40])}
    nodes = [replacement if index == place else each for index, each in enumerate(GEMM)]
    with pytest.raises(DataError, match=complaint) as caught:
        read_onnx(written(tmp_path / "a.onnx", nodes, constants), features=12, classes=3)
    assert "\n" not in str(caught.value)


def test_damaged_onnx_files(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    content = written(path, GEMM, parts(torch_network(12, 7, 3))).read_bytes()
    print("seed 1")
    random = np.random.default_rng(1)
    for place in [*range(0, 250, 2), *random.integers(0, len(content), 80).tolist()]:
        for altered in (
            content[:place],
            content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :],
        ):
            path.write_bytes(altered)
            attempt(read_onnx, path)


def add(field: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    """A change that appends ``value`` to a field of the graph."""
    return lambda model: getattr(model.graph, field).append(value)


def raw(kind: int, dims: list[int], content: bytes = b"") -> onnx.TensorProto:
    return onnx.TensorProto(name="t", data_type=kind, dims=dims, raw_data=content)


EXTERNAL = onnx.TensorProto(name="t", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
ELSEWHERE = onnx.TensorProto(name="t", data_type=1, dims=[2], raw_data=bytes(8))
ELSEWHERE.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (add("initializer", raw(6, [2], bytes(8))), "tensor 't' is of data type 6"),
        (add("initializer", raw(1, [2, 3], bytes(8))), r"tensor 't' of shape \(2, 3\) holds 2 numbers, expected 6"),
        (add("initializer", raw(1, [1 << 40, 1 << 40])), "tensor 't' of shape .* holds 0 numbers"),
        (add("initializer", raw(1, [-1, 2], bytes(8))), r"tensor 't' of shape \(-1, 2\)"),
        (add("initializer", raw(1, [1] * 9, bytes(4))), "tensor 't' of shape"),
        (add("initializer", raw(1, [2], bytes(7))), "tensor 't' of shape"),
        (add("initializer", EXTERNAL), "tensor 't' lies in another file"),
        (add("initializer", ELSEWHERE), "tensor 't' lies in another file"),
        (add("initializer", numpy_helper.from_array(np.zeros(7), "0bias")), "defines '0bias', which is there already"),
        (add("sparse_initializer", onnx.SparseTensorProto()), "sparse weights"),
        (add("input", onnx.ValueInfoProto(name="second")), "2 inputs and 1 outputs"),
        (lambda model: model.graph.node.extend([onnx.NodeProto()] * 1001), "more than 1,000 nodes"),
        (lambda model: model.graph.node[0].input.extend(["x"] * 1001), "more than 1,000 inputs"),
        (lambda model: model.functions.append(onnx.FunctionProto()), "defines operators of its own"),
        (lambda model: model.ClearField("graph"), "holds no graph"),
        (lambda model: model.opset_import[0].CopyFrom(helper.make_opsetid("", 6)), "operators of version 6"),
    ],
)
def test_hostile_onnx_files(tmp_path: Path, change: Callable[[onnx.ModelProto], Any], complaint: str) -> None:
    path, model = tmp_path / "a.onnx", model_of(GEMM, parts(torch_network(12, 7, 3)))
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=complaint) as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


def test_onnx_files_that_are_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    for content, complaint in (
        (b"", "holds no graph"),
        (b"\xff\xff\xff", "damaged, expected an ONNX file"),
        (b"\x3a\x06\x2a\x04\x42\x02\xff\xfe", "bytes that are no UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            read_onnx(path)
    monkeypatch.setattr(onnx_module, "LARGEST_FILE", 1 << 20)
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(DataError, match="more than 1 MiB, expected an ONNX file"):
        read_onnx(path)


@pytest.mark.parametrize(("package", "name"), [("onnx", "a.onnx"), ("safetensors.torch", "a.safetensors")])
def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"reads it; pip install 'lean_mnist\[import\]'"):
        imported(tmp_path / name)


# --- verified, not guessed


def square_network() -> tuple[torch.nn.Sequential, ImportedNetwork]:
    model = torch_network(12, 6, 6, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1)
        model[-1].bias -= model(torch.from_numpy(IMAGES).flatten(1).float() / 255).mean(0)  # all classes occur
    return model, network_from_tensors(arrays_of(model), "x", features=12, classes=3)


def with_second_layer_turned(network: ImportedNetwork) -> ImportedNetwork:
    first, (weight, bias), last = network.layers
    return ImportedNetwork((first, (weight.T, bias), last), network.known)


ALL = Fraction(1)


def test_data_decide_what_shapes_leave_open() -> None:
    model, network = square_network()
    assert network.known == (True, False, True)
    labels = labels_of(model)
    wrong = with_second_layer_turned(network)
    for candidate in (network, wrong):
        verified = verify_on_data(candidate, IMAGES, labels, ALL)
        assert isinstance(verified.network, ImportedNetwork)
        assert_same(verified.network, model)
        assert (verified.scaling, verified.readings) == (UNIT, 8)
    sideways = np.ascontiguousarray(IMAGES.transpose(0, 2, 1))
    turned = verify_on_data(wrong, sideways, labels, ALL)
    assert "images transposed" in turned.words
    assert isinstance(turned.network, ImportedNetwork)
    assert np.array_equal(read_as(turned.network, sideways), labels)  # of the images as they are given
    quantized = quantize_layers(wrong.layers, 16, encoding="float16")
    right = IntegerNetwork(quantize_layers(network.layers, 16, encoding="float16")).correct(IMAGES, labels)
    assert verify_on_data(quantized, IMAGES, labels, Fraction(right, 200)).words.startswith("layers 1 transposed")


def test_no_reading_or_more_than_one_is_an_error() -> None:
    model, network = square_network()
    labels, half = labels_of(model), Fraction(1, 2)
    with pytest.raises(
        DataError, match=r"no reading of 8 has accuracy 0.5 ± 0.001 on 200 examples; the best, .* has 1.0000"
    ):
        verify_on_data(network, IMAGES, labels, half)
    with pytest.raises(DataError, match=r"8 of 8 readings have accuracy 0.5 ± 0.5, such as .*; expected one"):
        verify_on_data(network, IMAGES, labels, half, tolerance=half)
    many = network_from_tensors({f"{k}.weight": np.eye(12) for k in range(10)}, "x", features=12)
    with pytest.raises(DataError, match="10 square layers, expected at most 8"):
        verify_on_data(many, IMAGES, labels, ALL)
    with pytest.raises(ArgumentError, match=r"accuracy, tolerance: 3/2"):
        verify_on_data(network, IMAGES, labels, Fraction(3, 2))
    with pytest.raises(ArgumentError, match="images, labels"):
        verify_on_data(network, IMAGES[:0], labels[:0], ALL)
    with pytest.raises(CheckpointError, match=r"normalization.scale: 0.0, expected a finite number above 0"):
        scaling_of(0.0, 0.0)


# --- certified


def run_command(monkeypatch: pytest.MonkeyPatch, path: Path, *options: str) -> Path:
    """Certify ``path`` by the digits; the certificate's path, after a check of it."""
    monkeypatch.setattr("sys.argv", ["certify", str(path), "--dataset", "digits", *options])
    certify_command()
    found = path.parent / "certificate.json"
    checker.check(str(found), [])
    return found


def digits_network() -> tuple[torch.nn.Sequential, int]:
    """A network that compares an image with the mean of each class, and its errors on the test split."""
    data = load_dataset("digits", "")
    x, labels = data.train.images.flatten(1).double() / 16, data.train.labels
    means = torch.stack([x[labels == digit].mean(0) for digit in range(10)])
    first, second = torch.nn.Linear(64, 10), torch.nn.Linear(10, 10)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second).double()
    with torch.no_grad():
        first.weight.copy_(means.roll(1, 0))
        first.bias.copy_(20 - means.square().sum(1).roll(1, 0) / 2)
        second.weight.copy_(torch.eye(10).roll(1, 1))
        second.bias.zero_()
        predicted = model(data.test.images.flatten(1).double() / 16).argmax(1)
    return model, int((predicted != data.test.labels).sum())


@pytest.mark.parametrize("kind", [NetworkFile.ONNX, NetworkFile.SAFETENSORS, NetworkFile.STATE_DICT])
def test_the_command_certifies_a_network_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: NetworkFile
) -> None:
    model, errors = digits_network()
    scaling = ["--scaling", "0", "16"]
    if kind is NetworkFile.ONNX:
        path, scaling = written(tmp_path / "net.onnx", GEMM, parts(model, 16)), []
    elif kind is NetworkFile.SAFETENSORS:
        path = tmp_path / "net.safetensors"
        safetensors.numpy.save_file(arrays_of(model), path)
    else:
        path = tmp_path / "net.pt"
        torch.save(model.state_dict(), path)
    assert kind_of(str(path)) is kind
    document = json.loads(run_command(monkeypatch, path, *scaling, "--looks", "3").read_text())
    assert document["counts"]["errors"] == errors < 60
    assert document["history"]["looks"] == 3
    assert document["history"]["selected_by"] == checker.SELECTED_ELSEWHERE
    assert f"{errors} of 360 test examples" in capsys.readouterr().out
    # A square matrix is read either way, if the file leaves that open, and images upright or transposed.
    accuracy = ["--accuracy", f"{1 - errors / 360:.3f}"]
    document = json.loads(run_command(monkeypatch, path, *scaling, *accuracy).read_text())
    assert document["counts"]["errors"] == errors
    assert document["history"]["looks"] == (2 if kind is NetworkFile.ONNX else 4)


def test_the_command_rounds_a_network_and_counts_on_what_taught_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = digits_network()
    path = tmp_path / "net.pt"
    torch.save(model.state_dict(), path)
    found = run_command(monkeypatch, path, "--scaling", "0", "16", "--quantize", "4", "--code", "enumerative")
    document = json.loads(found.read_text())
    assert document["schema"] == checker.CODE
    assert document["data"]["split"] == "train"
    errors = document["counts"]["errors"]
    again = json.loads(run_command(monkeypatch, tmp_path / "network.json").read_text())
    assert again["counts"]["errors"] == errors < 300
    tested = json.loads(run_command(monkeypatch, tmp_path / "network.json", "--split", "test").read_text())
    assert tested["data"]["split"] == "test"
    network = import_network(str(tmp_path / "network.json"), NetworkFile.QUANTIZED)
    assert isinstance(network, QuantizedNetwork)
    data = load_dataset("digits", "").test
    right = IntegerNetwork(network, 16).correct(data.images.numpy(), data.labels.numpy())
    assert 360 - right <= tested["counts"]["errors"] <= 360 - right + 3  # ties count as errors


def test_the_command_certifies_a_network_of_mlcert(
    shared: Path, mnist: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAN_MNIST_DATA", str(shared))
    options = ["--dataset", "mnist", "--out", str(tmp_path), "--accuracy", "0.6965"]
    monkeypatch.setattr("sys.argv", ["certify", str(shared / "mlcert" / B16), *options])
    certify_command()
    document = json.loads((tmp_path / "certificate.json").read_text())
    assert document["counts"]["errors"] == 3035
    assert document["history"]["looks"] == 4
    checker.check(str(tmp_path / "certificate.json"), [str(shared)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--scaling: expected MEAN SCALE for features .*, which .* does not state"),
        (["--scaling", "0", "0"], "normalization.scale: 0.0, expected a finite number above 0"),
        (["--scaling", "0", "16", "--split", "train"], "--split: expected test, or --quantize BITS"),
        (["--scaling", "0", "16", "--quantize", "17"], "bits: 17, expected a whole number from 1 to 16"),
        (["--scaling", "0", "16", "--looks", "0"], "--looks: expected at least 1, found 0"),
        (["--scaling", "0", "16", "--accuracy", "0.01"], "network: no reading of .* has accuracy 0.01"),
        (["--scaling", "0", "16", "--accuracy", "many"], "--accuracy: expected a number"),
        (["--scaling", "0", "16", "--out", "nowhere"], "--out: expected a folder to write into"),
    ],
)
def test_wrong_questions_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    path = tmp_path / "net.pt"
    torch.save(digits_network()[0].state_dict(), path)
    with pytest.raises(LeanMnistError, match=message) as caught:
        run_command(monkeypatch, path, *options)
    assert "\n" not in str(caught.value)


def test_what_is_quantised_or_stated_already_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "net.onnx", GEMM, parts(digits_network()[0], 16))
    with pytest.raises(CertificateError, match=r"--scaling: expected 0 16, as .*net.onnx states"):
        run_command(monkeypatch, path, "--scaling", "0", "255")
    matrix = np.zeros((64, 64), np.float16), np.zeros((64, 10), np.float16)
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps(matrix, 3))
    with pytest.raises(CertificateError, match="--quantize: expected a network of floating weights, found a pickle"):
        run_command(monkeypatch, path, "--quantize", "2")
    torch.save({"format_version": 1}, tmp_path / "best.pt")
    with pytest.raises(CertificateError, match="--quantize: of a checkpoint expected with --out FOLDER"):
        run_command(monkeypatch, tmp_path / "best.pt", "--quantize", "2")
