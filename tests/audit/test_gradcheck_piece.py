"""The piece that is cut from a step, and gradcheck on it: passing what is right, naming what is wrong."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit import gradcheck_piece as module
from lean_mnist.audit.gradcheck_piece import KINK_MARGIN, GradcheckResult, GradcheckVerdict, cut_piece, gradcheck_piece
from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS, NetworkLoss
from lean_mnist.chainrule import activations, dense, losses
from lean_mnist.chainrule.activations import ACTIVATIONS as RULES
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import layers_of, random_batch, random_model
from tests.support.planting import Plant

KINKED = [name for name, activation in REFERENCE_ACTIVATIONS.items() if activation.below_kink is not None]
SIZES = {1: (20, 10), 2: (20, 16, 10), 3: (20, 16, 12, 10), 4: (20, 9, 16, 12, 10)}


def the_step(seed: int, sizes: Sequence[int], activation: str = "relu", examples: int = 9, **options: Any) -> Any:
    model = random_model(seed, sizes, activation, **options)
    return NetworkLoss.of(model), layers_of(model), *random_batch(seed, examples, sizes)


def cut_of(step: Any) -> Any:
    piece = cut_piece(*step)
    assert piece is not None
    return piece


def rows_of(part: Any, whole: Tensor) -> list[int]:
    """Which rows of ``whole`` the rows of ``part`` are; every row must be one."""
    return [int((whole == row).all(1).nonzero()[0]) for row in part]


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_the_piece_is_a_network_within_the_network(activation: str, depth: int) -> None:
    for seed in range(5):
        step = the_step(seed, SIZES[depth], activation)
        _, layers, x, labels = step
        x_cut, labels_cut, cut = cut_of(step)
        assert x_cut.shape == (3, 5)
        assert [tuple(w.shape) for w, _ in cut] == [(4, 5), *[(4, 4)] * (depth - 1)]
        columns = rows_of(x_cut.T, x[:3].double().T)
        assert len(set(columns)) == 5
        for (weight, bias), (weight_cut, bias_cut) in zip(layers, cut, strict=True):
            columns_before, columns = columns, rows_of(weight_cut, weight.double()[:, columns])
            assert len(set(columns)) == 4
            assert torch.equal(weight_cut, weight.double()[columns][:, columns_before])
            assert torch.equal(bias_cut, bias.double()[columns])
        assert [columns[label] for label in labels_cut] == labels[:3].tolist()
        assert labels_cut.dtype == torch.int64


@pytest.mark.parametrize("labels", [[0, 0, 0], [9, 9, 9], [9, 0, 5], [3, 7, 3], [2, 1, 0]])
def test_labels_are_renumbered_to_the_right_classes(labels: Tensor) -> None:
    loss, layers, x, _ = the_step(0, (20, 10))
    _, labels_cut, cut = cut_of((loss, layers, x[:3], torch.tensor(labels)))
    classes = rows_of(cut[-1][1][:, None], layers[-1][1].double()[:, None])
    assert len(classes) == 4
    assert [classes[label] for label in labels_cut] == labels


@pytest.mark.parametrize("sizes", [(20, 16, 10), (3, 2, 2), (1, 1, 1), (2, 10), (7, 3, 5, 3)])
@pytest.mark.parametrize("examples", [1, 2, 3, 50])
def test_networks_and_batches_smaller_than_the_piece(sizes: Sequence[int], examples: int) -> None:
    for seed in range(2):
        step = the_step(seed, sizes, "tanh", examples=examples)
        x_cut, labels_cut, cut = cut_of(step)
        assert x_cut.shape == (min(3, examples), min(5, sizes[0]))
        assert len(labels_cut) == min(3, examples)
        assert cut[-1][0].shape[0] == min(4, sizes[-1])
        assert gradcheck_piece(*step) == GradcheckResult(GradcheckVerdict.PASSED)


@pytest.mark.parametrize("sizes", [SIZES[2], SIZES[4], (5, 4, 3), (5, 4, 4, 3)])
@pytest.mark.parametrize("activation", KINKED)
def test_every_unit_of_the_piece_keeps_clear_of_its_kink(activation: str, sizes: Sequence[int]) -> None:
    pieces = 0
    for seed in range(200):
        step = the_step(seed, sizes, activation)
        piece = cut_piece(*step)
        if piece is None:
            continue
        pieces += 1
        h, _, cut = piece
        for weight, bias in cut[:-1]:
            assert bias is not None
            z = h @ weight.T + bias
            assert float(z.abs().min()) >= KINK_MARGIN, f"seed {seed}"
            h = REFERENCE_ACTIVATIONS[activation].value(z)
    assert pieces > 150


def zero_everything(layers: Any, x: Tensor) -> Any:
    return [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in layers], x


def dead_inputs(layers: Any, x: Tensor) -> Any:
    return [(w, torch.zeros_like(b)) for w, b in layers], torch.zeros_like(x)


def one_dead_example(layers: Any, x: Tensor) -> Any:
    return [(w, torch.zeros_like(b)) for w, b in layers], x * torch.tensor([1.0, 0.0, 1.0])[:, None]


def dead_first_layer(layers: Any, x: Tensor) -> Any:
    """All units of the first layer are off, so with zero biases all of the second stand at 0."""
    (first, _), *rest = [(w, torch.zeros_like(b)) for w, b in layers]
    return [(-first.abs(), None), *rest], x.abs()


HOPELESS = (zero_everything, dead_inputs, one_dead_example, dead_first_layer)


@pytest.mark.parametrize("spoil", HOPELESS, ids=lambda f: f.__name__)
def test_where_every_piece_has_a_kink_the_verdict_says_so(spoil: Any) -> None:
    loss, layers, x, labels = the_step(0, SIZES[3])
    layers, x = spoil(layers, x[:3])
    result = gradcheck_piece(loss, layers, x, labels[:3])
    assert result.verdict is GradcheckVerdict.KINK
    assert "kink" in result.message
    assert result.passed


@pytest.mark.parametrize("spoil", HOPELESS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "identity"])
def test_smooth_activations_have_no_kinks(activation: str, spoil: Any) -> None:
    loss, layers, x, labels = the_step(0, SIZES[3], activation)
    layers, x = spoil(layers, x[:3])
    assert gradcheck_piece(loss, layers, x, labels[:3]) == GradcheckResult(GradcheckVerdict.PASSED)


@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_what_is_right_passes(activation: str, depth: int) -> None:
    assert gradcheck_piece(*the_step(depth, SIZES[depth], activation)) == GradcheckResult(GradcheckVerdict.PASSED)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"logit_penalty": 0.3}, {"bias": False}])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_what_is_right_passes_with_every_option(activation: str, options: Any) -> None:
    assert gradcheck_piece(*the_step(1, SIZES[3], activation, **options)) == GradcheckResult(GradcheckVerdict.PASSED)


def test_what_is_right_passes_on_many_steps() -> None:
    for seed in range(20):
        result = gradcheck_piece(*the_step(seed, SIZES[2]))
        assert result.verdict is GradcheckVerdict.PASSED, f"seed {seed}: {result.message}"


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_what_is_right_passes_where_the_loss_is_huge(activation: str, scale: float) -> None:
    """A loss of thousands has fewer digits behind the point for finite differences to see."""
    for seed in range(6):
        loss, layers, x, labels = the_step(seed, SIZES[2], activation)
        layers = [(scale * w, scale * b) for w, b in layers]
        result = gradcheck_piece(loss, layers, x, labels)
        assert result.verdict is not GradcheckVerdict.FAILED, f"seed {seed}: {result.message}"


def test_works_in_every_precision_and_leaves_the_step_alone() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = random_model(0, SIZES[2], "relu", dtype)
        x, labels = random_batch(0, 9, SIZES[2], dtype)
        before = [t.detach().clone() for t in (x, labels, *model.parameters())]
        with torch.no_grad():
            result = gradcheck_piece(NetworkLoss.of(model), model.weights_and_biases(), x, labels)
        assert result.verdict is GradcheckVerdict.PASSED
        for tensor, copy in zip((x, labels, *model.parameters()), before, strict=True):
            assert torch.equal(tensor.detach(), copy)
        assert all(p.grad is None for p in model.parameters())
        assert not x.requires_grad


# Bugs planted in the chain rule itself.


def wrong_dense(**changes: Any) -> Any:
    right = dense.dense_backward

    def backward(tape: Any, d_z_BH: Tensor, needs: Any = (True, True, True)) -> Any:
        gradients = right(tape, d_z_BH, needs)
        changed = {
            name: change(getattr(gradients, name), tape, d_z_BH)
            for name, change in changes.items()
            if getattr(gradients, name) is not None
        }
        return gradients._replace(**changed)

    return backward


DENSE_BUGS = {  # what is changed, and the first tensor of (x, layers.0.weight, …) that it shows in
    "dW x 1.01": ({"weight_HD": lambda g, *_: g * 1.01}, "layers.0.weight"),
    "dW x 1.001": ({"weight_HD": lambda g, *_: g * 1.001}, "layers.0.weight"),
    "dW sign": ({"weight_HD": lambda g, *_: -g}, "layers.0.weight"),
    "dW reshaped, not transposed": (
        {"weight_HD": lambda g, tape, d_z: (tape.x_BD.T @ d_z).reshape(g.shape)},
        "layers.0.weight",
    ),
    "dW rows swapped": ({"weight_HD": lambda g, *_: g.roll(1, 0)}, "layers.0.weight"),
    "dW first row zero": (
        {"weight_HD": lambda g, *_: torch.cat([torch.zeros_like(g[:1]), g[1:]])},
        "layers.0.weight",
    ),
    "db not summed": ({"bias_H": lambda g, tape, d_z: d_z[0]}, "layers.0.bias"),
    "db a mean": ({"bias_H": lambda g, tape, d_z: d_z.mean(0)}, "layers.0.bias"),
    "db zero": ({"bias_H": lambda g, *_: torch.zeros_like(g)}, "layers.0.bias"),
    "dx of the wrong example": ({"x_BD": lambda g, *_: g.roll(1, 0)}, "x"),
    "dx x 1.001": ({"x_BD": lambda g, *_: g * 1.001}, "x"),
}

SHOWN = re.compile(r"gradcheck: ([\w.]+): hand-written (\S+), finite differences (\S+)")


def shown(result: Any) -> tuple[str, float, float]:
    """Name and both numbers of a failure's message."""
    assert result.verdict is GradcheckVerdict.FAILED
    assert not result.passed
    match = SHOWN.fullmatch(result.message)
    assert match, result.message
    return match[1], float(match[2]), float(match[3])


@pytest.mark.parametrize("bug", DENSE_BUGS)
def test_a_wrong_dense_layer_is_named(bug: Any, plant: Plant) -> None:
    changes, name = DENSE_BUGS[bug]
    plant("chainrule.dense.dense_backward", wrong_dense(**changes))
    for seed in range(3):
        found, analytical, numerical = shown(gradcheck_piece(*the_step(seed, SIZES[2])))
        assert found == name, f"seed {seed}"
        assert analytical != numerical, f"seed {seed}"


@pytest.mark.parametrize("scale", [1.01, 1.001, 1.0001])
def test_the_two_numbers_are_those_that_differ(scale: float, plant: Plant) -> None:
    plant("chainrule.dense.dense_backward", wrong_dense(weight_HD=lambda g, *_: g * scale))
    for seed in range(3):
        _, analytical, numerical = shown(gradcheck_piece(*the_step(seed, SIZES[2])))
        assert analytical / numerical == pytest.approx(scale, rel=(scale - 1) / 20), f"seed {seed}"


def test_a_gradient_that_is_not_a_number_is_named(plant: Plant) -> None:
    plant("chainrule.dense.dense_backward", wrong_dense(weight_HD=lambda g, *_: g * torch.nan))
    result = gradcheck_piece(*the_step(0, SIZES[2]))
    assert result.verdict is GradcheckVerdict.FAILED
    assert "layers.0.weight" in result.message
    assert "nan" in result.message


ACTIVATION_BUGS = {
    ("relu", "no mask"): lambda saved, d_h: d_h,
    ("relu", "mask of the gradient"): lambda saved, d_h: d_h * (d_h > 0),
    ("leaky-relu", "slope 0.02"): lambda saved, d_h: torch.where(saved > 0, d_h, 0.02 * d_h),
    ("leaky-relu", "slope 0"): lambda saved, d_h: d_h * (saved > 0),
    ("sigmoid", "σ, not σ (1 − σ)"): lambda saved, d_h: d_h * saved,
    ("tanh", "1 − tanh"): lambda saved, d_h: d_h * (1 - saved),
    ("gelu", "Φ only"): lambda saved, d_h: d_h * torch.special.ndtr(saved),
    ("identity", "doubled"): lambda saved, d_h: 2 * d_h,
}


@pytest.mark.parametrize("case", ACTIVATION_BUGS, ids="-".join)
def test_a_wrong_activation_fails(case: Any, plant: Plant) -> None:
    name = case[0]
    rule = activations.Activation(name, RULES[name].forward, ACTIVATION_BUGS[case])
    plant(f"chainrule.activations.ACTIVATIONS.{name}", rule)
    for seed in range(3):
        found, analytical, numerical = shown(gradcheck_piece(*the_step(seed, SIZES[2], name)))
        assert found == "x"  # the first tensor that the activation's gradient reaches
        assert analytical != numerical


def wrong_loss(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    right = losses.softmax_cross_entropy

    def planted(*options: Any) -> Any:
        rule = right(*options)
        return rule._replace(backward=lambda tape, d_loss_B: wrong(rule.backward, tape, d_loss_B, *options))

    monkeypatch.setattr(module, "softmax_cross_entropy", planted)


def one_hot_missing(backward: Any, tape: Any, d_loss_B: Tensor, *options: Any) -> Any:
    return tape[0] * d_loss_B[:, None]


def wrong_class(backward: Any, tape: Any, d_loss_B: Tensor, *options: Any) -> Any:
    return backward((tape[0], (tape[1] + 1) % tape[0].shape[1], *tape[2:]), d_loss_B)


def upstream_ignored(backward: Any, tape: Any, d_loss_B: Tensor, *options: Any) -> Any:
    return backward(tape, torch.full_like(d_loss_B, 1 / len(d_loss_B)))


def smoothing_left_out(backward: Any, tape: Any, d_loss_B: Tensor, *options: Any) -> Any:
    return losses.softmax_cross_entropy().backward(tape, d_loss_B)


@pytest.mark.parametrize(
    "wrong", [one_hot_missing, wrong_class, upstream_ignored, smoothing_left_out], ids=lambda f: f.__name__
)
def test_a_wrong_loss_fails(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_loss(monkeypatch, wrong)
    for seed in range(3):
        name, analytical, numerical = shown(gradcheck_piece(*the_step(seed, SIZES[2], label_smoothing=0.1)))
        assert name == "x"
        assert analytical != numerical


def test_a_mean_that_ignores_its_upstream_gradient_fails(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an upstream gradient of 1 this bug cannot be seen; of 0 it gets the right gradient, as gradcheck tests."""
    right = losses.mean_backward
    plant("chainrule.losses.mean_backward", lambda loss_B, d_mean: right(loss_B, d_mean.sign()))
    step = the_step(0, SIZES[2])
    name, analytical, numerical = shown(gradcheck_piece(*step))
    assert name == "x"
    assert numerical / analytical == pytest.approx(1.7, rel=1e-2)
    monkeypatch.setattr(module, "UPSTREAM", 1.0)
    assert gradcheck_piece(*step).verdict is GradcheckVerdict.PASSED


def test_messages_that_are_not_about_jacobians_are_handed_on() -> None:
    explained = module._explain("Backward is not reentrant,\n  run it again", torch.square, [], ["x"])
    assert explained == "gradcheck: Backward is not reentrant, run it again"


def test_a_verdict() -> None:
    assert GradcheckResult(GradcheckVerdict.PASSED).passed
    assert GradcheckResult(GradcheckVerdict.KINK).passed
    assert not GradcheckResult(GradcheckVerdict.FAILED).passed
