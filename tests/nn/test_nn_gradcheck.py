"""First and second derivatives against finite differences and, for gradient penalties, against plain PyTorch."""

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from lean_mnist.chainrule import dense
from lean_mnist.nn import functional, functions
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.nn_cases import CASES, labels_for, plain_mlp, randn
from tests.support.planting import Plant

SEED = 99
STRICT: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-7,
}  # gradcheck's own tolerance lets an error of a part in a thousand pass


def leaves_for(case: Any, shape: tuple[int, ...]) -> Any:
    generator = torch.Generator().manual_seed(SEED)
    return [randn(generator, size).requires_grad_() for size in case.shapes(shape)]


# PyTorch 2.6's own gradcheck calls what PyTorch 2.6 deprecates.
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap` instead:FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    case = CASES[name]
    assert gradcheck(case.ours, leaves_for(case, (3, 3, 4)), check_batched_grad=True, **STRICT)


@pytest.mark.parametrize("name", CASES)
def test_gradgradcheck(name: str) -> None:
    case = CASES[name]
    leaves = leaves_for(case, (2, 2, 3))
    generator = torch.Generator().manual_seed(SEED + 1)
    upstream = randn(generator, case.ours(*leaves).shape).requires_grad_()
    assert gradgradcheck(case.ours, leaves, (upstream,), **STRICT)


@pytest.mark.parametrize("name", ["tanh", "mlp, tanh", "mlp loss mean", "cross-entropy 0.3 0.2 none", "softmax"])
def test_second_derivatives_are_those_of_torch(name: str) -> None:
    """Exactly the Hessian-vector products, not only within the tolerance of finite differences; a third on top."""
    case, generator = CASES[name], torch.Generator().manual_seed(SEED + 2)
    leaves = leaves_for(case, (3, 4, 5))
    upstream = randn(generator, case.ours(*leaves).shape).requires_grad_()
    directions = [randn(generator, leaf.shape) for leaf in leaves]

    def derivatives(function: Any) -> Any:
        first = torch.autograd.grad(function(*leaves), leaves, upstream, create_graph=True)
        dot = sum((gradient * v).sum() for gradient, v in zip(first, directions, strict=True))
        second = torch.autograd.grad(dot, [*leaves, upstream], create_graph=True, materialize_grads=True)
        dot = sum((gradient * v).sum() for gradient, v in zip(second, directions, strict=False))
        return *first, *second, *torch.autograd.grad(dot, leaves, materialize_grads=True)

    for found, right in zip(derivatives(case.ours), derivatives(case.torchs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("face", ["one node", "mlp and cross-entropy", "one node a layer"])
@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
def test_gradient_penalty(activation: str, face: str) -> None:
    """loss + ½‖∂loss/∂x‖², differentiated by every parameter and by x: the second derivative within a training loss."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = ((5, 4), (6, 4), (6,), (5, 6), (5,), (3, 5), (3,))
    x, *parameters = leaves = [randn(generator, shape).requires_grad_() for shape in shapes]
    layers, labels = list(zip(parameters[::2], parameters[1::2], strict=True)), labels_for(5, 3)

    def by_layer() -> Any:
        h = x
        for weight, bias in layers[:-1]:
            h = functional.activate(functional.dense(h, weight, bias), activation)
        return functional.cross_entropy(functional.dense(h, *layers[-1]), labels)

    faces = {
        "one node": lambda: functional.mlp_loss(x, labels, layers, activation),
        "mlp and cross-entropy": lambda: functional.cross_entropy(functional.mlp(x, layers, activation), labels),
        "one node a layer": by_layer,
    }

    def penalised(loss: Any) -> Any:
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        total = loss + slope.square().sum() / 2
        return total, torch.autograd.grad(total, leaves)

    total, found = penalised(faces[face]())
    expected, right = penalised(torch.nn.functional.cross_entropy(plain_mlp(x, parameters, activation), labels))
    torch.testing.assert_close(total, expected)
    for gradient, other in zip(found, right, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


class TorchThatBuildsNoGraph:
    """``torch``, but for one answer."""

    def __getattr__(self, name: str) -> Any:
        return (lambda: False) if name == "is_grad_enabled" else getattr(torch, name)


@pytest.mark.parametrize("name", ["mlp, tanh", "mlp loss mean", "cross-entropy 0.1 0.0 sum"])
def test_gradgradcheck_finds_a_node_that_forgets_its_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that ``functions`` guards against: a backward that uses what the forward computed on the way."""
    case = CASES[name]
    leaves = leaves_for(case, (2, 2, 3))
    upstream = randn(torch.Generator().manual_seed(SEED + 1), case.ours(*leaves).shape).requires_grad_()
    monkeypatch.setattr(functions, "torch", TorchThatBuildsNoGraph())
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradgradcheck(case.ours, leaves, (upstream,), **STRICT)


def test_gradcheck_finds_a_derivative_wrong_by_a_part_in_a_thousand(plant: Plant) -> None:
    original = dense.dense_backward

    def wrong(*arguments: Any) -> Any:
        gradients: Any = original(*arguments)
        return gradients._replace(bias_H=gradients.bias_H * 1.001)

    plant("chainrule.dense.dense_backward", wrong)
    for name in ("dense", "mlp, tanh", "mlp loss none"):
        with pytest.raises(RuntimeError, match="Jacobian mismatch"):
            gradcheck(CASES[name].ours, leaves_for(CASES[name], (2, 3, 4)), **STRICT)
