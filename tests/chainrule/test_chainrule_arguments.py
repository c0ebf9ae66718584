"""What the chain rule computes when only some gradients are asked for, and what it refuses before computing."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation, activation_named, relu_backward, relu_forward
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.errors import ArgumentError
from tests.support.chainrule_arrays import NoArithmetic, random_fractions, random_layers

SQUARED, CROSS_ENTROPY = losses.squared_error(), losses.softmax_cross_entropy()
SIZES = (3, 4, 3, 2)
NONE, BOTH, WEIGHT, BIAS = (False, False), (True, True), (True, False), (False, True)


class Counter:
    """Counts the arguments of every call of the dense and activation backwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dense: list[Any] = []
        self.activation = 0
        original = dense.dense_backward

        def counted(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> Any:
            self.dense.append(tuple(needs))
            return original(tape, d_z, needs)

        monkeypatch.setattr(dense, "dense_backward", counted)

    def relu(self) -> Any:
        def backward(h: Any, d_h: Any) -> Any:
            self.activation += 1
            return relu_backward(h, d_h)

        return Activation("relu", relu_forward, backward)


NEEDS = [  # needs, what each dense_backward call (last layer first) is asked for, activation backwards
    (None, [(True, True, True)] * 3, 2),
    ((True, (BOTH, BOTH, BOTH)), [(True, True, True)] * 3, 2),
    ((False, (BOTH, BOTH, BOTH)), [(True, True, True), (True, True, True), (False, True, True)], 2),
    ((False, (NONE, BOTH, BOTH)), [(True, True, True), (False, True, True)], 1),
    ((False, (NONE, NONE, BOTH)), [(False, True, True)], 0),
    ((False, (NONE, NONE, WEIGHT)), [(False, True, False)], 0),
    ((False, (NONE, BIAS, NONE)), [(True, False, False), (False, False, True)], 1),
    ((False, (WEIGHT, NONE, NONE)), [(True, False, False), (True, False, False), (False, True, False)], 2),
    ((True, (NONE, NONE, NONE)), [(True, False, False)] * 3, 2),
    ((True, (NONE, WEIGHT, NONE)), [(True, False, False), (True, True, False), (True, False, False)], 2),
    ((False, (NONE, NONE, NONE)), None, 0),
]


@pytest.mark.parametrize(("needs", "calls", "activations"), NEEDS)
def test_only_what_is_asked_for_is_computed(
    needs: Any, calls: Any, activations: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    x, layers, labels = random_fractions(rng, 2, 3), random_layers(rng, SIZES), np.array([0, 1])
    upstream, counter = random_fractions(rng, 2), Counter(monkeypatch)
    _, tape = mlp.mlp_loss_forward(x, labels, layers, ACTIVATIONS["relu"], SQUARED)
    everything = mlp.mlp_loss_backward(tape, layers, ACTIVATIONS["relu"], SQUARED, upstream)
    counter.dense.clear()
    found = mlp.mlp_loss_backward(tape, layers, counter.relu(), SQUARED, upstream, needs)
    if calls is None:  # a call that asks for nothing costs nothing
        assert not any(any(call) for call in counter.dense)
    else:
        assert counter.dense == calls
    assert counter.activation == activations
    needs_x, needs_layers = needs or (True, (BOTH,) * 3)
    pairs: list[Any] = [(needs_x, found.x_BD, everything.x_BD)]
    for asked, some, all_of_them in zip(needs_layers, found.layers, everything.layers, strict=True):
        pairs += zip(asked, some, all_of_them, strict=True)
    for asked, value, right in pairs:
        assert (value.tolist() == right.tolist()) if asked else value is None


def test_a_layer_without_a_bias_has_no_bias_gradient() -> None:
    rng = random.Random(2)
    x, layers = random_fractions(rng, 2, 3), random_layers(rng, SIZES, bias=False)
    _, tape = mlp.mlp_loss_forward(x, np.array([0, 1]), layers, ACTIVATIONS["relu"], SQUARED)
    gradients = mlp.mlp_loss_backward(tape, layers, ACTIVATIONS["relu"], SQUARED, random_fractions(rng, 2))
    assert [bias for _, bias in gradients.layers] == [None, None, None]


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_dense_backward_computes_only_what_is_asked_for(needs: Any) -> None:
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    _, tape = dense.dense_forward(x, weight, torch.randn(4))
    gradients = dense.dense_backward(tape, torch.randn(2, 4), needs)
    assert tuple(gradient is not None for gradient in gradients) == needs


def t(*shape: int) -> Any:
    return torch.zeros(shape)


def labels_of(*shape: int) -> Any:
    return torch.zeros(shape, dtype=torch.int64)


def network(*shapes: Any) -> Any:
    return [(t(*weight), None if bias is None else t(*bias)) for weight, bias in shapes]


GOOD = network(((4, 3), (4,)), ((2, 4), (2,)))
RELU = ACTIVATIONS["relu"]
DENSE, MLP, MLP_LOSS = dense.dense_forward, mlp.mlp_forward, mlp.mlp_loss_forward
WRONG_SHAPES: dict[str, Any] = {
    "dense: x of one dimension": ("x: expected shape (B, D)", DENSE, t(3), t(4, 3)),
    "dense: x of three dimensions": ("x: expected shape (B, D)", DENSE, t(1, 2, 3), t(4, 3)),
    "dense: weight of one dimension": ("weight: expected shape (H, D)", DENSE, t(2, 3), t(3)),
    "dense: features": ("x: expected 5 features", DENSE, t(2, 3), t(4, 5)),
    "dense: transposed weight": ("x: expected 4 features", DENSE, t(2, 3), t(3, 4)),
    "dense: bias too long": ("bias: expected shape (4,)", DENSE, t(2, 3), t(4, 3), t(5)),
    "dense: bias that would broadcast": ("bias: expected shape (4,)", DENSE, t(2, 3), t(4, 3), t(1)),
    "dense: bias of two dimensions": ("bias: expected shape (4,)", DENSE, t(2, 3), t(4, 3), t(2, 4)),
    "mlp: no layers": ("layers: expected at least one", MLP, t(2, 3), [], RELU),
    "mlp: x": ("x: expected shape (B, D)", MLP, t(3), GOOD, RELU),
    "mlp: features": ("x: expected 3 features", MLP, t(2, 5), GOOD, RELU),
    "mlp: first bias": ("bias: expected shape (4,)", MLP, t(2, 3), network(((4, 3), (3,)), ((2, 4), (2,))), RELU),
    "mlp: second weight": (
        "layers[1].weight: expected shape (H, 4)",
        *(MLP, t(2, 3), network(((4, 3), (4,)), ((2, 5), (2,))), RELU),
    ),
    "mlp: second weight of one dimension": (
        "layers[1].weight: expected shape (H, 4)",
        *(MLP, t(2, 3), network(((4, 3), (4,)), ((4,), (2,))), RELU),
    ),
    "mlp: second bias": (
        "layers[1].bias: expected shape (2,)",
        *(MLP, t(2, 3), network(((4, 3), (4,)), ((2, 4), (1,))), RELU),
    ),
    "softmax: logits": ("logits: expected shape (B, C)", losses.softmax_forward, t(3)),
    "cross-entropy: logits": ("logits: expected shape (B, C)", CROSS_ENTROPY.forward, t(3), labels_of(3)),
    "cross-entropy: no classes": ("logits: expected shape (B, C)", CROSS_ENTROPY.forward, t(2, 0), labels_of(2)),
    "cross-entropy: labels": ("labels: expected shape (2,)", CROSS_ENTROPY.forward, t(2, 3), labels_of(3)),
    "cross-entropy: labels as a column": (
        "labels: expected shape (2,)",
        CROSS_ENTROPY.forward,
        t(2, 3),
        labels_of(2, 1),
    ),
    "squared error: logits": ("logits: expected shape (B, C)", SQUARED.forward, t(3), labels_of(3)),
    "squared error: labels": ("labels: expected shape (2,)", SQUARED.forward, t(2, 3), labels_of(1)),
    "mlp and loss: features": ("x: expected 3 features", MLP_LOSS, t(2, 5), labels_of(2), GOOD, RELU, CROSS_ENTROPY),
    "mlp and loss: labels": ("labels: expected shape (2,)", MLP_LOSS, t(2, 3), labels_of(3), GOOD, RELU, CROSS_ENTROPY),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_wrong_shapes_raise_before_any_arithmetic_and_name_the_argument(case: Any) -> None:
    message, function, *arguments = WRONG_SHAPES[case]
    with NoArithmetic(), pytest.raises(ArgumentError) as caught:
        function(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


LABELS = labels_of(2)
WRONG_UPSTREAM = {  # tape, backward, a shape that would broadcast to a wrong value or fail inside some product
    "dense": (DENSE(t(2, 3), t(4, 3))[1], dense.dense_backward, t(1, 4)),
    "softmax": (losses.softmax_forward(t(2, 3))[1], losses.softmax_backward, t(1, 3)),
    "cross-entropy": (CROSS_ENTROPY.forward(t(2, 3), LABELS)[1], CROSS_ENTROPY.backward, t(1)),
    "squared error": (SQUARED.forward(t(2, 3), LABELS)[1], SQUARED.backward, t(1)),
    "mlp": (MLP(t(2, 3), GOOD, RELU)[1], lambda tape, d_s: mlp.mlp_backward(tape, GOOD, RELU, d_s), t(1, 2)),
    "mlp and loss": (
        MLP_LOSS(t(2, 3), LABELS, GOOD, RELU, SQUARED)[1],
        lambda tape, d_loss: mlp.mlp_loss_backward(tape, GOOD, RELU, SQUARED, d_loss),
        t(1),
    ),
}


@pytest.mark.parametrize("case", WRONG_UPSTREAM)
def test_an_upstream_gradient_of_another_shape_is_refused(case: Any) -> None:
    backward: Any
    tape, backward, upstream = WRONG_UPSTREAM[case]
    with pytest.raises(ArgumentError, match=r"^d_\w+: expected shape"):
        backward(tape, upstream)


def test_no_arithmetic_notices_arithmetic() -> None:
    with pytest.raises(AssertionError, match="before the arguments"), NoArithmetic():
        t(2) + t(2)


UNKNOWN = {"a list": ([[1.0, 2.0]], "list"), "a float array": (np.ones((1, 2)), "ndarray of float64")}
FUNCTIONS = {
    "primitives": primitives,
    "dense": lambda x: dense.dense_forward(x, t(3, 2)),
    "mlp": lambda x: mlp.mlp_forward(x, network(((3, 2), None)), RELU),
    "mlp loss": lambda x: mlp.mlp_loss_forward(x, labels_of(1), network(((3, 2), None)), RELU, SQUARED),
    "softmax": losses.softmax_forward,
    "cross-entropy": lambda x: CROSS_ENTROPY.forward(x, labels_of(1)),
    "squared error": lambda x: SQUARED.forward(x, labels_of(1)),
    **{name: activation.forward for name, activation in ACTIVATIONS.items() if name != "identity"},
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_kinds_of_array_are_refused(function: Any, kind: str) -> None:
    x, named = UNKNOWN[kind]
    with pytest.raises(ArgumentError, match=rf"the chain rule runs on .*, not on {named}$"):
        FUNCTIONS[function](x)


@pytest.mark.parametrize("which", ["weight", "bias"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_float_array_among_fractions_is_refused(which: Any, number: Any) -> None:
    """NumPy would compute on, in floating point: an "exact" result that is not."""
    rng = random.Random(3)
    x, layers = random_fractions(rng, 2, 3), random_layers(rng, (3, 3, 3))
    weight, bias = layers[number]
    layers[number] = (weight.astype(float), bias) if which == "weight" else (weight, bias.astype(float))
    with pytest.raises(ArgumentError):
        mlp.mlp_forward(x, layers, RELU)


class Interval:
    """A kind of array that brings its own primitives."""

    class _Primitives:
        def tanh(self, x: Any) -> Any:
            return f"tanh of {x.name}"

    __primitives__ = _Primitives()
    name = "an interval"


def test_a_new_kind_of_array_joins_by_an_attribute() -> None:
    assert ACTIVATIONS["tanh"].forward(Interval())[0] == "tanh of an interval"


def test_activations_by_name() -> None:
    assert [activation_named(name).name for name in ACTIVATIONS] == list(ACTIVATIONS)
    with pytest.raises(
        ArgumentError, match=r"^activation: expected one of relu, .*found 'rellu' \(did you mean 'relu'\?\)$"
    ):
        activation_named("rellu")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((-0.1, 0), "label_smoothing"),
        ((1.1, 0), "label_smoothing"),
        ((float("nan"), 0), "label_smoothing"),
        ((0, -1), "logit_penalty"),
        ((0, float("inf")), "logit_penalty"),
        ((0, float("nan")), "logit_penalty"),
    ],
)
def test_impossible_loss_options_are_refused(options: Any, named: Any) -> None:
    with pytest.raises(
        ArgumentError, match=f"^{named}: expected a number .*, found {options[named == 'logit_penalty']}$"
    ):
        losses.softmax_cross_entropy(*options)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize(
    "loss",
    [SQUARED, CROSS_ENTROPY, losses.softmax_cross_entropy(0.1)],
    ids=["squared error", "cross-entropy", "smoothed"],
)
def test_labels_out_of_range_give_no_value(loss: Any, label: Any) -> None:
    with pytest.raises((ArgumentError, RuntimeError, IndexError)):
        loss.forward(t(2, 3), torch.tensor([0, label]))
