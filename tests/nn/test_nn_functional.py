"""Every function of ``lean_mnist.nn.functional`` against PyTorch's: values, gradients, layouts, dtypes, autocast."""

import re
from typing import Any

import pytest
import torch

from lean_mnist.chainrule import dense as dense_rule
from lean_mnist.nn import MLP, functional
from lean_mnist.torch_internals import DispatchMode
from tests.support.activations import TORCH_ACTIVATIONS
from tests.support.nn_cases import CASES, SHAPES, labels_for, plain_mlp, randn
from tests.support.planting import Plant

SEED = 1234
CLOSE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12, "equal_nan": True}
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 0.1}


def leaves_for(
    case: Any, shape: tuple[int, ...], layout: str = "contiguous", dtype: torch.dtype = torch.float64, seed: int = SEED
) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [randn(generator, size, layout, dtype).requires_grad_() for size in case.shapes(shape)], generator


@pytest.mark.parametrize(("shape", "layout"), [(shape, layout) for shape in SHAPES for layout in SHAPES[shape]])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name: str, shape: tuple[int, ...], layout: str) -> None:
    case = CASES[name]
    leaves, generator = leaves_for(case, shape, layout)
    value, expected = case.ours(*leaves), case.torchs(*leaves)
    torch.testing.assert_close(value, expected, **CLOSE)
    upstream = randn(generator, value.shape, layout)
    before = [tensor.detach().clone() for tensor in (*leaves, upstream)]
    found = torch.autograd.grad(value, leaves, upstream)
    for gradient, right, leaf in zip(found, torch.autograd.grad(expected, leaves, upstream), leaves, strict=True):
        assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)
        torch.testing.assert_close(gradient, right, rtol=1e-11, atol=1e-12)
    assert all(torch.equal(now, then) for now, then in zip((*leaves, upstream), before, strict=True)), "mutated"


def test_the_comparison_finds_an_error_of_a_part_in_a_thousand(plant: Plant) -> None:
    original = dense_rule.dense_backward

    def wrong(*arguments: Any) -> Any:
        gradients: Any = original(*arguments)
        return gradients._replace(weight_HD=gradients.weight_HD * 1.001)

    plant("chainrule.dense.dense_backward", wrong)
    for name in ("dense", "mlp, relu", "mlp loss mean"):
        with pytest.raises(AssertionError, match="not close"):
            test_values_and_gradients_are_those_of_torch(name, (5, 4, 3), "contiguous")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_lower_precision(name: str, dtype: torch.dtype) -> None:
    """Within rounding of the same numbers in float64, in the dtype that was given; a network's loss has 32 bits."""
    case = CASES[name]
    leaves, generator = leaves_for(case, (5, 12, 7), dtype=dtype)
    value = case.ours(*leaves)
    upstream = randn(generator, value.shape, dtype=value.dtype)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = case.torchs(*doubles)
    tolerance: dict[str, Any] = {"rtol": TOLERANCES[dtype], "atol": 4 * TOLERANCES[dtype]}
    assert value.dtype == (torch.float32 if name.startswith("mlp loss") else dtype)
    torch.testing.assert_close(value.double(), expected, **tolerance)
    for gradient, right in zip(
        torch.autograd.grad(value, leaves, upstream),
        torch.autograd.grad(expected, doubles, upstream.double()),
        strict=True,
    ):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), right, **tolerance)


@pytest.mark.parametrize("name", CASES)
def test_backward_accumulates_like_torch(name: str) -> None:
    """``.backward()`` twice on two batches, into ``.grad``."""
    case = CASES[name]
    ours, _ = leaves_for(case, (5, 4, 3))
    theirs = [leaf.detach().clone().requires_grad_() for leaf in ours]
    for function, leaves in ((case.ours, ours), (case.torchs, theirs)):
        for scale in (1.0, -2.5):
            value = function(*leaves)
            value.backward(scale * torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape))
    for leaf, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(leaf.grad, right.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("name", TORCH_ACTIVATIONS)
def test_activations_take_any_shape(name: str, shape: tuple[int, ...]) -> None:
    z = randn(torch.Generator().manual_seed(SEED), shape).requires_grad_()
    h, expected = CASES[name].ours(z), CASES[name].torchs(z)
    torch.testing.assert_close(h, expected)
    upstream = randn(torch.Generator().manual_seed(SEED + 1), shape)
    found, right = (torch.autograd.grad(value, z, upstream, materialize_grads=True)[0] for value in (h, expected))
    torch.testing.assert_close(found, right)


def test_the_named_activations_are_the_named_ones() -> None:
    z = randn(torch.Generator().manual_seed(SEED), (3, 4))
    named = {
        "relu": functional.relu,
        "leaky-relu": functional.leaky_relu,
        "sigmoid": functional.sigmoid,
        "tanh": functional.tanh,
        "gelu": functional.gelu,
    }
    for name, function in named.items():
        torch.testing.assert_close(function(z), CASES[name].torchs(z))


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky-relu", 0.01)])
def test_the_kink_conventions(name: str, slope: float) -> None:
    z = torch.tensor([0.0, -0.0], requires_grad=True)
    functional.activate(z, name).backward(torch.tensor([2.0, 3.0]))
    assert z.grad is not None
    assert z.grad.tolist() == pytest.approx([2 * slope, 3 * slope])


# What is frozen, and what is therefore computed: one (x, weight, bias) a dense layer, last layer first.
FROZEN = [
    (set(), [(True, True, True), (True, True, True), (True, True, True)]),
    ({"x"}, [(True, True, True), (True, True, True), (False, True, True)]),
    ({"x", 0, 1}, [(True, True, True), (False, True, True)]),
    ({"x", 0, 1, 2, 3}, [(False, True, True)]),
    ({"x", 0, 1, 2, 3, 4}, [(False, False, True)]),
    ({"x", 1, 2, 3, 4, 5}, [(True, False, False), (True, False, False), (False, True, False)]),
    ({0, 1, 2, 3, 4, 5}, [(True, False, False)] * 3),
    ({0, 2, 4}, [(True, False, True)] * 3),
]


@pytest.mark.parametrize(
    ("frozen", "calls"), FROZEN, ids=lambda value: str(sorted(map(str, value))) if isinstance(value, set) else ""
)
@pytest.mark.parametrize("face", ["forward", "loss"])
def test_frozen_tensors_cost_nothing(
    face: str, frozen: set[str | int], calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], dense_rule.dense_backward

    def counted(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> Any:
        seen.append(tuple(needs))
        return original(tape, d_z, needs)

    monkeypatch.setattr(dense_rule, "dense_backward", counted)
    model = MLP((4, 5, 6, 3), "tanh", dtype=torch.float64)
    x = randn(torch.Generator().manual_seed(SEED), (5, 4)).requires_grad_("x" not in frozen)
    parameters = list(model.parameters())
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number not in frozen)
    value = model(x) if face == "forward" else model.loss(x, labels_for(5, 3))
    value.backward(torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape))
    assert seen == calls
    assert (x.grad is None) == ("x" in frozen)
    assert [parameter.grad is None for parameter in parameters] == [number in frozen for number in range(6)]

    expected = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    model.requires_grad_(True).zero_grad()
    value = model(x) if face == "forward" else model.loss(x, labels_for(5, 3))
    value.backward(torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape))
    for parameter, some in zip(parameters, expected, strict=True):
        assert some is None or (parameter.grad is not None and torch.equal(some, parameter.grad))


@pytest.mark.parametrize("name", CASES)
def test_no_graph_without_a_need(name: str) -> None:
    leaves, _ = leaves_for(CASES[name], (5, 4, 3))
    with torch.no_grad():
        assert not CASES[name].ours(*leaves).requires_grad
    value = CASES[name].ours(*(leaf.detach() for leaf in leaves))
    assert not value.requires_grad
    torch.testing.assert_close(value, CASES[name].ours(*leaves).detach(), rtol=0, atol=0)


class RecordedKernels(DispatchMode):
    """The kernels that autograd makes a node of each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if torch.is_grad_enabled() and made.is_floating_point():
            self.found.append(func)
        return made


def test_the_parts_of_a_network_are_a_node_each() -> None:
    leaves, _ = leaves_for(CASES["mlp, relu"], (5, 4, 3))
    with RecordedKernels() as kernels:
        plain_mlp(leaves[0], leaves[1:])
    assert len(kernels.found) >= 3


@pytest.mark.parametrize("name", ["mlp, relu", "mlp loss mean"])
def test_the_whole_network_is_one_node(name: str) -> None:
    leaves, _ = leaves_for(CASES[name], (5, 4, 3))
    with RecordedKernels() as kernels:
        value = CASES[name].ours(*leaves)
    assert value.grad_fn.name().startswith("MLP")
    assert not kernels.found  # by autograd: inside a node it records none


@pytest.mark.parametrize("reduction", functional.REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2, "logit_penalty": 0.1}], ids=["plain", "smoothed"])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 6, 3), (4, 6, 5, 3)], ids=str)
def test_loss_is_the_cross_entropy_of_forward(sizes: tuple[int, ...], options: dict[str, Any], reduction: str) -> None:
    model = MLP(sizes, "gelu", dtype=torch.float64, **options)
    x, labels = randn(torch.Generator().manual_seed(SEED), (5, 4)).requires_grad_(), labels_for(5, 3)
    fused = model.loss(x, labels, reduction)
    composed = functional.cross_entropy(model(x), labels, **options, reduction=reduction)
    torch.testing.assert_close(fused, composed, rtol=1e-13, atol=1e-14)
    upstream, wanted = randn(torch.Generator().manual_seed(SEED + 1), fused.shape), [x, *model.parameters()]
    for one, other in zip(
        torch.autograd.grad(fused, wanted, upstream), torch.autograd.grad(composed, wanted, upstream), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_changing_the_result_in_place_never_gives_a_wrong_gradient(name: str) -> None:
    leaves, generator = leaves_for(CASES[name], (5, 4, 3))
    value = CASES[name].ours(*leaves)
    upstream = randn(generator, value.shape)
    expected = torch.autograd.grad(CASES[name].torchs(*leaves), leaves, upstream)
    try:
        scaled = value.mul_(3)
        found = torch.autograd.grad(scaled, leaves, upstream / 3)
    except RuntimeError as error:
        assert re.search("modified.*in-?place", str(error))  # noqa: PT017  either outcome is right
    else:
        for gradient, right in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("name", CASES)
def test_changing_an_input_in_place_never_gives_a_wrong_gradient(name: str) -> None:
    """Between forward and backward: PyTorch's own error, or (where the backward has no use for it) the right value."""
    case = CASES[name]
    count = len(case.shapes((5, 4, 3)))
    for changed in range(count):
        leaves, generator = leaves_for(case, (5, 4, 3))
        value = case.ours(*leaves)
        upstream = randn(generator, value.shape)
        expected = torch.autograd.grad(case.torchs(*leaves), leaves, upstream)
        with torch.no_grad():
            leaves[changed].mul_(2)
        try:
            found = torch.autograd.grad(value, leaves, upstream)
        except RuntimeError as error:
            assert re.search("modified.*in-?place", str(error))  # noqa: PT017  either outcome is right
        else:
            for gradient, right in zip(found, expected, strict=True):
                torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("face", ["dense", "forward", "loss"])
def test_changing_a_weight_in_place_raises(face: str) -> None:
    model: Any = MLP((4, 5, 3))
    x, labels = torch.randn(2, 4, generator=torch.Generator().manual_seed(SEED)).requires_grad_(), labels_for(2, 3)
    faces: dict[str, Any] = {"dense": model.layers[0], "forward": model, "loss": lambda x: model.loss(x, labels)}
    value = faces[face](x).sum()
    with torch.no_grad():
        model.layers[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_second_backward_needs_the_graph() -> None:
    leaves, _ = leaves_for(CASES["mlp loss mean"], (5, 4, 3))
    value = CASES["mlp loss mean"].ours(*leaves)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    second = torch.autograd.grad(value, leaves)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("where", ["forward inside, backward outside", "forward and backward inside"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["dense", "gelu", "softmax", "cross-entropy 0.3 0.2 mean", "mlp, relu", "mlp loss mean"]
)
def test_autocast_changes_nothing(name: str, dtype: torch.dtype, where: Any) -> None:
    case = CASES[name]
    leaves, generator = leaves_for(case, (5, 12, 7), dtype=dtype)
    expected = case.ours(*leaves)
    upstream = randn(generator, expected.shape, dtype=dtype)
    right = torch.autograd.grad(expected, leaves, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = case.ours(*leaves)
        if where == "forward and backward inside":
            found = torch.autograd.grad(value, leaves, upstream)
    if where == "forward inside, backward outside":
        found = torch.autograd.grad(value, leaves, upstream)
    assert value.dtype == expected.dtype
    assert torch.equal(value, expected)
    for gradient, other in zip(found, right, strict=True):
        assert gradient.dtype == dtype
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("name", ["dense", "relu", "softmax", "mlp, relu"])
def test_shapes_can_be_inferred_on_the_meta_device(name: str) -> None:
    tensors = [torch.empty(size, device="meta") for size in CASES[name].shapes((5, 4, 3))]
    value = CASES[name].ours(*tensors)
    assert value.device.type == "meta"
    assert value.shape == CASES[name].torchs(*tensors).shape


def test_two_graphs_do_not_share_state() -> None:
    """Both are built before either is walked."""
    case = CASES["mlp loss mean"]
    (one, _), (two, _) = leaves_for(case, (5, 4, 3)), leaves_for(case, (3, 4, 3), seed=SEED + 1)
    values = [case.ours(*one), case.ours(*two)]
    for value, leaves in zip(reversed(values), (two, one), strict=True):
        found, right = torch.autograd.grad(value, leaves), torch.autograd.grad(case.torchs(*leaves), leaves)
        for gradient, other in zip(found, right, strict=True):
            torch.testing.assert_close(gradient, other)
