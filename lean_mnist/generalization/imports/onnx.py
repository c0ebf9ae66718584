"""Dense ReLU networks in ONNX files; nothing in the file is run, and no more of it is taken in than it holds.

Known operators: ``Gemm``, ``MatMul``, ``Add`` (a bias), ``Relu``; ``Flatten``, ``Reshape``, ``Identity``, ``Dropout``
and ``Cast``, which change no number here; ``Sub``, ``Add``, ``Mul`` and ``Div`` of the input by one constant, which is
how pixels are scaled; ``Softmax``, ``LogSoftmax`` and ``ArgMax`` at the end, which change no label; and ``Constant``.
Any other node is refused by its name.

Numbers of fields, messages and enumerations: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.network import ImportedNetwork, NamedLayer, orient, scaling_of
from lean_mnist.generalization.imports.protobuf import Budget, Damaged, Message
from lean_mnist.reading.files import read_bytes
from lean_mnist.reading.text import printable, shown

#: Bytes of a file.
LARGEST_FILE = 1 << 26
_MOST_NODES = 1000
_FIRST_OPSET = 7  # before it, Add and Gemm broadcast by rules of their own
_KEEPS_NUMBERS = ("Flatten", "Reshape", "Identity", "Dropout", "Cast")
_KEEPS_LABELS = ("Softmax", "LogSoftmax", "ArgMax")
_AFFINE = ("Add", "Sub", "Mul", "Div")
_TYPES = {1: "<f4", 7: "<i8", 10: "<f2", 11: "<f8"}  # TensorProto.DataType
_STORED = {1: 4, 7: 7, 10: 5, 11: 10}  # float_data, int64_data, int32_data, double_data
_LONGEST_NAME = 200

Array = npt.NDArray[Any]


class ChainStage(Enum):
    """The kind of the numbers that a chain of nodes has computed so far."""

    INPUT = "input"
    PRE_ACTIVATION = "pre-activation"
    HIDDEN = "hidden"
    SCORES = "scores"


@dataclass(frozen=True)
class OnnxNode:
    """A node of the graph: its place in words, for messages, its operator, names, and numbers or tensors by name."""

    where: str
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    def number(self, name: str, default: float) -> float:
        """The attribute called ``name``; ``DataError`` if it is no number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            raise DataError(f"{self.where}: its attribute {name} is no number, expected one")
        return value


@dataclass
class LayerChain:
    """The network that the nodes so far amount to, applied to features ``factor · pixel + offset``."""

    constants: dict[str, Array]
    current: str = ""  # the name of what was computed last
    stage: ChainStage = ChainStage.INPUT
    factor: float = 1.0
    offset: float = 0.0
    width: int | None = None  # of each row: what a Reshape of the input or the last layer gives
    layers: list[NamedLayer] = field(default_factory=list)

    def define(self, name: str, array: Array, where: str) -> None:
        """Add a constant; ``DataError`` if the name is taken."""
        if name in self.constants:
            raise DataError(f"{where}: defines {name[:60]!r}, which is there already, expected a new name")
        self.constants[name] = array

    def follow(self, node: OnnxNode) -> None:
        """Add one node; raises ``DataError`` if the chain with it is no dense ReLU network."""
        operator, where = node.operator, node.where
        if operator == "Constant":
            value = node.attributes.get("value")
            if not isinstance(value, np.ndarray) or len(node.outputs) != 1:
                raise DataError(f"{where}: expected a constant tensor")
            self.define(node.outputs[0], value, where)
            return
        if operator not in (*_KEEPS_NUMBERS, *_KEEPS_LABELS, *_AFFINE, "Gemm", "MatMul", "Relu"):
            raise DataError(f"{where}: unsupported, expected a chain of Gemm, MatMul, Add and Relu")
        if node.inputs.count(self.current) != 1 or not node.outputs:
            raise DataError(f"{where}: expected to be given what the node before computed, once")
        if node.outputs[0] in self.constants or node.outputs[0] == self.current:
            raise DataError(f"{where}: gives {node.outputs[0][:60]!r}, which is there already, expected a new name")
        names = [name for name in node.inputs if name not in (self.current, "")]
        if unknown := [name for name in names if name not in self.constants]:
            raise DataError(f"{where}: takes {unknown[0][:60]!r}, which is no constant, expected a chain of layers")
        others, first = [self.constants[name] for name in names], node.inputs[0] == self.current
        after_layer = self.stage is ChainStage.PRE_ACTIVATION
        if operator in _KEEPS_NUMBERS:
            if self.stage is ChainStage.SCORES or not first or not self._keeps_rows(node, others):
                raise DataError(f"{where}: changes the shape of something else than one row an image, expected that")
        elif operator in _KEEPS_LABELS:
            if not after_layer or node.number("axis", 0 if operator == "ArgMax" else -1) not in (1, -1):
                raise DataError(f"{where}: expected only after the last layer, along the classes")
            if node.number("select_last_index", 0):
                raise DataError(f"{where}: gives ties to the last class, expected the first")
            self.stage = ChainStage.SCORES
        elif operator == "Relu":
            if not after_layer:
                raise DataError(f"{where}: expected after a dense layer")
            self.stage = ChainStage.HIDDEN
        elif operator in ("Gemm", "MatMul"):
            self._dense(node, others, first)
        elif self.stage is ChainStage.INPUT:
            self._scale(node, others, first)
        elif operator == "Add" and after_layer and self.layers[-1][2] is None:
            name, weight_HD, _ = self.layers[-1]
            self.layers[-1] = name, weight_HD, _bias(others, where, len(weight_HD))
        else:
            raise DataError(f"{where}: unsupported here, expected a bias after a MatMul or a scaling of the input")
        self.current = node.outputs[0]

    def scaling(self, source: str) -> Normalization | None:
        """Scaling of pixels by the graph; ``None`` where it leaves that to its user."""
        if not (1e-30 < self.factor < 1e30 and abs(self.offset) < 1e30):
            raise DataError(f"{source}: scales its input by {self.factor:g}, expected a number above 0 for float32")
        if (self.factor, self.offset) == (1.0, 0.0):
            return None
        return scaling_of(0.0 - self.offset / self.factor, 1 / self.factor)

    def _dense(self, node: OnnxNode, others: list[Array], first: bool) -> None:
        where = node.where
        if self.stage not in (ChainStage.INPUT, ChainStage.HIDDEN):
            raise DataError(f"{where}: follows a dense layer without a Relu between them, expected one")
        if not first or not others or others[0].ndim != 2 or node.number("transA", 0):
            raise DataError(f"{where}: expected an input times a constant matrix")
        weight_HD, bias = others[0] if node.number("transB", 0) else others[0].T, None
        units, inputs = weight_HD.shape
        if self.width not in (None, inputs):
            before = "the layer" if self.layers else "the Reshape"
            raise DataError(f"{where}: has {inputs} inputs, expected {self.width}, as {before} before gives")
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is refused with all that is not finite
            if len(others) > 1:
                bias = _bias(others[1:], where, units) * node.number("beta", 1.0)
            self.layers.append((node.inputs[1], weight_HD.astype(np.float64) * node.number("alpha", 1.0), bias))
        self.stage, self.width = ChainStage.PRE_ACTIVATION, units

    def _scale(self, node: OnnxNode, others: list[Array], first: bool) -> None:
        operator, where = node.operator, node.where
        if len(others) != 1 or others[0].size != 1 or (operator in ("Sub", "Div") and not first):
            raise DataError(f"{where}: expected to scale or shift the input by one constant")
        constant = float(others[0].reshape(-1)[0])
        if operator in ("Add", "Sub"):
            self.offset += constant if operator == "Add" else -constant
            return
        if constant == 0:
            raise DataError(f"{where}: by 0, expected another number")
        by = constant if operator == "Mul" else 1 / constant
        self.factor, self.offset = self.factor * by, self.offset * by

    def _keeps_rows(self, node: OnnxNode, others: list[Array]) -> bool:
        """Decide if a node of ``_KEEPS_NUMBERS`` leaves one row an image; notes the width that a Reshape states."""
        if node.operator == "Flatten":
            return node.number("axis", 1) == 1
        if node.operator == "Reshape":  # (rows, everything else)
            shape = others[0].reshape(-1).tolist() if len(others) == 1 else []
            if len(shape) != 2 or self.stage is not ChainStage.INPUT or node.number("allowzero", 0):
                return False
            self.width = shape[1] if shape[1] > 0 else None
            return (shape[0] in (0, 1) and (shape[1] == -1 or shape[1] > 0)) or (shape[0] == -1 and shape[1] > 0)
        if node.operator == "Dropout":
            return len(node.inputs) <= 2  # a third input would say that it is training
        if node.operator == "Cast":
            return node.number("to", 1) in (1, 11)  # FLOAT, DOUBLE
        return True


def read_onnx(path: str | Path, features: int, classes: int) -> ImportedNetwork:
    """The network in an ONNX file of at most 64 MiB, for so many pixels and classes.

    Its graph says how each weight is used, so nothing about orientation is left open; ``scaling`` is what the graph
    does to its input, ``None`` where it leaves that to its user. Raises ``DataError``, naming the node or the tensor,
    for every other graph.
    """
    source, content = shown(path), read_bytes(path, "an ONNX file", largest=LARGEST_FILE)
    try:
        chain = _chain(Message.read(memoryview(content), Budget()), source)
    except Damaged as fault:
        raise DataError(f"{source}: damaged ({fault}), expected an ONNX file") from None
    for name, weight_HD, _ in chain.layers[:1]:
        if weight_HD.shape[1] != features:
            raise DataError(f"{source}: {name} takes {weight_HD.shape[1]} inputs, expected {features}")
    scaling, network = chain.scaling(source), orient(chain.layers, source, features, classes)
    return replace(network, known=(True,) * len(network.layers), scaling=scaling)


def _chain(model: Message, source: str) -> LayerChain:
    graph, chain = _checked_graph(model, source), LayerChain({})
    for tensor in graph.messages(5):  # initializer
        name = _name(tensor.text(8))
        chain.define(name, _array(tensor, source), f"{source}: tensor {name!r}")
    inputs, outputs = ([_name(value.text(1)) for value in graph.messages(number)] for number in (11, 12))
    inputs = [name for name in inputs if name not in chain.constants]  # older files list constants there as well
    if len(inputs) != 1 or len(outputs) != 1:
        raise DataError(f"{source}: {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    chain.current = inputs[0]
    for index, node in enumerate(graph.messages(1)):
        chain.follow(_node(node, source, index))
    if chain.current != outputs[0]:
        raise DataError(f"{source}: the output {outputs[0]!r} is not what its chain of layers ends in")
    if chain.stage is ChainStage.HIDDEN:
        raise DataError(f"{source}: ends with a Relu, expected logits")
    return chain


def _bias(others: list[Array], where: str, units: int) -> Array:
    bias = others[0] if len(others) == 1 else np.empty(0)
    if bias.shape not in ((units,), (1, units)):
        raise DataError(f"{where}: adds a constant of shape {bias.shape}, expected ({units},)")
    return bias.reshape(-1).astype(np.float64)


def _checked_graph(model: Message, source: str) -> Message:
    """The graph of a model; ``DataError`` unless it uses the standard operators and dense weights alone."""
    for opset in model.messages(8):  # opset_import: domain and version
        if opset.text(1) in ("", "ai.onnx") and opset.number(2) < _FIRST_OPSET:
            raise DataError(f"{source}: operators of version {opset.number(2)}, expected at least {_FIRST_OPSET}")
    if 25 in model.held:  # functions
        raise DataError(f"{source}: defines operators of its own, expected the standard ones")
    if 7 not in model.held:
        raise DataError(f"{source}: holds no graph, expected an ONNX file")
    graph = model.message(7)
    if max(len(graph.held.get(number, [])) for number in (1, 5, 11, 12)) > _MOST_NODES:
        raise DataError(f"{source}: more than {_MOST_NODES:,} nodes or tensors, expected a chain of layers")
    if 15 in graph.held:  # sparse_initializer
        raise DataError(f"{source}: holds sparse weights, expected dense ones")
    return graph


def _node(node: Message, source: str, index: int) -> OnnxNode:
    name, operator, domain = _name(node.text(3)), _name(node.text(4)), _name(node.text(7))
    where = f"{source}: node {name!r} ({operator})" if name else f"{source}: node {index} ({operator})"
    if domain not in ("", "ai.onnx"):
        raise DataError(f"{where}: of the domain {domain!r}, expected the standard operators")
    if max(len(node.held.get(number, [])) for number in (1, 2, 5)) > _MOST_NODES:
        raise DataError(f"{where}: more than {_MOST_NODES:,} inputs, outputs or attributes, expected few")
    attributes: dict[str, Any] = {}
    for attribute in node.messages(5):
        kind = attribute.number(20)
        value: Any = None
        if kind == 1:
            value = attribute.float32(2)
        elif kind == 2:
            value = attribute.number(3)
        elif kind == 4:
            value = _array(attribute.message(5), source)
        if (own := _name(attribute.text(1))) in attributes:
            raise DataError(f"{where}: has its attribute {own!r} twice, expected it once")
        attributes[own] = value
    return OnnxNode(where, operator, [*map(_name, node.texts(1))], [*map(_name, node.texts(2))], attributes)


def _name(text: str) -> str:
    """A name of a file, fit for one line."""
    if len(text) > _LONGEST_NAME or not text.isprintable():
        raise Damaged(f"the name {printable(text, 60)!r}, expected at most {_LONGEST_NAME} printable characters")
    return text


def _array(tensor: Message, source: str) -> Array:
    """The numbers of a tensor in this file, of an announced shape that they fill."""
    where = f"{source}: tensor {_name(tensor.text(8))!r}"
    kind = tensor.number(2)
    if tensor.number(14) or 13 in tensor.held:  # data_location, external_data
        raise DataError(f"{where} lies in another file, expected it in this one")
    if kind not in _TYPES or 3 in tensor.held:  # segment
        raise DataError(f"{where} is of data type {kind}, expected float, double, float16 or int64")
    number = _STORED[kind]
    if 9 in tensor.held:  # raw_data
        content, size = tensor.raw(9), np.dtype(_TYPES[kind]).itemsize
        if len(content) % size or number in tensor.held:
            raise DataError(f"{where} holds {len(content)} bytes for numbers of {size}, or others beside them")
        held: Array = np.frombuffer(content, _TYPES[kind]) if content else np.zeros(0, _TYPES[kind])
    elif kind in (1, 11):
        held = tensor.floats(number, _TYPES[kind])
    else:
        held = tensor.integers(number)
        if kind == 10:  # the bits of a float16 as a whole number
            if len(held) and not 0 <= held.min() <= held.max() < 1 << 16:
                raise DataError(f"{where} holds whole numbers that are no float16, expected 0 to 65535")
            held = held.astype(np.uint16).view(np.float16)
    shape = tuple(tensor.integers(1)[:9].tolist())
    if len(shape) > 8 or any(size < 0 for size in shape) or math.prod(shape) != len(held):
        raise DataError(f"{where} of shape {shape[:8]} holds {len(held)} numbers, expected {math.prod(shape)}")
    return held.reshape(shape)
