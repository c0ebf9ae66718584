"""Cases for the tests of ``lean_mnist.nn``: each function of ours beside what plain PyTorch says it should be.

A case's two functions take the same tensors, those that get gradients; labels and options are in the case.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from lean_mnist.chainrule.losses import softmax_cross_entropy, squared_error
from lean_mnist.nn import functional
from tests.support.activations import TORCH_ACTIVATIONS

LAYOUTS = ("contiguous", "transposed", "strided", "expanded")
SHAPES = {  # (batch, features, units or classes): the layouts to try
    (5, 123, 17): LAYOUTS,
    (1, 4, 3): ("contiguous", "expanded"),
    (1, 1, 1): ("contiguous",),
    (0, 4, 3): ("contiguous", "transposed"),
}
REDUCTIONS = ("mean", "sum", "none")


class Case(NamedTuple):
    ours: Any
    torchs: Any
    shapes: Any  # (B, D, H) -> the shapes of the tensors that get gradients


def randn(
    generator: torch.Generator, shape: tuple[int, ...], layout: str = "contiguous", dtype: torch.dtype = torch.float64
) -> Any:
    """Normal numbers in the given memory layout."""

    def normal(*size: int) -> Any:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    if not shape or layout == "contiguous":
        return normal(*shape)
    if layout == "transposed":
        return normal(*reversed(shape)).permute(*reversed(range(len(shape))))
    if layout == "strided":
        return normal(*(2 * size for size in shape))[tuple(slice(None, None, 2) for _ in shape)]
    return normal(1, *shape[1:]).expand(*shape)


def labels_for(batch: int, classes: int) -> Any:
    return torch.arange(batch) * 7 % classes


def plain_mlp(x: Any, parameters: Any, name: str = "relu", bias: bool = True) -> Any:
    layers = list(zip(parameters[::2], parameters[1::2], strict=True)) if bias else [(w, None) for w in parameters]
    for weight, b in layers[:-1]:
        x = TORCH_ACTIVATIONS[name](F.linear(x, weight, b))
    return F.linear(x, *layers[-1])


def _layers(parameters: Any, bias: bool) -> Any:
    return list(zip(parameters[::2], parameters[1::2], strict=True)) if bias else [(w, None) for w in parameters]


def _widths(shape: tuple[int, ...], depth: int) -> Any:
    _, features, classes = shape
    return [features, *(6 - n for n in range(depth - 1)), classes]


def _mlp_shapes(shape: tuple[int, ...], depth: int = 2, bias: bool = True) -> Any:
    shapes = [shape[:2]]
    for before, after in pairwise(_widths(shape, depth)):
        shapes += [(after, before), (after,)] if bias else [(after, before)]
    return shapes


def _our_mlp(x: Any, *parameters: Any, name: str = "relu", bias: bool = True) -> Any:
    return functional.mlp(x, _layers(parameters, bias), name)


def _torch_mlp(x: Any, *parameters: Any, name: str = "relu", bias: bool = True) -> Any:
    return plain_mlp(x, parameters, name, bias)


def _our_loss(
    x: Any, *parameters: Any, name: str = "relu", bias: bool = True, reduction: str = "mean", loss: Any = None
) -> Any:
    labels = labels_for(len(x), parameters[-2 if bias else -1].shape[0])
    options = {} if loss is None else {"loss": loss}
    return functional.mlp_loss(x, labels, _layers(parameters, bias), name, reduction=reduction, **options)


def plain_cross_entropy(s: Any, smoothing: float = 0.0, penalty: float = 0.0, reduction: str = "mean") -> Any:
    losses = F.cross_entropy(s, labels_for(*s.shape), reduction="none", label_smoothing=smoothing)
    return plain_reduce(losses + penalty / 2 * s.square().sum(1), reduction)


def plain_squared_error(s: Any, reduction: str = "mean") -> Any:
    return plain_reduce((s - F.one_hot(labels_for(*s.shape), s.shape[1])).square().sum(1) / 2, reduction)


def plain_reduce(losses: Any, reduction: str) -> Any:
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def _torch_loss(
    x: Any,
    *parameters: Any,
    name: str = "relu",
    bias: bool = True,
    reduction: str = "mean",
    outer: Any = plain_cross_entropy,
) -> Any:
    return outer(plain_mlp(x, parameters, name, bias), reduction=reduction)


def _our_cross_entropy(s: Any, smoothing: float = 0.0, penalty: float = 0.0, reduction: str = "mean") -> Any:
    return functional.cross_entropy(s, labels_for(*s.shape), smoothing, penalty, reduction)


CASES = {
    "dense": Case(functional.dense, F.linear, lambda s: [(s[0], s[1]), (s[2], s[1]), (s[2],)]),
    "dense without bias": Case(functional.dense, F.linear, lambda s: [(s[0], s[1]), (s[2], s[1])]),
    "softmax": Case(functional.softmax, partial(torch.softmax, dim=1), lambda s: [(s[0], s[2])]),
}
for _name, _activation in TORCH_ACTIVATIONS.items():
    CASES[_name] = Case(partial(functional.activate, activation=_name), _activation, lambda s: [s])
    CASES[f"mlp, {_name}"] = Case(partial(_our_mlp, name=_name), partial(_torch_mlp, name=_name), _mlp_shapes)
    CASES[f"mlp loss, {_name}"] = Case(partial(_our_loss, name=_name), partial(_torch_loss, name=_name), _mlp_shapes)
for _reduction in REDUCTIONS:
    for _smoothing, _penalty in ((0.0, 0.0), (0.1, 0.0), (0.3, 0.2), (1.0, 0.0)):
        _options: dict[str, Any] = {"smoothing": _smoothing, "penalty": _penalty, "reduction": _reduction}
        CASES[f"cross-entropy {_smoothing} {_penalty} {_reduction}"] = Case(
            partial(_our_cross_entropy, **_options),
            partial(plain_cross_entropy, **_options),
            lambda s: [(s[0], s[2])],
        )
    CASES[f"mlp loss {_reduction}"] = Case(
        partial(_our_loss, name="tanh", reduction=_reduction),
        partial(_torch_loss, name="tanh", reduction=_reduction),
        _mlp_shapes,
    )
    CASES[f"mlp loss {_reduction}, smoothed and penalised"] = Case(
        partial(_our_loss, name="gelu", reduction=_reduction, loss=softmax_cross_entropy(0.1, 0.3)),
        partial(
            _torch_loss,
            name="gelu",
            reduction=_reduction,
            outer=partial(plain_cross_entropy, smoothing=0.1, penalty=0.3),
        ),
        _mlp_shapes,
    )
    CASES[f"mlp loss {_reduction}, squared error"] = Case(
        partial(_our_loss, name="tanh", reduction=_reduction, loss=squared_error()),
        partial(_torch_loss, name="tanh", reduction=_reduction, outer=plain_squared_error),
        _mlp_shapes,
    )
for _depth in (1, 3, 4):
    for _bias in (True, False):
        _key, _shapes = f"depth {_depth}, bias {_bias}", partial(_mlp_shapes, depth=_depth, bias=_bias)
        CASES[f"mlp, {_key}"] = Case(partial(_our_mlp, bias=_bias), partial(_torch_mlp, bias=_bias), _shapes)
        CASES[f"mlp loss, {_key}"] = Case(partial(_our_loss, bias=_bias), partial(_torch_loss, bias=_bias), _shapes)
