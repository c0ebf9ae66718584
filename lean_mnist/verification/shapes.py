"""Types: every wrong shape is refused before any arithmetic, and parameters round trip bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, functional, parameters
from lean_mnist.torch_internals import DispatchMode
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.gradients import LEAN
from lean_mnist.verification.model import Obligation, Refuted

# Every shape of up to three axes with these sizes; 2, 3, 5 and 4 are the sizes that fit, 1 is what would broadcast.
SIZES, RANKS = (1, 2, 3, 4, 5), (0, 1, 2, 3)
WRONG = [shape for rank in RANKS for shape in itertools.product(SIZES, repeat=rank)]
RIGHT = {"x": (2, 3), "W0": (5, 3), "b0": (5,), "W1": (4, 5), "b1": (4,), "labels": (2,), "logits": (2, 4)}
UPSTREAM = {
    "dense": (2, 5),
    "softmax": (2, 4),
    "cross-entropy": (2,),
    "squared error": (2,),
    "mlp": (2, 4),
    "loss": (2,),
}


class NoArithmetic(DispatchMode):
    """Inside this context any operation on a tensor is an error; reading a shape, dtype or device is not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran before the arguments were checked")


Call = Callable[[dict[str, torch.Tensor]], Any]


def _layers(t: dict[str, torch.Tensor]) -> list[mlp.Layer]:
    return [(t["W0"], t["b0"]), (t["W1"], t["b1"])]


CALLS: dict[str, tuple[tuple[str, ...], Call]] = {
    "dense_forward": (("x", "W0", "b0"), lambda t: dense.dense_forward(t["x"], t["W0"], t["b0"])),
    "functional.dense": (("x", "W0", "b0"), lambda t: functional.dense(t["x"], t["W0"], t["b0"])),
    "mlp_forward": (
        ("x", "W0", "b0", "W1", "b1"),
        lambda t: mlp.mlp_forward(t["x"], _layers(t), activation_named("relu")),
    ),
    "functional.mlp": (("x", "W0", "b0", "W1", "b1"), lambda t: functional.mlp(t["x"], _layers(t))),
    "mlp_loss_forward": (
        ("x", "labels", "W0", "b0", "W1", "b1"),
        lambda t: mlp.mlp_loss_forward(
            t["x"], t["labels"], _layers(t), activation_named("relu"), losses.softmax_cross_entropy()
        ),
    ),
    "functional.mlp_loss": (
        ("x", "labels", "W0", "b0", "W1", "b1"),
        lambda t: functional.mlp_loss(t["x"], t["labels"], _layers(t)),
    ),
    "softmax_cross_entropy": (
        ("logits", "labels"),
        lambda t: losses.softmax_cross_entropy().forward(t["logits"], t["labels"]),
    ),
    "squared_error": (("logits", "labels"), lambda t: losses.squared_error().forward(t["logits"], t["labels"])),
    "functional.cross_entropy": (("logits", "labels"), lambda t: functional.cross_entropy(t["logits"], t["labels"])),
    "softmax_forward": (("logits",), lambda t: losses.softmax_forward(t["logits"])),
}


def _fits(arguments: tuple[str, ...], argument: str, shape: tuple[int, ...]) -> bool:
    """Whether ``argument`` of that shape fits the right shapes of all the others."""
    if argument == "logits":  # any number of classes; any batch, where there are no labels
        return len(shape) == 2 and ("labels" not in arguments or shape[0] == RIGHT["labels"][0])
    if argument == "x" and "labels" not in arguments:  # any batch
        return len(shape) == 2 and shape[1] == RIGHT["x"][1]
    return shape == RIGHT[argument]


def wrong_shapes() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Call, argument, and every shape of it that does not fit the others."""
    for name, (arguments, _) in CALLS.items():
        for argument, shape in itertools.product(arguments, WRONG):
            if not _fits(arguments, argument, shape):
                yield name, argument, shape


def _tensors(changed: str = "", shape: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(shape if name == changed else right, dtype=torch.int64 if name == "labels" else torch.float32)
        for name, right in RIGHT.items()
    }


def _refused(what: str, call: Callable[[], Any]) -> None:
    try:
        with NoArithmetic():
            call()
    except ArgumentError:
        return
    except AssertionError as error:
        raise Refuted("arithmetic came before the check", f"{what}: {error}") from None
    raise Refuted("a wrong shape was accepted", what)


def _wrong_arguments() -> str:
    for _, call in CALLS.values():
        call(_tensors())  # what fits is accepted
    for name, argument, shape in wrong_shapes():
        tensors = _tensors(argument, shape)
        _refused(f"{name} with {argument} {shape}", lambda: CALLS[name][1](tensors))  # noqa: B023  # called at once
    return "each raises ArgumentError inside a context in which any tensor operation is an error"


def _backwards() -> dict[str, Callable[[torch.Tensor], Any]]:
    t, relu = _tensors(), activation_named("relu")
    layers, cross_entropy, squared = _layers(t), losses.softmax_cross_entropy(), losses.squared_error()
    _, dense_tape = dense.dense_forward(t["x"], t["W0"], t["b0"])
    probabilities, _ = losses.softmax_forward(t["logits"])
    _, entropy_tape = cross_entropy.forward(t["logits"], t["labels"])
    _, squared_tape = squared.forward(t["logits"], t["labels"])
    _, mlp_tape = mlp.mlp_forward(t["x"], layers, relu)
    _, loss_tape = mlp.mlp_loss_forward(t["x"], t["labels"], layers, relu, cross_entropy)
    return {
        "dense": lambda g: dense.dense_backward(dense_tape, g),
        "softmax": lambda g: losses.softmax_backward(probabilities, g),
        "cross-entropy": lambda g: cross_entropy.backward(entropy_tape, g),
        "squared error": lambda g: squared.backward(squared_tape, g),
        "mlp": lambda g: mlp.mlp_backward(mlp_tape, layers, relu, g),
        "loss": lambda g: mlp.mlp_loss_backward(loss_tape, layers, relu, cross_entropy, g),
    }


def _wrong_upstream() -> str:
    for name, backward in _backwards().items():
        backward(torch.zeros(UPSTREAM[name]))
        for shape in WRONG:
            if shape != UPSTREAM[name]:
                upstream = torch.zeros(shape)
                _refused(f"{name} with upstream gradient {shape}", lambda: backward(upstream))  # noqa: B023
    return "also those that would broadcast"


LAYOUT = {"layers.0.weight": 0, "layers.0.bias": 100_352, "layers.1.weight": 100_480, "layers.1.bias": 101_760}
ARCHITECTURES: list[dict[str, Any]] = [
    {"sizes": (784, 128, 10)},
    {"sizes": (3, 2)},
    {"sizes": (5, 4, 3, 2)},
    {"sizes": (7, 1, 9), "bias": False},
]
DTYPES = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}
ROUND_TRIP_SEEDS = range(5)


def _any_bits(size: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Every pattern of bits alike: infinities, −0, subnormal numbers and NaNs with any payload among them."""
    limits = torch.iinfo(DTYPES[dtype])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(limits.min, limits.max, (size,), generator=generator, dtype=DTYPES[dtype])


def _round_trips() -> str:
    for architecture, (dtype, integer), seed in itertools.product(ARCHITECTURES, DTYPES.items(), ROUND_TRIP_SEEDS):
        model = MLP(**architecture, dtype=dtype, seed=seed)
        where = f"sizes {architecture['sizes']}, {dtype}, seed {seed}"
        size = sum(p.numel() for p in model.parameters())
        bits = _any_bits(size, dtype, seed)
        parameters.unflatten_parameters(bits.view(dtype), model)
        found = parameters.flatten_parameters(model).view(integer)
        if found.shape != bits.shape or not torch.equal(found, bits):
            raise Refuted("flatten ∘ unflatten is not the identity", where)
        other = MLP(**architecture, dtype=dtype, seed=seed + 1)
        parameters.unflatten_parameters(parameters.flatten_parameters(model), other)
        for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
            if not torch.equal(p.detach().view(integer), q.detach().view(integer)):
                raise Refuted("unflatten ∘ flatten is not the identity", f"{name}, {where}")
    return "compared as bits: NaNs with any payload, −0, infinities and subnormal numbers among them"


def _layout() -> str:
    model = MLP((784, 128, 10), dtype=torch.float64)
    parameters.unflatten_parameters(torch.arange(101_770, dtype=torch.float64), model)
    slots = {slot.name: slot.offset for slot in parameters.parameter_layout(model)}
    if slots != LAYOUT:
        raise Refuted("the layout differs", f"{slots} instead of {LAYOUT}")
    for name, parameter in model.named_parameters():
        first = LAYOUT[name]
        expected = torch.arange(first, first + parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
        if not torch.equal(parameter.detach(), expected):
            raise Refuted("a parameter is not stored row by row at its offset", name)
    return "W1 at 0, b1 at 100,352, W2 at 100,480, b2 at 101,760"


def obligations() -> list[Obligation]:
    """The obligations of this module, in the order of the table."""
    wrong, upstream = sum(1 for _ in wrong_shapes()), len(UPSTREAM) * (len(WRONG) - 1)
    rests = (rests_on.TORCH, rests_on.CASES)
    trips = len(ARCHITECTURES) * len(DTYPES) * len(ROUND_TRIP_SEEDS)
    return [
        Obligation(
            "types.wrong-shapes", "every wrong shape raises before any arithmetic", "matvec_output_dimension, …",
            "property test", f"on {wrong:,} cases: {len(CALLS)} functions, each argument in every shape "
            f"of up to 3 axes with sizes {SIZES[0]} to {SIZES[-1]} that does not fit", rests,
            _wrong_arguments,
        ),
        Obligation(
            "types.wrong-upstream", "every upstream gradient of a wrong shape raises before any arithmetic",
            f"{LEAN}: dense_layer_type_safe, …", "property test", f"on {upstream:,} cases: {len(UPSTREAM)} backwards, "
            f"every shape of up to 3 axes with sizes {SIZES[0]} to {SIZES[-1]} that does not fit", rests,
            _wrong_upstream,
        ),
        Obligation(
            "types.round-trip", "flatten ∘ unflatten and unflatten ∘ flatten are the identity, bit for bit",
            "flatten_unflatten_left_inverse, unflatten_flatten_right_inverse", "property test",
            f"on {trips} models (784-128-10 among them) in float64, float32 and bfloat16, with random bits", rests,
            _round_trips,
        ),
        Obligation(
            "types.layout", "parameter i of the vector of 101,770 is the one LEAN_mnist has there", "flattenParams",
            "property test", "on all 101,770 places of 784-128-10, which is all there are", (rests_on.TORCH,), _layout,
        ),
    ]  # fmt: skip
