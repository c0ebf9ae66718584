"""The ``nn.Module`` faces: what they compute, print, save and copy, and the statistics of their initial weights."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch

from lean_mnist import nn as lean
from lean_mnist.nn import functional
from lean_mnist.nn.modules import INITIALIZATIONS, initialize_weight_
from tests.support.nn_cases import labels_for


def randn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FACES = {
    "ReLU": (lean.ReLU(), torch.nn.ReLU()),
    "LeakyReLU": (lean.LeakyReLU(), torch.nn.LeakyReLU(0.01)),
    "Sigmoid": (lean.Sigmoid(), torch.nn.Sigmoid()),
    "Tanh": (lean.Tanh(), torch.nn.Tanh()),
    "GELU": (lean.GELU(), torch.nn.GELU()),
    "Softmax": (lean.Softmax(), torch.nn.Softmax(1)),
}


@pytest.mark.parametrize("name", FACES)
def test_activation_modules(name: str) -> None:
    ours, theirs = FACES[name]
    z, upstream = randn(5, 7).requires_grad_(), randn(5, 7, seed=1)
    torch.testing.assert_close(ours(z), theirs(z))
    torch.testing.assert_close(
        torch.autograd.grad(ours(z), z, upstream)[0], torch.autograd.grad(theirs(z), z, upstream)[0]
    )
    assert repr(ours) == f"{name}()"


@pytest.mark.parametrize("bias", [True, False])
def test_dense_module(bias: bool) -> None:
    ours, theirs = lean.Dense(7, 4, bias=bias), torch.nn.Linear(7, 4, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x, upstream = randn(5, 7).requires_grad_(), randn(5, 4, seed=1)
    assert [name for name, _ in ours.named_parameters()] == (["weight", "bias"] if bias else ["weight"])
    assert repr(ours) == f"Dense(7, 4, bias={bias})"
    torch.testing.assert_close(ours(x), theirs(x))
    pairs = zip((x, *ours.parameters()), (x, *theirs.parameters()), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(
            torch.autograd.grad(ours(x), one, upstream)[0], torch.autograd.grad(theirs(x), other, upstream)[0]
        )


@pytest.mark.parametrize("reduction", functional.REDUCTIONS)
def test_loss_module(reduction: str) -> None:
    ours = lean.SoftmaxCrossEntropy(0.1, reduction=reduction)
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction=reduction)
    logits, labels = randn(5, 7), labels_for(5, 7)
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    penalised = lean.SoftmaxCrossEntropy(0.1, 0.5, reduction="sum")(logits, labels)
    torch.testing.assert_close(
        penalised,
        torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")(logits, labels) + logits.square().sum() / 4,
    )


def test_a_network_composed_of_modules_is_the_mlp() -> None:
    model: Any = lean.MLP((7, 5, 4, 3), "tanh")
    composed = torch.nn.Sequential(model.layers[0], lean.Tanh(), model.layers[1], lean.Tanh(), model.layers[2])
    x, labels = randn(5, 7), labels_for(5, 3)
    torch.testing.assert_close(composed(x), model(x))
    lean.SoftmaxCrossEntropy()(composed(x), labels).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.loss(x, labels).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_mlp_names_sizes_and_text() -> None:
    model: Any = lean.MLP()
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        "layers.0.weight": (128, 784),
        "layers.0.bias": (128,),
        "layers.1.weight": (10, 128),
        "layers.1.bias": (10,),
    }
    assert model.sizes == (784, 128, 10)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert "activation=relu" in repr(model)
    assert "(0): Dense(784, 128, bias=True)" in repr(model)


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": (7, 3)},
        {"sizes": (7, 5, 4, 3), "activation": "leaky-relu"},
        {"sizes": [7, 5, 3], "activation": "gelu", "bias": False},
    ],
)
def test_architecture_builds_a_network_of_the_same_form(options: dict[str, Any]) -> None:
    model: Any = lean.MLP(**options, seed=1)
    other = lean.MLP(**model.architecture)
    other.load_state_dict(model.state_dict())
    assert other.architecture == model.architecture
    assert torch.equal(other(randn(5, 7)), model(randn(5, 7)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_mlp_of_another_dtype(dtype: torch.dtype) -> None:
    model: Any = lean.MLP((7, 5, 3), dtype=dtype)
    x = randn(5, 7).to(dtype)
    assert model(x).dtype == dtype
    model.loss(x, labels_for(5, 3)).backward()
    assert all(parameter.dtype == parameter.grad.dtype == dtype for parameter in model.parameters())
    converted = lean.MLP((7, 5, 3)).to(dtype)
    assert converted(x).dtype == dtype


def copied_by_state_dict(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = lean.MLP(model.sizes, model.activation, seed=77, label_smoothing=0.1, logit_penalty=0.2)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


COPIES: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "state_dict": copied_by_state_dict,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal_and_independent(way: Any) -> None:
    model: Any = lean.MLP((7, 5, 3), "tanh", seed=4, label_smoothing=0.1, logit_penalty=0.2)
    x, labels = randn(5, 7), labels_for(5, 3)
    other = COPIES[way](model)
    assert torch.equal(other(x), model(x))
    assert torch.equal(other.loss(x, labels), model.loss(x, labels))
    before = model(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(model(x), before)
    assert not torch.equal(other(x), before)


def test_loss_module_can_be_copied() -> None:
    module = lean.SoftmaxCrossEntropy(0.1, 0.2, "sum")
    logits, labels = randn(5, 7), labels_for(5, 7)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(logits, labels), module(logits, labels))


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_the_seed_decides_the_weights(initialization: str) -> None:
    def weights(seed: int) -> Any:
        model: Any = lean.MLP((20, 9, 3), initialization=initialization, seed=seed)
        return torch.cat([layer.weight.detach().flatten() for layer in model.layers])

    torch.manual_seed(1)
    first, state = weights(5), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, weights(5)), "the global generator has no say"
    assert not torch.equal(state, torch.get_rng_state())
    others = [weights(seed) for seed in (0, 6, 7)]
    assert all((first != other).all() for other in others)


def test_building_a_network_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    lean.MLP((20, 9, 3))
    lean.Dense(20, 9)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_are_drawn_one_after_the_other() -> None:
    layers: Any = lean.MLP((9, 9, 9)).layers
    first, second = layers
    assert (first.weight != second.weight).all()
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(lean.Dense(9, 9, generator=generator).weight, first.weight)
    assert torch.equal(lean.Dense(9, 9, generator=generator).weight, second.weight)


@pytest.mark.parametrize("initialization", INITIALIZATIONS)
def test_biases_start_at_zero(initialization: str) -> None:
    model: Any = lean.MLP((20, 9, 3), initialization=initialization)
    assert all((layer.bias == 0).all() for layer in model.layers)


XAVIER_BOUND = math.sqrt(6 / (784 + 128))
DEVIATIONS = [
    ("he-normal", {}, math.sqrt(2 / 784)),
    ("xavier-uniform", {}, XAVIER_BOUND / math.sqrt(3)),
    ("scale", {"scale": 0.01}, 0.01),
    ("scale", {"scale": 0.3}, 0.3),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("initialization", "options", "deviation"), DEVIATIONS)
def test_statistics_of_initial_weights(initialization: str, options: dict[str, Any], deviation: Any, seed: int) -> None:
    """100,352 draws: the sample's deviation is within 1 % (over 4 of its standard errors), its mean within 4.5."""
    weight = torch.empty(128, 784, dtype=torch.float64)
    filled = initialize_weight_(weight, initialization, torch.Generator().manual_seed(seed), **options)
    assert filled is weight
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert abs(weight.mean().item()) < 4.5 * deviation / math.sqrt(weight.numel())
    # The fourth moment tells a normal (3) from a uniform (1.8) distribution.
    kurtosis = (weight / weight.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(1.8 if initialization == "xavier-uniform" else 3, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_xavier_bound_is_reached_and_never_exceeded(dtype: torch.dtype, seed: int) -> None:
    weight = initialize_weight_(
        torch.empty(128, 784, dtype=dtype), "xavier-uniform", torch.Generator().manual_seed(seed)
    )
    bound = torch.tensor(XAVIER_BOUND, dtype=dtype)
    assert weight.abs().max() <= bound
    assert weight.max() > 0.999 * bound
    assert weight.min() < -0.999 * bound


def test_the_initial_loss_is_near_that_of_a_guess() -> None:
    x = torch.rand(200, 784, generator=torch.Generator().manual_seed(0))
    model: Any = lean.MLP(initialization="scale", scale=0.001)
    assert model.loss(x, labels_for(200, 10)).item() == pytest.approx(math.log(10), abs=1e-2)


def test_three_steps_of_sgd_lower_the_loss() -> None:
    model, x, labels = lean.MLP((7, 9, 3)), randn(20, 7), labels_for(20, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model.loss(x, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
