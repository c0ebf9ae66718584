"""The chain rule on tensors: every dtype, the edges of floating point, and the properties that loss and layers have."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lean_mnist.chainrule import losses
from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.chainrule.dense import dense_backward, dense_forward
from lean_mnist.chainrule.mlp import mlp_backward, mlp_forward, mlp_loss_backward, mlp_loss_forward
from lean_mnist.nn.functional import loss_for
from tests.support.activations import TORCH_ACTIVATIONS

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
INF, NAN = math.inf, math.nan


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_network(sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Any:
    return [
        (randn(10 + n, after, before, dtype=dtype) / before**0.5, randn(20 + n, after, dtype=dtype))
        for n, (before, after) in enumerate(pairwise(sizes))
    ]


def torch_logits(x: Any, layers: Any, name: str) -> Any:
    for weight, bias in layers[:-1]:
        x = TORCH_ACTIVATIONS[name](F.linear(x, weight, bias))
    return F.linear(x, *layers[-1])


def torch_squared_error(s: Any, y: Any) -> Any:
    return (s - F.one_hot(y, s.shape[1])).square().sum(1) / 2


LOSSES: dict[str, Any] = {
    "cross-entropy": (losses.softmax_cross_entropy(), lambda s, y: F.cross_entropy(s, y, reduction="none")),
    "smoothed": (
        losses.softmax_cross_entropy(0.1, 0.3),
        lambda s, y: F.cross_entropy(s, y, reduction="none", label_smoothing=0.1) + 0.15 * s.square().sum(1),
    ),
    "squared error": (losses.squared_error(), torch_squared_error),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_network_and_loss_against_torch(name: str, loss_name: str, dtype: torch.dtype) -> None:
    """Values and gradients in every dtype against plain PyTorch in float64 on the same (rounded) numbers."""
    sizes, labels, upstream = (7, 5, 6, 4), torch.tensor([0, 3, 1, 1, 2]), randn(2, 5, dtype=dtype)
    x, layers = randn(1, 5, 7, dtype=dtype), random_network(sizes, dtype)
    loss, torch_loss = loss_for(dtype, LOSSES[loss_name][0]), LOSSES[loss_name][1]
    loss_B, tape = mlp_loss_forward(x, labels, layers, ACTIVATIONS[name], loss)
    gradients: Any = mlp_loss_backward(tape, layers, ACTIVATIONS[name], loss, upstream)

    leaves = [tensor.double().requires_grad_() for tensor in (x, *(t for layer in layers for t in layer))]
    pairs = list(zip(leaves[1::2], leaves[2::2], strict=True))
    expected = torch_loss(torch_logits(leaves[0], pairs, name), labels)
    found = [gradients.x_BD, *(t for layer in gradients.layers for t in layer)]
    tolerance: dict[str, Any] = {"rtol": DTYPES[dtype], "atol": 4 * DTYPES[dtype]}
    assert loss_B.dtype == (dtype if dtype == torch.float64 else torch.float32)  # 16 bits are too few for a loss
    torch.testing.assert_close(loss_B.double(), expected.detach(), **tolerance)
    for gradient, right in zip(found, torch.autograd.grad(expected, leaves, upstream.double()), strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), right, **tolerance)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_softmax_against_torch(batch: int) -> None:
    s, d_p = randn(3, batch, 17).requires_grad_(), randn(4, batch, 17)
    p, saved = losses.softmax_forward(s.detach())
    expected = torch.softmax(s, 1)
    torch.testing.assert_close(p, expected.detach())
    torch.testing.assert_close(losses.softmax_backward(saved, d_p), torch.autograd.grad(expected, s, d_p)[0])


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky-relu", 0.01)])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_derivative_at_the_kink(name: str, slope: float, zero: float) -> None:
    _, saved = ACTIVATIONS[name].forward(torch.tensor([zero]))
    assert ACTIVATIONS[name].backward(saved, torch.tensor([3.0])).tolist() == pytest.approx([3 * slope])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky-relu", 0.01)])
def test_derivative_at_the_smallest_numbers(name: str, slope: float, dtype: torch.dtype) -> None:
    """A leaky unit's output may round to −0 below; its derivative must not."""
    tiny = torch.finfo(dtype).smallest_normal
    _, saved = ACTIVATIONS[name].forward(torch.tensor([-tiny, tiny], dtype=dtype))
    found = ACTIVATIONS[name].backward(saved, torch.ones(2, dtype=dtype))
    assert found.tolist() == pytest.approx([slope, 1], rel=1e-2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_is_handed_on(name: str) -> None:
    h, saved = ACTIVATIONS[name].forward(torch.tensor([NAN, 1.0]))
    assert h.isnan().tolist() == [True, False]
    assert ACTIVATIONS[name].backward(saved, torch.tensor([1.0, NAN])).isnan().tolist()[1]


INFINITIES = [
    ("relu", [0, INF], [0, 1]),
    ("leaky-relu", [-INF, INF], [0.01, 1]),
    ("sigmoid", [0, 1], [0, 0]),
    ("tanh", [-1, 1], [0, 0]),
    ("identity", [-INF, INF], [1, 1]),
]


@pytest.mark.parametrize(("name", "values", "slopes"), INFINITIES)
def test_infinities(name: str, values: Any, slopes: Any) -> None:
    h, saved = ACTIVATIONS[name].forward(torch.tensor([-INF, INF], dtype=torch.float64))
    assert h.tolist() == values
    assert ACTIVATIONS[name].backward(saved, torch.ones(2, dtype=torch.float64)).tolist() == pytest.approx(slopes)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_huge_finite_numbers(name: str) -> None:
    """Where e^z, z² or erf leave the range of float32 on the way, value and derivative still are the limits."""
    z = torch.tensor([-1e30, -100.0, 100.0, 1e30], requires_grad=True)
    h, saved = ACTIVATIONS[name].forward(z.detach())
    expected = TORCH_ACTIVATIONS[name](z)
    torch.testing.assert_close(h, expected.detach())
    limits = {"sigmoid": [0, 0, 0, 0], "tanh": [0, 0, 0, 0], "leaky-relu": [0.01, 0.01, 1, 1], "identity": [1] * 4}
    found = ACTIVATIONS[name].backward(saved, torch.ones(4)).tolist()
    assert found == pytest.approx(limits.get(name, [0, 0, 1, 1]))


EXTREME_LOGITS = [
    ([2000.0, 0.0, 0.0], 0, 0.0),
    ([2000.0, 0.0, 0.0], 1, 2000.0),
    ([-2000.0, 0.0, 0.0], 0, 2000.0 + math.log(2)),
    ([61.0, -29.0, -57.0], 0, math.exp(-90) + math.exp(-118)),
    ([1e30, -1e30, 0.0], 2, 1e30),
    ([-INF, 0.0, 0.0], 1, math.log(2)),
    ([-INF, 0.0, 0.0], 0, INF),
    ([5.0, 5.0, 5.0], 1, math.log(3)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("logits", "label", "expected"), EXTREME_LOGITS)
def test_cross_entropy_of_extreme_logits(logits: Any, label: Any, expected: Any, dtype: torch.dtype) -> None:
    loss = losses.softmax_cross_entropy()
    s = torch.tensor([logits], dtype=dtype)
    loss_B, tape = loss.forward(s, torch.tensor([label]))
    assert loss_B.item() >= 0
    assert loss_B.item() == pytest.approx(expected, rel=1e-6, abs=1e-30)
    d_s = loss.backward(tape, torch.ones(1, dtype=dtype))
    assert d_s.isfinite().all()
    assert (d_s.abs() <= 1).all()
    torch.testing.assert_close(losses.softmax_forward(s)[0], torch.softmax(s, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.1, 3, 60])
@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
def test_loss_is_not_negative_and_its_gradient_is_bounded(dtype: torch.dtype, scale: Any, smoothing: float) -> None:
    seed, loss = 5, losses.softmax_cross_entropy(smoothing)
    s, labels = (scale * randn(seed, 64, 10)).to(dtype), torch.arange(64) % 10
    loss_B, tape = loss.forward(s, labels)
    d_s = loss.backward(tape, torch.ones(64, dtype=dtype))
    assert (loss_B >= 0).all()
    assert (d_s.abs() <= 1).all()
    assert (d_s.double().sum(1).abs() <= 20 * torch.finfo(dtype).eps).all()
    assert (d_s.double().norm(dim=1) <= math.sqrt(2) * (1 + torch.finfo(dtype).eps)).all()


def test_label_smoothing_at_its_extremes() -> None:
    s, labels, upstream = randn(6, 4, 5), torch.tensor([0, 1, 4, 4]), randn(7, 4)
    none, full = losses.softmax_cross_entropy(0.0), losses.softmax_cross_entropy(1.0)
    loss_B, tape = none.forward(s, labels)
    torch.testing.assert_close(loss_B, -torch.log_softmax(s, 1).gather(1, labels[:, None])[:, 0])
    one_hot = F.one_hot(labels, 5)
    torch.testing.assert_close(none.backward(tape, upstream), (torch.softmax(s, 1) - one_hot) * upstream[:, None])
    loss_B, tape = full.forward(s, labels)
    torch.testing.assert_close(loss_B, -torch.log_softmax(s, 1).mean(1))
    torch.testing.assert_close(full.backward(tape, upstream), (torch.softmax(s, 1) - 0.2) * upstream[:, None])
    assert torch.equal(loss_B, full.forward(s, (labels + 1) % 5)[0]), "with full smoothing the label does not matter"


def test_one_class_costs_nothing() -> None:
    loss = losses.softmax_cross_entropy()
    loss_B, tape = loss.forward(randn(8, 3, 1), torch.zeros(3, dtype=torch.int64))
    assert loss_B.tolist() == [0, 0, 0]
    assert loss.backward(tape, torch.ones(3)).abs().max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_is_convex_and_its_gradient_is_half_lipschitz(seed: int) -> None:
    loss, labels = losses.softmax_cross_entropy(), torch.arange(50) % 7
    a, b = 5 * randn(seed, 50, 7), 5 * randn(seed + 100, 50, 7)
    (loss_a, tape_a), (loss_b, tape_b) = loss.forward(a, labels), loss.forward(b, labels)
    assert (loss.forward((a + b) / 2, labels)[0] <= (loss_a + loss_b) / 2 + 1e-12).all()
    difference = loss.backward(tape_a, torch.ones(50)) - loss.backward(tape_b, torch.ones(50))
    assert (difference.norm(dim=1) <= 0.5 * (a - b).norm(dim=1) + 1e-12).all()
    assert ((loss_a - loss_b).abs() <= math.sqrt(2) * (a - b).norm(dim=1) + 1e-12).all()


def test_cross_entropy_shrinks_towards_a_perfect_prediction_and_grows_without_bound() -> None:
    loss = losses.softmax_cross_entropy()
    s = torch.zeros(6, 3, dtype=torch.float64)
    s[:, 0] = torch.tensor([0.0, 1, 10, 30, 100, 1000], dtype=torch.float64)
    right, wrong = (loss.forward(s, torch.full((6,), label))[0] for label in (0, 1))
    assert (right.diff()[:3] < 0).all()
    assert right[-1] < 1e-300
    assert (wrong.diff() > 0).all()
    assert wrong[-1] >= 1000


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu"])
def test_central_differences_tend_to_the_derivative_with_order_two(name: str) -> None:
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    _, saved = ACTIVATIONS[name].forward(z)
    derivative = ACTIVATIONS[name].backward(saved, torch.ones_like(z))

    def error(step: Any) -> Any:
        above, below = (ACTIVATIONS[name].forward(z + sign * step)[0] for sign in (1, -1))
        return ((above - below) / (2 * step) - derivative).abs().max()

    assert math.log2(error(2e-2) / error(1e-2)) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batch_sizes(batch: int) -> None:
    x, labels, layers = randn(1, batch, 7), torch.zeros(batch, dtype=torch.int64), random_network((7, 4, 3))
    loss, activation = losses.softmax_cross_entropy(0.1, 0.1), ACTIVATIONS["tanh"]
    loss_B, tape = mlp_loss_forward(x, labels, layers, activation, loss)
    gradients: Any = mlp_loss_backward(tape, layers, activation, loss, losses.mean_backward(loss_B, torch.tensor(1.0)))
    assert loss_B.shape == (batch,)
    assert gradients.x_BD.shape == x.shape
    for (weight, bias), (d_weight, d_bias) in zip(layers, gradients.layers, strict=True):
        assert (d_weight.shape, d_bias.shape) == (weight.shape, bias.shape)
        assert d_weight.isfinite().all()
        assert d_bias.isfinite().all()
        assert batch > 0 or (d_weight.abs().max() == 0 and d_bias.abs().max() == 0)
    assert losses.mean_forward(loss_B).isnan() == (batch == 0)


def test_a_batch_is_its_examples_one_by_one() -> None:
    x, labels, layers, upstream = randn(1, 4, 7), torch.tensor([2, 0, 1, 1]), random_network((7, 5, 3)), randn(2, 4)
    loss, activation = losses.softmax_cross_entropy(), ACTIVATIONS["relu"]

    def gradients_of(rows: slice) -> Any:
        _, tape = mlp_loss_forward(x[rows], labels[rows], layers, activation, loss)
        return mlp_loss_backward(tape, layers, activation, loss, upstream[rows])

    whole, single = gradients_of(slice(0, 4)), [gradients_of(slice(n, n + 1)) for n in range(4)]
    torch.testing.assert_close(whole.x_BD, torch.cat([one.x_BD for one in single]))
    for layer in range(2):
        for part in range(2):
            torch.testing.assert_close(whole.layers[layer][part], sum(one.layers[layer][part] for one in single))


def test_inputs_and_upstream_gradients_are_not_changed() -> None:
    x, layers, labels, upstream = randn(1, 4, 7), random_network((7, 5, 3)), torch.tensor([2, 0, 1, 1]), randn(2, 4)
    tensors = [x, labels, upstream, *(tensor for layer in layers for tensor in layer)]
    before = [tensor.clone() for tensor in tensors]
    for activation in ACTIVATIONS.values():
        for loss, _ in LOSSES.values():
            _, tape = mlp_loss_forward(x, labels, layers, activation, loss)
            mlp_loss_backward(tape, layers, activation, loss, upstream)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_dense_backward_of_non_contiguous_tensors() -> None:
    x, weight, d_z = randn(1, 7, 5).T, randn(2, 8, 7)[::2], randn(3, 1, 4).expand(5, 4)
    _, tape = dense_forward(x, weight)
    found = dense_backward(tape, d_z)
    _, tape = dense_forward(x.contiguous(), weight.contiguous())
    for strided, contiguous in zip(found, dense_backward(tape, d_z.contiguous()), strict=True):
        torch.testing.assert_close(strided, contiguous)


def test_mlp_backward_is_the_vjp_of_its_forward() -> None:
    """⟨g, J v⟩ by a central difference equals ⟨v, Jᵀ g⟩, for a random direction in the inputs and all parameters."""
    x, layers, g, step = randn(1, 3, 7), random_network((7, 5, 4, 3)), randn(2, 3, 3), 1e-6
    v_x, v_layers = randn(3, 3, 7), [(randn(4, *w.shape), randn(5, *b.shape)) for w, b in layers]
    activation = ACTIVATIONS["gelu"]

    def moved(t: Any) -> Any:
        shifted = [(w + t * v, b + t * u) for (w, b), (v, u) in zip(layers, v_layers, strict=True)]
        return mlp_forward(x + t * v_x, shifted, activation)[0]

    _, tape = mlp_forward(x, layers, activation)
    gradients = mlp_backward(tape, layers, activation, g)
    adjoint = (gradients.x_BD * v_x).sum()
    for (d_w, d_b), (v, u) in zip(gradients.layers, v_layers, strict=True):
        adjoint = adjoint + (d_w * v).sum() + (d_b * u).sum()
    torch.testing.assert_close(adjoint, (g * (moved(step) - moved(-step))).sum() / (2 * step), rtol=1e-7, atol=1e-8)
