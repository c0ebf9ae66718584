"""A checkpoint's network with its normalisation inside, in PyTorch's plain operations and in those of ONNX.

Raw pixels in, logits out. ONNX: https://onnx.ai/onnx/operators/, of version 17, which runtimes of many years have.
Shapes: ``B`` batch, ``C`` classes, ``D = rows * columns`` input features.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.training.checkpoints import Checkpoint

OPSET, IR_VERSION = 17, 8


class PixelNetwork(nn.Module):
    """Logits (B, C) of raw pixels, uint8 (B, rows, columns), computed in ``dtype``, by default that of the weights.

    A quantised network has its rounded weights, and one in bfloat16 its weights in float32, which holds them exactly.
    """

    scale: Tensor

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        stored = next(checkpoint.model.parameters()).dtype
        self.dtype = dtype or (torch.float64 if stored == torch.float64 else torch.float32)
        self.activation, self.normalization = checkpoint.model.activation, checkpoint.normalization
        self.image_shape = checkpoint.image_shape
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for weight, bias in checkpoint.model.weights_and_biases():
            own = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
            self.weights.append(nn.Parameter(weight.detach().to(self.dtype), requires_grad=False))
            self.biases.append(nn.Parameter(own.detach().to(self.dtype), requires_grad=False))
        self.register_buffer("scale", torch.tensor(self.normalization.scale, dtype=self.dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, C) of ``pixels`` (B, rows, columns)."""
        h_BD = self._features(pixels.flatten(1).to(self.dtype))
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            h_BD = REFERENCE_ACTIVATIONS[self.activation].value(F.linear(h_BD, weight, bias))
        return F.linear(h_BD, self.weights[-1], self.biases[-1])

    def _features(self, x_BD: Tensor) -> Tensor:
        if self.normalization.kind == "per-image":
            x_BD = x_BD - x_BD.mean(1, keepdim=True)
            deviation_B1 = x_BD.square().mean(1, keepdim=True).sqrt()
            x_BD = x_BD / torch.where(deviation_B1 == 0, 1.0, deviation_B1)
        else:
            x_BD = (x_BD - self.normalization.mean) / self.scale
        clip = self.normalization.clip
        return x_BD if clip is None else x_BD.clamp(-clip, clip)


class _Graph:
    """Nodes and constants so far; every method adds nodes and returns the name of what the last one computes."""

    def __init__(self, double: bool) -> None:
        from onnx import helper, numpy_helper

        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.dtype = np.float64 if double else np.float32
        self._node, self._tensor = helper.make_node, numpy_helper.from_array

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._tensor(np.asarray(values, dtype=self.dtype), name))
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        result = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._node(operator, list(inputs), [result], name=result, **attributes))
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
