"""ONNX graphs of dense networks with the normalisation inside, written operator by operator.

Operators: https://onnx.ai/onnx/operators/, of version 17, which runtimes of many years have.
"""

import math
from typing import Any

import numpy as np
import torch

from lean_mnist.exchange.pixels import PixelNetwork

OPSET, IR_VERSION = 17, 8


class _Graph:
    """Nodes and constants so far; every method adds nodes and returns the name of what the last one computes."""

    def __init__(self, double: bool) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = np.float64 if double else np.float32

    def constant(self, values: Any, dtype: Any = None) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype or self.dtype), name))
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        result = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], name=result, **attributes))
        return result

    def normalised(self, x: str, network: PixelNetwork) -> str:
        normalization = network.normalization
        if normalization.kind == "per-image":
            x = self.add("Sub", x, self.add("ReduceMean", x, axes=[1], keepdims=1))
            deviation = self.add("Sqrt", self.add("ReduceMean", self.add("Mul", x, x), axes=[1], keepdims=1))
            constant = self.add("Equal", deviation, self.constant(0))
            x = self.add("Div", x, self.add("Where", constant, self.constant(1), deviation))
        else:
            if normalization.mean != 0:
                x = self.add("Sub", x, self.constant(normalization.mean))
            x = self.add("Div", x, self.constant(normalization.scale))
        if normalization.clip is not None:
            x = self.add("Clip", x, self.constant(-normalization.clip), self.constant(normalization.clip))
        return x

    def activated(self, z: str, activation: str) -> str:
        if activation == "identity":
            return z
        if activation == "leaky-relu":
            return self.add("Max", z, self.add("Mul", z, self.constant(0.01)))  # LeakyRelu's slope is a float32
        if activation == "silu":
            return self.add("Mul", z, self.add("Sigmoid", z))
        if activation == "gelu":  # z Φ(z); the operator Gelu is of version 20
            erf = self.add("Erf", self.add("Div", z, self.constant(math.sqrt(2))))
            return self.add("Mul", z, self.add("Mul", self.constant(0.5), self.add("Add", erf, self.constant(1))))
        return self.add({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[activation], z)


def onnx_model(network: PixelNetwork, metadata: dict[str, str]) -> bytes:
    """An ONNX file of ``network``: ``pixels`` uint8 (B, rows, columns) in, ``logits`` (B, C) out, any B.

    ``metadata`` are its properties. Raises ``ImportError`` where the package onnx is missing.
    """
    import onnx
    from onnx import TensorProto, helper

    double = network.dtype == torch.float64
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    graph = _Graph(double)
    h = graph.add("Flatten", "pixels", axis=1)
    h = graph.normalised(graph.add("Cast", h, to=kind), network)
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        last = index == len(network.weights) - 1
        parts = (graph.constant(weight.numpy()), graph.constant(bias.numpy()))
        h = graph.add("Gemm", h, *parts, transB=1, name="logits" if last else "")
        h = h if last else graph.activated(h, network.activation)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *network.image_shape])
    logits = helper.make_tensor_value_info("logits", kind, ["batch", len(network.weights[-1])])
    built = helper.make_graph(graph.nodes, "lean_mnist", [pixels], [logits], graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(built, opset_imports=opset, ir_version=IR_VERSION, producer_name="lean_mnist")
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
