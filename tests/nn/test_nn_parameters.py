"""All parameters as one vector: its layout, and the round trip in both directions, bit for bit."""

import struct
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, FlatParameters, flatten_parameters, parameter_layout, unflatten_parameters

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
AWKWARD = [  # float32: −0, the smallest denormals, the largest, infinities, quiet and signalling NaN with payloads
    *(0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000),
    *(0x7FC00000, 0x7FC0BEEF, 0xFFC12345, 0x7F800001, 0xFFBFFFFF),
]


def bits(tensor: Any) -> Any:
    return tensor.detach().contiguous().view(BITS[tensor.dtype])


def vector_of_bits(patterns: Any) -> Any:
    return torch.frombuffer(bytearray(struct.pack(f"<{len(patterns)}I", *patterns)), dtype=torch.float32)


def random_bits(count: Any, dtype: torch.dtype, seed: int) -> Any:
    """Every bit pattern is as likely as every other, so NaN and denormals of every kind are among them."""
    width = torch.iinfo(BITS[dtype])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(width.min, width.max, (count,), generator=generator, dtype=BITS[dtype]).view(dtype)


def test_layout_of_784_128_10() -> None:
    model: Any = MLP((784, 128, 10))
    assert parameter_layout(model) == [
        ("layers.0.weight", 0, (128, 784)),
        ("layers.0.bias", 100352, (128,)),
        ("layers.1.weight", 100480, (10, 128)),
        ("layers.1.bias", 101760, (10,)),
    ]
    assert flatten_parameters(model).shape == (101770,)


def test_each_parameter_stands_where_the_layout_says_row_by_row() -> None:
    model: Any = MLP((5, 4, 3), seed=3)
    vector = flatten_parameters(model)
    for (name, offset, shape), (expected, parameter) in zip(
        parameter_layout(model), model.named_parameters(), strict=True
    ):
        assert name == expected
        assert vector[offset : offset + parameter.numel()].tolist() == parameter.flatten().tolist()
        assert shape == tuple(parameter.shape)
    assert vector[2 * 5 + 3] == model.layers[0].weight[2, 3]
    assert vector[20 + 4 + 1 * 4 + 2] == model.layers[1].weight[1, 2]


def test_each_gradient_stands_where_the_layout_of_flat_parameters_says() -> None:
    model: Any = MLP((5, 4, 3), seed=3)
    parameters = FlatParameters(model)
    parameters.gradient.copy_(torch.arange(39.0))
    named = dict(model.named_parameters())
    for slot, end in zip(parameters.layout, (20, 24, 36, 39), strict=True):
        for place in range(end - slot.offset):
            assert named[slot.name].grad[slot.where(place)] == slot.offset + place
    assert parameters.layout[0].where(2 + 4 * 3) == (2, 3)
    assert parameter_layout(model)[0].where(2 * 5 + 3) == (2, 3)


def test_awkward_numbers_survive_both_ways() -> None:
    model: Any = MLP((2, 3, 1))  # 6 + 3 + 3 + 1 = 13
    vector = vector_of_bits([*AWKWARD, 0x3F800000])
    unflatten_parameters(vector, model)
    assert torch.equal(bits(flatten_parameters(model)), bits(vector))
    assert torch.equal(bits(torch.cat([parameter.flatten() for parameter in model.parameters()])), bits(vector))
    assert vector.isnan().sum() == 5
    assert torch.equal(bits(model.layers[0].weight), bits(vector[:6]).view(3, 2))


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_any_bits_survive_in_every_dtype(dtype: torch.dtype, seed: int) -> None:
    model: Any = MLP((784, 128, 10), dtype=dtype)
    vector = random_bits(101770, dtype, seed)
    unflatten_parameters(vector, model)
    assert torch.equal(bits(flatten_parameters(model)), bits(vector))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    bias=st.booleans(),
    dtype=st.sampled_from(list(BITS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trips(sizes: tuple[int, ...], bias: bool, dtype: torch.dtype, seed: int) -> None:
    model, other = MLP(sizes, bias=bias, dtype=dtype, seed=seed), MLP(sizes, bias=bias, dtype=dtype, seed=seed + 1)
    total = sum((before + bias) * after for before, after in pairwise(sizes))
    vector = flatten_parameters(model)
    assert vector.shape == (total,)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    unflatten_parameters(vector, other)  # unflatten ∘ flatten is the identity on networks
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(bits(one), bits(two))
    vector = random_bits(total, dtype, seed)
    unflatten_parameters(vector, model)  # flatten ∘ unflatten is the identity on vectors
    assert torch.equal(bits(flatten_parameters(model)), bits(vector))
    offset = 0
    for slot, parameter in zip(parameter_layout(model), model.parameters(), strict=True):
        assert (slot.offset, slot.shape) == (offset, tuple(parameter.shape))
        offset += parameter.numel()
    assert offset == total


@pytest.mark.parametrize("sizes", [(3, 2), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_vector_is_a_copy(sizes: tuple[int, ...], bias: bool) -> None:
    """Also for a single parameter, whose flattening could be a view of it."""
    model: Any = MLP(sizes, bias=bias)
    vector = flatten_parameters(model)
    before = vector.clone()
    assert not vector.requires_grad
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(vector, before)
    unflatten_parameters(vector, model)
    vector.add_(1)
    assert torch.equal(flatten_parameters(model), before)


def test_unflatten_keeps_the_parameters_themselves() -> None:
    """Optimizers hold on to the parameters, so they are filled, not replaced; gradients and requires_grad stay."""
    model: Any = MLP((3, 2))
    model.loss(torch.ones(1, 3), torch.tensor([1])).backward()
    model.layers[0].bias.requires_grad_(False)
    parameters, gradients = list(model.parameters()), [parameter.grad for parameter in model.parameters()]
    unflatten_parameters(torch.arange(8.0), model)
    assert all(one is two for one, two in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.grad is gradient for parameter, gradient in zip(parameters, gradients, strict=True))
    assert [parameter.requires_grad for parameter in parameters] == [True, False]
    assert model.layers[0].weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert model.layers[0].bias.tolist() == [6, 7]


def test_a_strided_or_differentiable_vector_can_be_unflattened() -> None:
    model, values = MLP((3, 2)), torch.arange(16.0).requires_grad_()
    unflatten_parameters(values[::2], model)
    assert flatten_parameters(model).tolist() == list(range(0, 16, 2))


def test_transposed_parameters_are_flattened_row_by_row() -> None:
    model: Any = MLP((3, 2), bias=False)
    model.layers[0].weight.data = torch.arange(6.0).view(3, 2).T
    assert flatten_parameters(model).tolist() == [0, 2, 4, 1, 3, 5]
    unflatten_parameters(torch.arange(6.0), model)
    assert model.layers[0].weight.tolist() == [[0, 1, 2], [3, 4, 5]]


WRONG = [
    (torch.zeros(7), r"vector: expected shape \(8,\), found \(7,\)"),
    (torch.zeros(9), r"vector: expected shape \(8,\), found \(9,\)"),
    (torch.zeros(1), r"vector: expected shape \(8,\), found \(1,\)"),
    (torch.zeros(2, 4), r"vector: expected shape \(8,\), found \(2, 4\)"),
    (torch.zeros(8, 1), r"vector: expected shape \(8,\), found \(8, 1\)"),
    (torch.tensor(0.0), r"vector: expected shape \(8,\), found \(\)"),
    (torch.zeros(8, dtype=torch.float64), r"vector: expected torch.float32, found torch.float64"),
    (torch.zeros(8, dtype=torch.bfloat16), r"vector: expected torch.float32, found torch.bfloat16"),
    (torch.zeros(8, dtype=torch.int32), r"vector: expected torch.float32, found torch.int32"),
]


@pytest.mark.parametrize(("vector", "message"), WRONG, ids=lambda value: "" if torch.is_tensor(value) else value)
def test_a_wrong_vector_is_refused_and_changes_nothing(vector: Any, message: str) -> None:
    model: Any = MLP((3, 2))
    before = flatten_parameters(model)
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        unflatten_parameters(vector, model)
    assert torch.equal(flatten_parameters(model), before)


def test_mixed_dtypes_are_refused_both_ways() -> None:
    model: Any = MLP((3, 4, 2))
    model.layers[1].double()
    with pytest.raises(ArgumentError, match=r"model: expected parameters of one dtype, found .*float32.*float64"):
        flatten_parameters(model)
    first = model.layers[0].weight.detach().clone()
    with pytest.raises(ArgumentError, match=r"vector: expected torch.float64, found torch.float32"):
        unflatten_parameters(torch.zeros(26), model)
    assert torch.equal(model.layers[0].weight, first), "refused before anything was written"


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^model: expected parameters of one dtype, found none$"):
        flatten_parameters(torch.nn.ReLU())
