"""Networks from elsewhere for tests: small PyTorch networks, and their ONNX graphs and files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
import torch
from onnx import helper, numpy_helper

from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import DataError
from lean_mnist.generalization.imports.certified import import_network, kind_of
from lean_mnist.generalization.imports.network import ImportedNetwork, scaling_of
from lean_mnist.generalization.spaces.network import QuantizedLayer, QuantizedNetwork

Array = npt.NDArray[Any]

B16, B2 = "params-EMNIST-b16-N10-073018.pkl.gz", "params-EMNIST-b2-N10-073118.pkl.gz"


def attempt(reader: Callable[[Path], Any], path: Path) -> Any:
    """Result of the reader on a file, ``None`` where it refuses it; any other error than one line passes through."""
    try:
        return reader(path)
    except DataError as refusal:
        if "\n" in str(refusal):
            raise
        return None


class Runs:
    """An object whose pickle calls ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def torch_network(*sizes: int, bias: bool = True) -> torch.nn.Sequential:
    """Dense layers with ReLU between them, seeded."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):  # noqa: RUF007
        layers += [torch.nn.Linear(before, after, bias=bias), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


IMAGES = np.random.default_rng(3).integers(0, 256, (200, 3, 4)).astype(np.uint8)

UNIT = scaling_of(0.0, 255.0)


def labels_of(model: torch.nn.Module, images: Array = IMAGES) -> Array:
    """The classes that ``model`` sees in pixels divided by 255."""
    with torch.no_grad():
        return model(torch.from_numpy(images).flatten(1).float() / 255).argmax(1).numpy()


def read_as(network: ImportedNetwork, images: Array = IMAGES, scaling: Normalization = UNIT) -> Array:
    """The classes that an imported network sees."""
    with torch.no_grad():
        labels: Array = (
            network.model().double()(scaling.apply(torch.from_numpy(images), torch.float64)).argmax(1).numpy()
        )
    return labels


def assert_same(network: ImportedNetwork, model: torch.nn.Sequential) -> None:
    """Every number of ``network`` is that of ``model``, and so are its answers."""
    weights = [(layer.weight, layer.bias) for layer in model if isinstance(layer, torch.nn.Linear)]
    for (weight, bias), (expected, expected_bias) in zip(network.layers, weights, strict=True):
        assert np.array_equal(weight, expected.detach().double().numpy())
        assert (bias is None) == (expected_bias is None)
        assert bias is None or np.array_equal(bias, expected_bias.detach().double().numpy())
    assert np.array_equal(read_as(network), labels_of(model))


def arrays_of(model: torch.nn.Module) -> dict[str, Array]:
    """The ``state_dict`` in NumPy."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def imported(path: Path) -> ImportedNetwork:
    """The floating network in a file, for 12 pixels and 3 classes."""
    network = import_network(str(path), kind_of(str(path)), 12, 3)
    assert isinstance(network, ImportedNetwork)
    return network


def stored(path: Path, tensors: dict[str, Array]) -> ImportedNetwork:
    """These tensors, written as safetensors and read again."""
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return imported(path)


def halves(layers: Sequence[tuple[Array, Array | None]]) -> QuantizedNetwork:
    """Layers on ``pixel / 255``, rounded to half precision as in MLCERT's 16-bit networks."""
    codes = [(weight.astype(np.float16).view(np.uint16), bias) for weight, bias in layers]
    return QuantizedNetwork(
        tuple(
            QuantizedLayer(
                own, 16, np.float16(0), np.float16(1), None if b is None else b.astype(np.float16), "float16"
            )
            for own, b in codes
        )
    )


def node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node with one output, named after it."""
    return helper.make_node(operator, inputs, [output], name=f"node-{output}", domain=domain, **attributes)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], output: str = "y", opset: int = 17
) -> onnx.ModelProto:
    """A model from x to ``output``."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", output))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def written(path: Path, *arguments: Any) -> Path:
    """The model of these arguments in a file."""
    path.write_bytes(model_of(*arguments).SerializeToString())
    return path


def parts(model: torch.nn.Sequential, largest: int = 255) -> dict[str, Array]:
    """The constants of the graph ``GEMM``."""
    named = {name.replace(".", ""): array for name, array in arrays_of(model).items()}
    return named | {"c": np.array(largest, np.float32)}


GEMM = [
    node("Flatten", ["x"], "f", axis=1),
    node("Div", ["f", "c"], "s"),
    node("Gemm", ["s", "0weight", "0bias"], "z", transB=1, alpha=1.0),
    node("Relu", ["z"], "h"),
    node("Gemm", ["h", "2weight", "2bias"], "y", transB=1),
]
