"""The reference against PyTorch as a user writes it, finite differences, and constructed kinks."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit import reference
from lean_mnist.audit.reference import NetworkLoss, reference_gradients
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.crosscheck_cases import layers_of, plain_loss, random_batch, random_model

DEPTHS = {1: (6, 4), 2: (6, 5, 4), 3: (6, 5, 7, 4), 4: (6, 5, 7, 3, 4)}
LOSSES: dict[str, Any] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "penalised": {"logit_penalty": 0.3},
    "both": {"label_smoothing": 1.0, "logit_penalty": 0.01},
}


def leaves(layers: Any) -> list[Any]:
    return [p for layer in layers for p in layer if p is not None]


def double(layers: Any) -> list[tuple[Tensor | None, ...]]:
    return [tuple(None if p is None else p.double().requires_grad_() for p in layer) for layer in layers]


@pytest.mark.parametrize("options", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_is_what_pytorch_says(activation: str, depth: int, bias: bool, options: Any) -> None:
    model = random_model(depth, DEPTHS[depth], activation, bias=bias, **LOSSES[options])
    x, labels = random_batch(depth, 5, DEPTHS[depth])
    loss, layers = NetworkLoss.of(model), layers_of(model)
    found = reference_gradients(loss, layers, x, labels, dtype=torch.float64)
    parameters = double(layers)
    value = plain_loss(loss, parameters, x.double(), labels)
    right = torch.autograd.grad(value, leaves(parameters))
    torch.testing.assert_close(found.loss, value.detach(), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(found.gradients, list(right), rtol=1e-12, atol=1e-14)
    assert found.kinks == 0


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_is_what_finite_differences_say(activation: str) -> None:
    """No autograd on the right: central differences of the reference's own loss and of the plain one."""
    model = random_model(7, (4, 3, 3), activation, torch.float64, label_smoothing=0.1, logit_penalty=0.2)
    x, labels = random_batch(7, 3, (4, 3, 3), torch.float64)
    loss, layers, eps = NetworkLoss.of(model), layers_of(model), 1e-6
    found = reference_gradients(loss, layers, x, labels, dtype=torch.float64)
    for gradient, parameter in zip(found.gradients, leaves(layers), strict=True):
        for index in range(parameter.numel()):
            value, ends = float(parameter.view(-1)[index]), []
            for moved in (value + eps, value - eps):
                parameter.view(-1)[index] = moved
                again = reference_gradients(loss, layers, x, labels, dtype=torch.float64).loss
                plain = plain_loss(loss, layers, x, labels)
                torch.testing.assert_close(again, plain, rtol=1e-13, atol=1e-14)
                ends.append(float(again))
            parameter.view(-1)[index] = value
            assert float(gradient.view(-1)[index]) == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_computes_in_the_dtype_asked_for_and_leaves_the_model_alone(dtype: torch.dtype) -> None:
    model = random_model(0, (6, 5, 4))
    x, labels = random_batch(0, 5, (6, 5, 4))
    found = reference_gradients(NetworkLoss.of(model), model.weights_and_biases(), x, labels, dtype=dtype)
    assert {t.dtype for t in (found.loss, found.logits, *found.gradients)} == {dtype}
    assert found.logits.shape == (5, 4)
    assert all(not t.requires_grad for t in (found.loss, found.logits, *found.gradients))
    assert all(p.grad is None for p in model.parameters())


def test_works_where_gradients_are_switched_off() -> None:
    model = random_model(0, (6, 5, 4))
    x, labels = random_batch(0, 5, (6, 5, 4))
    with torch.no_grad():
        found = reference_gradients(NetworkLoss.of(model), layers_of(model), x, labels, dtype=torch.float64)
    assert all(bool(g.any()) for g in found.gradients)


# One example and two hidden units. The first unit's pre-activation is ±1e-9, a difference of numbers near 1, so float32
# may put it on either side; the second's is ±0.5, where there is no doubt.
def near_and_far(near: float, far: float) -> Any:
    first = torch.tensor([[1.0, -1.0 + near], [far / 2, far / 2]], dtype=torch.float64)
    second = torch.tensor([[0.5, 0.25], [-0.3, 0.7]], dtype=torch.float64)
    return [(first, None), (second, None)], torch.ones(1, 2), torch.tensor([0])


@pytest.mark.parametrize("activation", ["relu", "leaky-relu"])
@pytest.mark.parametrize("side_near", [True, False])
@pytest.mark.parametrize("near", [1e-9, -1e-9, 0.0])
@pytest.mark.parametrize("far", [0.5, -0.5])
def test_a_side_is_adopted_only_at_the_kink(activation: str, side_near: bool, near: float, far: float) -> None:
    layers, x, labels = near_and_far(near, far)
    sides = [torch.tensor([[side_near, not far > 0]])]  # of the far unit, always the wrong one
    found = reference_gradients(NetworkLoss(activation), layers, x, labels, dtype=torch.float64, sides=sides)
    below = {"relu": 0.0, "leaky-relu": 0.01}[activation]
    d_logits = torch.softmax(found.logits, 1) - torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    slopes = torch.tensor([[1.0 if side_near else below, 1.0 if far > 0 else below]], dtype=torch.float64)
    d_first = (d_logits @ layers[1][0] * slopes).T @ x.double()
    torch.testing.assert_close(found.gradients[0], d_first, rtol=1e-12, atol=1e-14)
    assert found.kinks == 1


@pytest.mark.parametrize("near", [1e-9, -1e-9])
def test_without_sides_the_sign_decides(near: float) -> None:
    layers, x, labels = near_and_far(near, 0.5)
    found = reference_gradients(NetworkLoss("relu"), layers, x, labels, dtype=torch.float64)
    assert bool(found.gradients[0][0].any()) is (near > 0)
    assert found.kinks == 0


def test_in_double_precision_a_billionth_is_far_from_the_kink() -> None:
    layers, x, labels = near_and_far(1e-9, 0.5)
    sides = [torch.tensor([[False, False]])]
    found = reference_gradients(NetworkLoss("relu"), layers, x.double(), labels, dtype=torch.float64, sides=sides)
    assert bool(found.gradients[0].any(1).all())
    assert found.kinks == 0


@pytest.mark.parametrize(("size", "kinks"), [(10.0, 1), (0.5, 0)])
def test_uncertainty_is_handed_on_to_the_next_layer(size: float, kinks: int) -> None:
    """The second unit's z = h − 0.5 + 1e-5 is in doubt only because h = size − (size − 0.5) is."""
    one = torch.ones(1, 1, dtype=torch.float64)
    layers = [
        (torch.tensor([[1.0, -1.0]]), None),
        (one, torch.tensor([-0.5 + 1e-5], dtype=torch.float64)),
        (torch.tensor([[1.0], [-1.0]]), None),
    ]
    x, sides = torch.tensor([[size, size - 0.5]]), [torch.tensor([[True]]), torch.tensor([[False]])]
    found = reference_gradients(NetworkLoss("relu"), layers, x, torch.tensor([0]), dtype=torch.float64, sides=sides)
    assert found.kinks == kinks
    assert bool(found.gradients[0].any()) is (kinks == 0)


@pytest.mark.parametrize("seed", range(5))
def test_kinks_counts_units_not_layers(seed: int) -> None:
    """Zero inputs and zero biases put every unit of every example on its kink."""
    model = random_model(seed, (6, 5, 7, 4))
    with torch.no_grad():
        for _, bias in model.weights_and_biases():
            assert bias is not None
            bias.zero_()
    sides = [torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 7, dtype=torch.bool)]
    labels = torch.tensor([0, 1, 2])
    found = reference_gradients(
        NetworkLoss.of(model), layers_of(model), torch.zeros(3, 6), labels, dtype=torch.float64, sides=sides
    )
    assert found.kinks == 3 * (5 + 7)


def test_imports_nothing_of_what_it_checks() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(str(reference.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    assert imported
    assert not {name for name in imported if name.startswith((".", "lean_mnist"))}
