"""A small reader of ONNX files: chains of dense layers with ReLU between them, and nothing else.

Known operators: ``Gemm``, ``MatMul``, ``Add`` (a bias), ``Relu``; ``Flatten``, ``Reshape``, ``Identity``, ``Dropout``
and ``Cast``, which change no number here; ``Sub``, ``Add``, ``Mul`` and ``Div`` of the input by one constant, which is
how pixels are scaled; ``Softmax``, ``LogSoftmax`` and ``ArgMax`` at the end, which change no label; and ``Constant``.
Any other node is refused by its name. Field numbers are those of ``onnx/onnx.proto``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lean_mnist.errors import DataError
from lean_mnist.generalization.imports import protobuf
from lean_mnist.generalization.imports.files import read_bytes
from lean_mnist.generalization.imports.network import ImportedNetwork, Scaling, orient

_UNCHANGED = ("Flatten", "Reshape", "Identity", "Dropout", "Cast")
_LAST = ("Softmax", "LogSoftmax", "ArgMax")
_AFFINE = ("Add", "Sub", "Mul", "Div")
_FIRST_OPSET = 7  # before it, Add and Gemm broadcast by rules of their own
_TYPES = {1: "<f4", 7: "<i8", 10: "<f2", 11: "<f8"}  # TensorProto.DataType: FLOAT, INT64, FLOAT16, DOUBLE

Array = npt.NDArray[Any]


class _Node(NamedTuple):
    where: str  # the file and the node, for messages
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class _Layer:
    name: str
    weight_DH: Array
    bias: Array | None = None


@dataclass
class _Chain:
    """What the nodes so far amount to. ``stage``: input, pre-activation, hidden, scores."""

    current: str
    stage: str = "input"
    factor: float = 1.0  # features = factor · pixel + offset
    offset: float = 0.0
    width: int | None = None  # that a Reshape gave each row of the input
    layers: list[_Layer] = field(default_factory=list)


def read_onnx(path: str | Path, *, features: int | None = None, classes: int | None = None) -> ImportedNetwork:
    """The network in an ONNX file.

    Its graph says how each weight is used, so nothing about orientation is left open; ``scaling`` is what the graph
    does to its input, ``None`` where it leaves that to its user. Raises ``DataError``, naming the node or the tensor,
    for every other graph.
    """
    source = str(path)
    constants, nodes, inputs, outputs = _graph(read_bytes(path, "an ONNX file"), source)
    inputs = [name for name in inputs if name not in constants]
    if len(inputs) != 1 or len(outputs) != 1:
        raise DataError(f"{source}: {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    chain = _Chain(inputs[0])
    for node in nodes:
        _follow(chain, node, constants)
    if chain.current != outputs[0]:
        raise DataError(f"{source}: the output {outputs[0]!r} is not what its chain of layers ends in")
    if chain.stage == "hidden":
        raise DataError(f"{source}: ends with a Relu, expected logits")
    if not (1e-30 < chain.factor < 1e30 and abs(chain.offset) < 1e30):
        raise DataError(f"{source}: scales its input by {chain.factor:g}, expected a number above 0 that float32 holds")
    stated = (chain.factor, chain.offset) != (1.0, 0.0)
    scaling = Scaling(0.0 - chain.offset / chain.factor, 1 / chain.factor) if stated else None
    pairs = [(layer.name, layer.weight_DH.T, layer.bias) for layer in chain.layers]
    for before, after in zip(chain.layers, chain.layers[1:], strict=False):
        if before.weight_DH.shape[1] != after.weight_DH.shape[0]:
            raise DataError(
                f"{source}: {after.name} has {after.weight_DH.shape[0]} inputs, expected {before.weight_DH.shape[1]}"
            )
    if pairs and features is not None and pairs[0][1].shape[1] != features:
        raise DataError(f"{source}: {pairs[0][0]} takes {pairs[0][1].shape[1]} inputs, expected {features}")
    network = orient(pairs, source, features=None, classes=classes, transposed=False, scaling=scaling)
    return ImportedNetwork(
        network.layers, network.transposed, (True,) * len(network.layers), network.source, network.scaling
    )


def _follow(chain: _Chain, node: _Node, constants: dict[str, Array]) -> None:
    """Add one node to the chain, or raise."""
    operator, where = node.operator, node.where
    if operator == "Constant":
        value = node.attributes.get("value")
        if not isinstance(value, np.ndarray) or len(node.outputs) != 1:
            raise DataError(f"{where}: expected a constant tensor")
        _define(constants, node.outputs[0], value, where)
        return
    if operator not in (*_UNCHANGED, *_LAST, *_AFFINE, "Gemm", "MatMul", "Relu"):
        raise DataError(f"{where}: unsupported, expected a chain of Gemm, MatMul, Add and Relu")
    if node.inputs.count(chain.current) != 1 or not node.outputs:
        raise DataError(f"{where}: expected to be given what the node before computed, once")
    if node.outputs[0] in constants or node.outputs[0] == chain.current:
        raise DataError(f"{where}: gives {node.outputs[0][:60]!r}, which is there already, expected a new name")
    others = [_constant(constants, name, where) for name in node.inputs if name not in (chain.current, "")]
    if operator in _UNCHANGED:
        if chain.stage == "scores" or node.inputs[0] != chain.current or not _keeps_rows(chain, node, others):
            raise DataError(f"{where}: changes the shape of something else than one row an image, expected that")
    elif operator in _LAST:
        if chain.stage != "pre" or _number(node, "axis", 0 if operator == "ArgMax" else -1) not in (1, -1):
            raise DataError(f"{where}: expected only after the last layer, along the classes")
        if _number(node, "select_last_index", 0):
            raise DataError(f"{where}: gives ties to the last class, expected the first")
        chain.stage = "scores"
    elif operator == "Relu":
        if chain.stage != "pre":
            raise DataError(f"{where}: expected after a dense layer")
        chain.stage = "hidden"
    elif operator in ("Gemm", "MatMul"):
        _dense(chain, node, others)
    elif chain.stage == "input":
        _scale(chain, node, others)
    elif operator == "Add" and chain.stage == "pre" and chain.layers[-1].bias is None:
        chain.layers[-1].bias = _bias(others, where, chain.layers[-1].weight_DH.shape[1])
    else:
        raise DataError(f"{where}: unsupported here, expected a bias after a MatMul or a scaling of the input")
    chain.current = node.outputs[0]


def _dense(chain: _Chain, node: _Node, others: list[Array]) -> None:
    where = node.where
    if chain.stage not in ("input", "hidden"):
        raise DataError(f"{where}: follows a dense layer without a Relu between them, expected one")
    if node.inputs[0] != chain.current or not others or others[0].ndim != 2 or _number(node, "transA", 0):
        raise DataError(f"{where}: expected an input times a constant matrix")
    weight_DH = others[0].T if _number(node, "transB", 0) else others[0]
    if chain.stage == "input" and chain.width not in (None, len(weight_DH)):
        raise DataError(f"{where}: has {len(weight_DH)} inputs, expected {chain.width}, as the Reshape before gives")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused with everything that is not finite
        layer = _Layer(node.inputs[1], weight_DH.astype(np.float64) * _number(node, "alpha", 1.0))
        if len(others) > 1:
            layer.bias = _bias(others[1:], where, weight_DH.shape[1]) * _number(node, "beta", 1.0)
    chain.layers.append(layer)
    chain.stage = "pre"


def _bias(others: list[Array], where: str, units: int) -> Array:
    bias = others[0] if len(others) == 1 else np.empty(0)
    if bias.shape not in ((units,), (1, units)):
        raise DataError(f"{where}: adds a constant of shape {bias.shape}, expected ({units},)")
    return bias.reshape(-1).astype(np.float64)


def _scale(chain: _Chain, node: _Node, others: list[Array]) -> None:
    if len(others) != 1 or others[0].size != 1 or (node.operator in ("Sub", "Div") and node.inputs[0] != chain.current):
        raise DataError(f"{node.where}: expected to scale or shift the input by one constant")
    constant = float(others[0].reshape(-1)[0])
    if node.operator in ("Add", "Sub"):
        chain.offset += constant if node.operator == "Add" else -constant
    else:
        if constant == 0:
            raise DataError(f"{node.where}: by 0, expected another number")
        by = constant if node.operator == "Mul" else 1 / constant
        chain.factor, chain.offset = chain.factor * by, chain.offset * by


def _number(node: _Node, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    if not isinstance(value, (int, float)):
        raise DataError(f"{node.where}: its attribute {name} is no number, expected one")
    return value


def _keeps_rows(chain: _Chain, node: _Node, others: list[Array]) -> bool:
    """Whether a node of ``_UNCHANGED`` leaves one row an image; a width that a Reshape states is kept to be checked."""
    if node.operator == "Flatten":
        return _number(node, "axis", 1) == 1
    if node.operator == "Reshape":  # (rows, everything else)
        shape = others[0].reshape(-1).tolist() if len(others) == 1 else []
        if len(shape) != 2 or chain.stage != "input" or _number(node, "allowzero", 0):
            return False
        chain.width = shape[1] if shape[1] > 0 else None
        return (shape[0] in (0, 1) and (shape[1] == -1 or shape[1] > 0)) or (shape[0] == -1 and shape[1] > 0)
    if node.operator == "Dropout":
        return len(others) <= 1  # a third input would say that it is training
    if node.operator == "Cast":
        return _number(node, "to", 1) in (1, 11)  # FLOAT, DOUBLE
    return True


def _constant(constants: Mapping[str, Array], name: str, where: str) -> Array:
    if name not in constants:
        raise DataError(f"{where}: takes {name[:60]!r}, which is no constant, expected a chain of layers")
    return constants[name]


def _define(constants: dict[str, Array], name: str, array: Array, where: str) -> None:
    if name in constants:
        raise DataError(f"{where}: defines {name[:60]!r}, which is there already, expected a new name")
    constants[name] = array


def _graph(content: bytes, source: str) -> tuple[dict[str, Array], list[_Node], list[str], list[str]]:
    graph = None
    for number, _, value in protobuf.fields(content, source):
        if number == 7:  # ModelProto.graph
            graph = protobuf.raw(value, source)
        elif number == 8:  # ModelProto.opset_import
            opset = {n: v for n, _, v in protobuf.fields(protobuf.raw(value, source), source)}
            version = opset.get(2, 0)
            if opset.get(1, b"") in (b"", b"ai.onnx") and isinstance(version, int) and version < _FIRST_OPSET:
                raise DataError(f"{source}: operators of version {version}, expected at least {_FIRST_OPSET}")
        elif number == 25:  # ModelProto.functions
            raise DataError(f"{source}: defines operators of its own, expected the standard ones")
    if graph is None:
        raise DataError(f"{source}: holds no graph, expected an ONNX file")
    constants: dict[str, Array] = {}
    nodes: list[_Node] = []
    ends: dict[int, list[str]] = {11: [], 12: []}  # GraphProto.input, output
    for number, _, value in protobuf.fields(graph, source):
        if number == 1:
            nodes.append(_node(protobuf.raw(value, source), source, len(nodes)))
        elif number == 5:
            name, array = _tensor(protobuf.raw(value, source), source)
            _define(constants, name, array, f"{source}: tensor {name[:60]!r}")
        elif number in ends:
            names = [v for n, _, v in protobuf.fields(protobuf.raw(value, source), source) if n == 1]
            ends[number].append(protobuf.text(names[0], source) if names else "")
        elif number == 15:
            raise DataError(f"{source}: holds sparse weights, expected dense ones")
    return constants, nodes, ends[11], ends[12]


def _node(message: bytes, source: str, index: int) -> _Node:
    inputs, outputs, attributes = [], [], {}
    name = operator = domain = ""
    for number, _, value in protobuf.fields(message, source):
        if number == 1:
            inputs.append(protobuf.text(value, source))
        elif number == 2:
            outputs.append(protobuf.text(value, source))
        elif number == 3:
            name = protobuf.text(value, source)
        elif number == 4:
            operator = protobuf.text(value, source)
        elif number == 5:
            key, attribute = _attribute(protobuf.raw(value, source), source)
            attributes[key] = attribute
        elif number == 7:
            domain = protobuf.text(value, source)
    where = f"{source}: node {name[:60]!r} ({operator[:40]})" if name else f"{source}: node {index} ({operator[:40]})"
    if domain not in ("", "ai.onnx"):
        raise DataError(f"{where}: of the domain {domain[:40]!r}, expected the standard operators")
    return _Node(where, operator, inputs, outputs, attributes)


def _attribute(message: bytes, source: str) -> tuple[str, Any]:
    name = ""
    value: Any = None
    for number, _, found in protobuf.fields(message, source):
        if number == 1:
            name = protobuf.text(found, source)
        elif number == 2:
            value = protobuf.float32(found, source)
        elif number == 3:
            value = protobuf.signed(found, source)
        elif number == 5:
            value = _tensor(protobuf.raw(found, source), source)[1]
    return name, value


def _tensor(message: bytes, source: str) -> tuple[str, Array]:
    shape: list[int] = []
    kind, name, content, floats, longs = 0, "", None, b"", list[int]()
    for number, wire, value in protobuf.fields(message, source):
        if number == 1:
            shape += protobuf.integers(value, source)
        elif number == 2:
            kind = protobuf.signed(value, source)
        elif number == 8:
            name = protobuf.text(value, source)
        elif number == 9:
            content = protobuf.raw(value, source)
        elif number in (4, 10) and wire != protobuf.VARINT:  # float_data, double_data, packed or one by one
            floats += protobuf.raw(value, source)
        elif number == 7:
            longs += protobuf.integers(value, source)
        elif number in (13, 14) and value != 0:
            raise DataError(f"{source}: tensor {name[:60]!r} lies in another file, expected it in this one")
    where = f"{source}: tensor {name[:60]!r}"
    if kind not in _TYPES:
        raise DataError(f"{where} is of data type {kind}, expected float, double, float16 or int64")
    dtype = np.dtype(_TYPES[kind])
    if content is None:
        content = np.array(longs, "<i8").tobytes() if kind == 7 else floats
    expected = math.prod(shape) * dtype.itemsize
    if any(size < 0 for size in shape) or len(shape) > 8 or len(content) != expected:
        raise DataError(f"{where} of shape {tuple(shape)[:8]} has {len(content)} bytes, expected {expected}")
    return name, np.frombuffer(content, dtype).reshape(shape)
