"""PyTorch interface of the chain rule: nodes of its graph, and a functional and a ``nn.Module`` per operation."""

from lean_mnist.nn.modules import GELU, MLP, Dense, LeakyReLU, ReLU, Sigmoid, Softmax, SoftmaxCrossEntropy, Tanh
from lean_mnist.nn.parameters import FlatParameters, flatten_parameters, parameter_layout, unflatten_parameters

__all__ = [
    "GELU", "MLP", "Dense", "FlatParameters", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "SoftmaxCrossEntropy", "Tanh",
    "flatten_parameters", "parameter_layout", "unflatten_parameters",
]  # fmt: skip
