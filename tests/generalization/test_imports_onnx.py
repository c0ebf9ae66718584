"""ONNX files: chains of dense layers are read, every other graph and every damaged file is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports import onnx as onnx_module
from lean_mnist.generalization.imports.network import ImportedNetwork, scaling_of
from lean_mnist.generalization.imports.onnx import read_onnx
from lean_mnist.generalization.imports.protobuf import Budget, Damaged, Message
from tests.support.import_cases import (
    GEMM,
    UNIT,
    assert_same,
    attempt,
    imported,
    labels_of,
    model_of,
    node,
    parts,
    read_as,
    torch_network,
    written,
)
from tests.support.peak_memory import peak_below


def read(path: Path) -> ImportedNetwork:
    return read_onnx(path, 12, 3)


def test_graphs_of_gemm(tmp_path: Path) -> None:
    model = torch_network(12, 7, 3)
    network = imported(written(tmp_path / "a.onnx", GEMM, parts(model)))
    assert_same(network, model)
    assert network.scaling == UNIT
    assert network.known == (True, True)
    unscaled = [*GEMM[:1], node("Identity", ["f"], "s"), *GEMM[2:]]
    assert read(written(tmp_path / "b.onnx", unscaled, parts(model))).scaling is None


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
        read(written(tmp_path / "a.onnx", nodes, constants))
    network = read(written(tmp_path / "a.onnx", nodes[:-1], constants, "p"))
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
        (0, node("Dropout", ["x", "", "zero"], "f"), "node-f.*changes the shape"),
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
        read(written(tmp_path / "a.onnx", nodes, constants))
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
            attempt(read, path)


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
        (add("initializer", raw(1, [2], bytes(7))), "tensor 't' holds 7 bytes for numbers of 4"),
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
        read(path)
    assert "\n" not in str(caught.value)


def test_onnx_files_that_are_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    for content, complaint in (
        (b"", "holds no graph"),
        (b"\xff\xff\xff", r"damaged \(a number that is cut off .*, expected an ONNX file"),
        (b"\x3a\x06\x2a\x04\x42\x02\xff\xfe", "bytes that are no UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            read(path)
    monkeypatch.setattr(onnx_module, "LARGEST_FILE", 1 << 20)
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(DataError, match="1,048,577 bytes, expected an ONNX file of at most 1,048,576"):
        read(path)


def filled(kind: int, dims: list[int], **fields: Any) -> onnx.TensorProto:
    return onnx.TensorProto(name="0weight", data_type=kind, dims=dims, **fields)


def test_numbers_are_those_that_onnx_reads(tmp_path: Path) -> None:
    print("seed 3")
    weights = np.random.default_rng(3).normal(size=(7, 12))
    constants = parts(torch_network(12, 7, 3))
    for tensor in (
        filled(1, [7, 12], float_data=weights.astype(np.float32).ravel()),
        filled(11, [7, 12], double_data=weights.ravel()),
        filled(10, [7, 12], int32_data=weights.astype(np.float16).view(np.uint16).ravel()),
        filled(10, [7, 12], raw_data=weights.astype("<f2").tobytes()),
        filled(11, [7, 12], raw_data=weights.astype("<f8").tobytes()),
    ):
        model = model_of(GEMM, {name: array for name, array in constants.items() if name != "0weight"})
        model.graph.initializer.append(tensor)
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        found, _ = read(tmp_path / "a.onnx").layers[0]
        assert np.array_equal(found, numpy_helper.to_array(tensor).astype(np.float64))


def test_messages_are_those_that_protobuf_reads() -> None:
    numbers = [0, 1, -1, 127, 128, 1 << 40, -(1 << 63), (1 << 63) - 1, 300]
    tensor = onnx.TensorProto(dims=numbers, int64_data=numbers, float_data=[0.5, -2.0], name="ä", data_type=7)
    message = Message.read(memoryview(tensor.SerializeToString()), Budget())
    assert message.integers(1).tolist() == numbers == message.integers(7).tolist()
    assert (message.floats(4, "<f4").tolist(), message.text(8), message.number(2)) == ([0.5, -2.0], "ä", 7)
    assert (message.text(12), message.number(14), message.integers(5).tolist()) == ("", 0, [])
    node = onnx.AttributeProto(name="i", i=-3, f=1.5)
    message = Message.read(memoryview(node.SerializeToString()), Budget())
    assert (message.number(3), message.float32(2)) == (-3, 1.5)
    for wrong in (lambda: message.float32(3), lambda: message.text(2), lambda: message.integers(2)):
        with pytest.raises(Damaged, match="another kind"):
            wrong()
    twice = Message.read(memoryview(node.SerializeToString() * 2), Budget())
    with pytest.raises(Damaged, match="twice"):
        twice.number(3)


def length_first(number: int, content: bytes) -> bytes:
    """A field of bytes of protocol buffers, by hand."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content


INPUT_AND_OUTPUT = length_first(11, b"\x0a\x01x") + length_first(12, b"\x0a\x01y")


@pytest.mark.parametrize(
    "graph",
    [
        b"\x0a\x00" * 2_000_000,  # empty nodes
        b"\x2a\x00" * 2_000_000,  # empty tensors
        length_first(1, b"\x0a\x00" * 2_000_000),  # empty names in a node
        length_first(1, length_first(5, b"\x3a\x00" * 2_000_000)),  # empty numbers in an attribute
        length_first(5, length_first(1, bytes(2_000_000)) + b"\x10\x01"),  # numbers of one byte, of eight unpacked
        length_first(5, length_first(7, b"\x80" * 2_000_000) + b"\x10\x07"),
        b"\x98\x06\x00" * 2_000_000,  # a number that no field has
    ],
)
def test_bombs_cost_no_more_than_their_bytes(tmp_path: Path, graph: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(length_first(7, INPUT_AND_OUTPUT + graph))
    with peak_below(2 * len(graph) + (40 << 20)), pytest.raises(DataError, match=r"more than|expected at most"):
        read(path)
