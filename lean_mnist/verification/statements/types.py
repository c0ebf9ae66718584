"""Types: every wrong shape is refused before any arithmetic, and parameters round trip bit for bit."""

import inspect
import itertools
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lean_mnist.chainrule import dense, losses, mlp
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.errors import ArgumentError
from lean_mnist.nn import MLP, functional, parameters
from lean_mnist.torch_internals import DispatchMode
from lean_mnist.verification import assumptions as rests_on
from lean_mnist.verification.model import Method, Refuted, Statements
from lean_mnist.verification.statements.gradients import LEAN, OURS

OBLIGATIONS = checked = Statements("types", "Types", method=Method.FLOATS)
# Every shape of up to three axes with these sizes; 2, 3, 5 and 4 are the sizes that fit, 1 is what would broadcast.
SIZES, RANKS = (1, 2, 3, 4, 5), (0, 1, 2, 3)
SHAPES = [shape for rank in RANKS for shape in itertools.product(SIZES, repeat=rank)]
RIGHT = {"x": (2, 3), "W0": (5, 3), "b0": (5,), "W1": (4, 5), "b1": (4,), "labels": (2,), "logits": (2, 4)}
RELU, CROSS_ENTROPY, SQUARED_ERROR = activation_named("relu"), losses.softmax_cross_entropy(), losses.squared_error()


class NoArithmetic(DispatchMode):
    """Inside this context any operation on a tensor is an error; reading a shape, dtype or device is not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran before the arguments were checked")


CALLS: dict[str, Callable[..., Any]] = {  # parameters are named as in RIGHT
    "dense_forward": lambda x, W0, b0: dense.dense_forward(x, W0, b0),
    "functional.dense": lambda x, W0, b0: functional.dense(x, W0, b0),
    "mlp_forward": lambda x, W0, b0, W1, b1: mlp.mlp_forward(x, [(W0, b0), (W1, b1)], RELU),
    "functional.mlp": lambda x, W0, b0, W1, b1: functional.mlp(x, [(W0, b0), (W1, b1)]),
    "mlp_loss_forward": lambda x, labels, W0, b0, W1, b1: mlp.mlp_loss_forward(
        x, labels, [(W0, b0), (W1, b1)], RELU, CROSS_ENTROPY
    ),
    "functional.mlp_loss": lambda x, labels, W0, b0, W1, b1: functional.mlp_loss(x, labels, [(W0, b0), (W1, b1)]),
    "softmax_cross_entropy": lambda logits, labels: CROSS_ENTROPY.forward(logits, labels),
    "squared_error": lambda logits, labels: SQUARED_ERROR.forward(logits, labels),
    "functional.cross_entropy": lambda logits, labels: functional.cross_entropy(logits, labels),
    "softmax_forward": lambda logits: losses.softmax_forward(logits),
}


def _arguments(call: Callable[..., Any], **changed: tuple[int, ...]) -> dict[str, Tensor]:
    """The arguments of ``call``, of shapes that fit but for those ``changed``."""
    return {
        name: torch.zeros({**RIGHT, **changed}[name], dtype=torch.int64 if name == "labels" else torch.float32)
        for name in inspect.signature(call).parameters
    }


def _fits(names: Container[str], argument: str, shape: tuple[int, ...]) -> bool:
    """True if ``argument`` of that shape fits the right shapes of all the others."""
    if argument == "logits":  # any number of classes; any batch, where there are no labels
        return len(shape) == 2 and ("labels" not in names or shape[0] == RIGHT["labels"][0])
    if argument == "x" and "labels" not in names:  # any batch
        return len(shape) == 2 and shape[1] == RIGHT["x"][1]
    return shape == RIGHT[argument]


def every_wrong_shape() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Call, argument, and every shape of it that does not fit the others."""
    for name, call in CALLS.items():
        names = inspect.signature(call).parameters
        yield from ((name, one, shape) for one in names for shape in SHAPES if not _fits(names, one, shape))


def _refused(what: str, call: Callable[[], Any]) -> None:
    try:
        with NoArithmetic():
            call()
    except ArgumentError:
        return
    except AssertionError as error:
        raise Refuted("arithmetic came before the check", f"{what}: {error}") from None
    raise Refuted("a wrong shape was accepted", what)


@checked(
    "matvec_output_dimension, …",
    f"on {len(list(every_wrong_shape())):,} cases: {len(CALLS)} functions, each argument in every shape of up to 3 "
    f"axes with sizes {SIZES[0]} to {SIZES[-1]} that does not fit",
)
def wrong_shapes() -> str:
    """every wrong shape raises before any arithmetic."""
    for call in CALLS.values():
        call(**_arguments(call))  # what fits is accepted
    for name, argument, shape in every_wrong_shape():
        _refused(
            f"{name} with {argument} {shape}", partial(CALLS[name], **_arguments(CALLS[name], **{argument: shape}))
        )
    return "each raises ArgumentError inside a context in which any tensor operation is an error"


def _backwards() -> dict[str, tuple[Tensor, Callable[[Tensor], Any]]]:
    """The result of each forward, and its backward as a function of the upstream gradient."""
    t = {name: torch.zeros(shape) for name, shape in RIGHT.items()}
    labels, layers = t["labels"].long(), [(t["W0"], t["b0"]), (t["W1"], t["b1"])]
    z, dense_tape = dense.dense_forward(t["x"], t["W0"], t["b0"])
    p, probabilities = losses.softmax_forward(t["logits"])
    entropy, entropy_tape = CROSS_ENTROPY.forward(t["logits"], labels)
    error, error_tape = SQUARED_ERROR.forward(t["logits"], labels)
    s, mlp_tape = mlp.mlp_forward(t["x"], layers, RELU)
    loss, loss_tape = mlp.mlp_loss_forward(t["x"], labels, layers, RELU, CROSS_ENTROPY)
    return {
        "dense": (z, lambda g: dense.dense_backward(dense_tape, g)),
        "softmax": (p, lambda g: losses.softmax_backward(probabilities, g)),
        "cross-entropy": (entropy, lambda g: CROSS_ENTROPY.backward(entropy_tape, g)),
        "squared error": (error, lambda g: SQUARED_ERROR.backward(error_tape, g)),
        "mlp": (s, lambda g: mlp.mlp_backward(mlp_tape, layers, RELU, g)),
        "loss": (loss, lambda g: mlp.mlp_loss_backward(loss_tape, layers, RELU, CROSS_ENTROPY, g)),
    }


@checked(
    f"{LEAN}: dense_layer_type_safe, …",
    f"on {len(_backwards()) * (len(SHAPES) - 1):,} cases: {len(_backwards())} backwards, every shape of up to 3 axes "
    f"with sizes {SIZES[0]} to {SIZES[-1]} that does not fit",
)
def wrong_upstream() -> str:
    """every upstream gradient of a wrong shape raises before any arithmetic."""
    for name, (output, backward) in _backwards().items():
        backward(torch.zeros(output.shape))
        for shape in SHAPES:
            if shape != output.shape:
                _refused(f"{name} with upstream gradient {shape}", partial(backward, torch.zeros(shape)))
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


def _any_bits(size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Every pattern of bits alike: infinities, −0, subnormal numbers and NaNs with any payload among them."""
    limits = torch.iinfo(DTYPES[dtype])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(limits.min, limits.max, (size,), generator=generator, dtype=DTYPES[dtype])


@checked(
    "flatten_unflatten_left_inverse, unflatten_flatten_right_inverse",
    f"on {len(ARCHITECTURES) * len(DTYPES) * len(ROUND_TRIP_SEEDS)} models (784-128-10 among them) in float64, float32 "
    "and bfloat16, with random bits",
)
def round_trip() -> str:
    """flatten ∘ unflatten and unflatten ∘ flatten are the identity, bit for bit."""
    for architecture, (dtype, integer), seed in itertools.product(ARCHITECTURES, DTYPES.items(), ROUND_TRIP_SEEDS):
        model = MLP(**architecture, dtype=dtype, seed=seed)
        where = f"sizes {architecture['sizes']}, {dtype}, seed {seed}"
        bits = _any_bits(sum(p.numel() for p in model.parameters()), dtype, seed)
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


@checked(
    OURS,
    f"on {len(ARCHITECTURES) * len(DTYPES)} models (784-128-10 among them) in float64, float32 and bfloat16, with "
    "random bits",
)
def one_vector() -> str:
    """parameters laid in one vector keep their bits, and the vector's gradient is that of every parameter."""
    for architecture, (dtype, integer) in itertools.product(ARCHITECTURES, DTYPES.items()):
        where = f"sizes {architecture['sizes']}, {dtype}"
        model = MLP(**architecture, dtype=dtype)
        parameters.unflatten_parameters(
            _any_bits(sum(p.numel() for p in model.parameters()), dtype, 0).view(dtype), model
        )
        before = [p.detach().clone().view(integer) for p in model.parameters()]
        flat = parameters.FlatParameters(model)
        given = [_any_bits(p.numel(), dtype, n + 1).view(p.shape) for n, p in enumerate(before)]
        flat.gradients_to_vector(g.view(dtype) for g in given)
        found = zip(model.named_parameters(), flat.layout, before, given, strict=True)
        for (name, p), slot, old, gradient in found:
            last = tuple(size - 1 for size in p.shape)
            places = range(slot.offset, slot.offset + p.numel())
            place = next(i for i in places if slot.where(i - slot.offset) == last)
            assert p.grad is not None
            for what, one, other in (
                ("a parameter", p.detach(), old),
                ("a gradient", p.grad, gradient),
                ("its place in the vector", flat.gradient[place], gradient[last]),
            ):
                if not torch.equal(one.contiguous().view(integer), other):
                    raise Refuted(f"{what} is another one in the vector", f"{name}, {where}")
    return "compared as bits, with the places that the layout names"


@checked("flattenParams", "on all 101,770 places of 784-128-10, which is all there are", rests_on=(rests_on.TORCH,))
def layout() -> str:
    """parameter i of the vector of 101,770 is the one LEAN_mnist has there."""
    model = MLP((784, 128, 10), dtype=torch.float64)
    parameters.unflatten_parameters(torch.arange(101_770, dtype=torch.float64), model)
    slots = {slot.name: slot.offset for slot in parameters.parameter_layout(model)}
    if slots != LAYOUT:
        raise Refuted("the layout differs", f"{slots} instead of {LAYOUT}")
    for name, parameter in model.named_parameters():
        places = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
        if not torch.equal(parameter.detach(), LAYOUT[name] + places):
            raise Refuted("a parameter is not stored row by row at its offset", name)
    return "W1 at 0, b1 at 100,352, W2 at 100,480, b2 at 101,760"
