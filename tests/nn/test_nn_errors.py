"""What the functions and modules refuse, before any arithmetic, in one line that names the argument."""

from typing import Any

import pytest
import torch

from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, Dense, SoftmaxCrossEntropy, functional
from tests.support.chainrule_arrays import NoArithmetic


def t(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    return torch.zeros(shape, dtype=dtype, device=device)


def y(*shape: int, dtype: torch.dtype = torch.int64, device: str = "cpu") -> Any:
    return torch.zeros(shape, dtype=dtype, device=device)


F64, META = torch.float64, "meta"
DENSE, MLP_, LOSS, CE = functional.dense, functional.mlp, functional.mlp_loss, functional.cross_entropy
GOOD = [(t(4, 3), t(4)), (t(2, 4), None)]
ARGUMENTS: dict[str, Any] = {
    # dtypes
    "dense: int x": ("x: expected a floating dtype, found torch.int64", DENSE, y(2, 3), t(4, 3)),
    "dense: uint8 x": ("x: expected a floating dtype, found torch.uint8", DENSE, y(2, 3, dtype=torch.uint8), t(4, 3)),
    "dense: complex x": (
        "x: expected a floating dtype, found torch.complex64",
        *(DENSE, t(2, 3, dtype=torch.complex64), t(4, 3)),
    ),
    "dense: float64 weight": (
        "weight: expected torch.float32, the dtype of x, found torch.float64",
        *(DENSE, t(2, 3), t(4, 3, dtype=F64)),
    ),
    "dense: float64 x": (
        "weight: expected torch.float64, the dtype of x, found torch.float32",
        *(DENSE, t(2, 3, dtype=F64), t(4, 3)),
    ),
    "dense: bfloat16 bias": (
        "bias: expected torch.float32, the dtype of x, found torch.bfloat16",
        *(DENSE, t(2, 3), t(4, 3), t(4, dtype=torch.bfloat16)),
    ),
    "dense: int bias": ("bias: expected a floating dtype, found torch.int64", DENSE, t(2, 3), t(4, 3), y(4)),
    "relu: int z": ("z: expected a floating dtype, found torch.int64", functional.relu, y(2, 3)),
    "softmax: int logits": ("logits: expected a floating dtype", functional.softmax, y(2, 3)),
    "cross-entropy: int logits": ("logits: expected a floating dtype", CE, y(2, 3), y(2)),
    "cross-entropy: float labels": ("labels: expected torch.int64, found torch.float32", CE, t(2, 3), t(2)),
    "cross-entropy: int32 labels": ("labels: expected torch.int64", CE, t(2, 3), y(2, dtype=torch.int32)),
    "cross-entropy: one-hot labels": ("labels: expected torch.int64, found torch.float32", CE, t(2, 3), t(2, 3)),
    "mlp: int x": ("x: expected a floating dtype", MLP_, y(2, 3), GOOD),
    "mlp: float64 x": ("layers[0].weight: expected torch.float64, the dtype of x", MLP_, t(2, 3, dtype=F64), GOOD),
    "mlp: float64 second weight": (
        "layers[1].weight: expected torch.float32, the dtype of x, found torch.float64",
        *(MLP_, t(2, 3), [(t(4, 3), t(4)), (t(2, 4, dtype=F64), None)]),
    ),
    "mlp: float64 first bias": ("layers[0].bias: expected torch.float32", MLP_, t(2, 3), [(t(4, 3), t(4, dtype=F64))]),
    "loss: float labels": ("labels: expected torch.int64, found torch.float32", LOSS, t(2, 3), t(2), GOOD),
    # devices
    "dense: weight elsewhere": (
        "weight: expected device cpu, that of x, found meta",
        *(DENSE, t(2, 3), t(4, 3, device=META)),
    ),
    "dense: x elsewhere": (
        "weight: expected device meta, that of x, found cpu",
        *(DENSE, t(2, 3, device=META), t(4, 3)),
    ),
    "dense: bias elsewhere": ("bias: expected device cpu, that of x", DENSE, t(2, 3), t(4, 3), t(4, device=META)),
    "mlp: layer elsewhere": (
        "layers[1].weight: expected device cpu, that of x, found meta",
        *(MLP_, t(2, 3), [(t(4, 3), t(4)), (t(2, 4, device=META), None)]),
    ),
    "cross-entropy: labels elsewhere": ("labels: expected device cpu, found meta", CE, t(2, 3), y(2, device=META)),
    "loss: labels elsewhere": ("labels: expected device cpu, found meta", LOSS, t(2, 3), y(2, device=META), GOOD),
    # shapes
    "dense: x of one dimension": ("x: expected shape (B, D), found (3,)", DENSE, t(3), t(4, 3)),
    "dense: features": ("x: expected 5 features a row", DENSE, t(2, 3), t(4, 5)),
    "dense: bias": ("bias: expected shape (4,), found (1,)", DENSE, t(2, 3), t(4, 3), t(1)),
    "softmax: one dimension": ("logits: expected shape (B, C)", functional.softmax, t(3)),
    "softmax: no classes": ("logits: expected shape (B, C)", functional.softmax, t(3, 0)),
    "cross-entropy: one dimension": ("logits: expected shape (B, C)", CE, t(3), y(3)),
    "cross-entropy: no classes": ("logits: expected shape (B, C)", CE, t(2, 0), y(2)),
    "cross-entropy: labels too many": ("labels: expected shape (2,), one a row of logits", CE, t(2, 3), y(3)),
    "cross-entropy: labels as a column": ("labels: expected shape (2,)", CE, t(2, 3), y(2, 1)),
    "cross-entropy: one label": ("labels: expected shape (2,), one a row of logits, found ()", CE, t(2, 3), y()),
    "mlp: no layers": ("layers: expected at least one layer", MLP_, t(2, 3), []),
    "mlp: images not flattened": ("x: expected shape (B, D), found (2, 1, 3)", MLP_, t(2, 1, 3), GOOD),
    "mlp: features": ("x: expected 3 features a row", MLP_, t(2, 4), GOOD),
    "mlp: second layer": ("layers[1].weight: expected shape (H, 4)", MLP_, t(2, 3), [GOOD[0], (t(2, 5), None)]),
    "loss: labels": ("labels: expected shape (2,), one a row of x", LOSS, t(2, 3), y(3), GOOD),
    "loss: labels as a column": ("labels: expected shape (2,)", LOSS, t(2, 3), y(2, 1), GOOD),
    "loss: no classes": ("", LOSS, t(2, 3), y(2), [GOOD[0], (t(0, 4), None)]),
    # other kinds of object
    "dense: a list": ("x: expected a tensor, found list", DENSE, [[1.0]], t(1, 1)),
    "dense: a number as bias": ("bias: expected a tensor, found float", DENSE, t(2, 3), t(4, 3), 1.0),
    "relu: an array": ("z: expected a tensor, found ndarray", functional.relu, t(2).numpy()),
    "cross-entropy: a list of labels": ("labels: expected a tensor, found list", CE, t(2, 3), [0, 1]),
    # options
    "cross-entropy: reduction": (
        "reduction: expected one of mean, sum, none, found 'means' (did you mean 'mean'?)",
        *(CE, t(2, 3), y(2), 0.0, 0.0, "means"),
    ),
    "cross-entropy: smoothing": ("label_smoothing: expected a number from 0 to 1, found 1.5", CE, t(2, 3), y(2), 1.5),
    "cross-entropy: penalty": ("logit_penalty: expected a number from 0 to 2⁵³", CE, t(2, 3), y(2), 0.0, -1.0),
    "activate: name": ("activation: expected one of relu", functional.activate, t(2), "Relu"),
    "mlp: activation": ("activation: expected one of relu", MLP_, t(2, 3), GOOD, "swish"),
    "loss: activation": ("activation: expected one of relu", LOSS, t(2, 3), y(2), GOOD, "swish"),
    # modules
    "MLP: one size": ("sizes: expected two or more numbers of at least 1, found (784,)", MLP, (784,)),
    "MLP: no units": ("sizes: expected two or more numbers of at least 1, found (784, 0, 10)", MLP, (784, 0, 10)),
    "MLP: activation": ("activation: expected one of relu", MLP, (3, 2), "sigmoidal"),
    "Dense: no features": ("in_features: expected at least 1, found 0", Dense, 0, 3),
    "Dense: negative units": ("out_features: expected at least 1, found -3", Dense, 3, -3),
    "SoftmaxCrossEntropy: smoothing": ("label_smoothing: expected", SoftmaxCrossEntropy, 2.0),
    "SoftmaxCrossEntropy: penalty": ("logit_penalty: expected", SoftmaxCrossEntropy, 0.0, -2.0),
    "SoftmaxCrossEntropy: no number of float32": ("logit_penalty: expected", SoftmaxCrossEntropy, 0.0, 1e39),
    "SoftmaxCrossEntropy: reduction": ("reduction: expected one of", SoftmaxCrossEntropy, 0.0, 0.0, "avg"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_refused_before_any_arithmetic_in_one_line(case: Any) -> None:
    message, function, *arguments = ARGUMENTS[case]
    with NoArithmetic(), pytest.raises(ArgumentError) as caught:
        function(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_loss_reduction_of_a_module_is_refused_before_any_arithmetic() -> None:
    model = MLP((3, 2))
    x, labels = t(2, 3), y(2)
    with NoArithmetic(), pytest.raises(ArgumentError, match="reduction: expected one of"):
        model.loss(x, labels, "median")


def test_an_unknown_initialization_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"initialization: expected one of he-normal, .* \(did you mean 'he-normal'\?\)"
    ):
        MLP((3, 2), initialization="he_normal")


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises((ArgumentError, RuntimeError), match=r"scale|std"):
        MLP((3, 2), initialization="scale", scale=-1.0)


@pytest.mark.parametrize("label", [-1, -100, 3, 2**40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("face", ["cross-entropy", "loss"])
def test_labels_out_of_range_give_no_value(face: str, smoothing: float, label: Any) -> None:
    """−100 too, which PyTorch's own cross-entropy would silently leave out."""
    labels, model = torch.tensor([0, label]), MLP((4, 3), label_smoothing=smoothing)
    with pytest.raises((ArgumentError, RuntimeError, IndexError)):
        model.loss(t(2, 4), labels) if face == "loss" else CE(t(2, 3), labels, smoothing)
