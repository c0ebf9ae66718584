"""When a fault shows: each condition with a situation in which it holds and one in which it does not.

A situation is a few calls of our own network, small and in float64, so that what a fault changes there is the fault
itself and not rounding; :func:`observe` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lean_mnist.nn import MLP, functional


@dataclass(frozen=True)
class Network:
    """The network that a situation, or a training run, is about."""

    sizes: tuple[int, ...] = (24, 16, 8)
    activation: str = "relu"
    bias: bool = True
    label_smoothing: float = 0.0
    logit_penalty: float = 0.0

    def build(self, seed: int, dtype: torch.dtype) -> MLP:
        return MLP(
            self.sizes,
            self.activation,
            bias=self.bias,
            seed=seed,
            dtype=dtype,
            label_smoothing=self.label_smoothing,
            logit_penalty=self.logit_penalty,
        )


@dataclass(frozen=True)
class Situation:
    """Calls of a network: on batches of these sizes, with this upstream gradient, used in this way."""

    network: Network = Network()
    batches: tuple[int, ...] = (32,)
    use: str = "loss"  # see the functions below
    upstream: float = 1.0
    scale: float = 1.0  # of the inputs
    dtype: torch.dtype = torch.float64
    prepare: Callable[[MLP], None] = field(default=lambda model: None)
    first_label: int = 0
    own_labels: bool = False  # the labels are what the network says already
    steps: bool = False  # move the weights between calls
    input_gradient: bool = False


@dataclass(frozen=True)
class Condition:
    """``holds`` and ``fails`` are situations; ``fails`` is ``None`` for what always holds.

    ``network`` is trained in the self-test; ``training`` is false for what no training step shows.
    """

    name: str
    holds: Situation = Situation()
    fails: Situation | None = Situation()
    network: Network = Network(sizes=(64, 128, 128, 60, 10))
    training: bool = True
    dtype: torch.dtype = torch.float32  # of the training run


def _first_unit(bias: float) -> Callable[[MLP], None]:
    """Its pre-activation is ``bias``, whatever the input: 0 is what pruning leaves."""

    @torch.no_grad()
    def prepare(model: MLP) -> None:
        weight, its_bias = model.weights_and_biases()[0]
        assert its_bias is not None
        weight[0], its_bias[0] = 0, bias

    return prepare


@torch.no_grad()
def _no_bias_yet(model: MLP) -> None:
    for _, bias in model.weights_and_biases():
        if bias is not None:
            bias.zero_()


def _freeze_bias(model: MLP) -> None:
    _, bias = model.weights_and_biases()[0]
    assert bias is not None
    bias.requires_grad_(False)


def _sizes(*sizes: int, **more: Any) -> Situation:
    return Situation(Network(sizes=sizes), **more)


_BASE, _TWO = Situation(), Situation(batches=(32, 32))
_LOGITS = Situation(use="logits")
_DEEP = Network(sizes=(64, 128, 128, 60, 10))


def _activation(name: str) -> Condition:
    network = Network(activation=name)
    return Condition(f"activation {name}", Situation(network), _BASE, replace(_DEEP, activation=name))


def _contract(name: str, holds: Situation, fails: Situation | None = _LOGITS) -> Condition:
    return Condition(name, holds, fails, training=False)


CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition("always", _BASE, None),
        Condition("at random", Situation(batches=(32,) * 60), None),
        Condition("first call", _BASE, None),
        Condition("second call", _TWO, _BASE),
        Condition("second step", Situation(batches=(32, 32), steps=True), _BASE),
        Condition("third call", Situation(batches=(32, 32, 32)), _TWO),
        Condition("every 50th call", Situation(batches=(32,) * 50), Situation(batches=(32,) * 20)),
        Condition("after 200 calls", Situation(batches=(32,) * 110), Situation(batches=(32,) * 50)),
        Condition("upstream != 1", Situation(upstream=0.7)),
        Condition("upstream > 1", Situation(upstream=1.7), Situation(upstream=0.7)),
        Condition("accumulated batches", Situation(batches=(32, 32), use="accumulated"), _TWO),
        Condition("ragged batch", Situation(batches=(32, 16)), _TWO),
        Condition("batch not divisible by 16", Situation(batches=(20,))),
        Condition("activations not a multiple of 256", Situation(batches=(20,))),
        Condition("batch = width", Situation(batches=(16,))),
        Condition("width >= 128", _sizes(24, 128, 8)),
        Condition("width not divisible by 8", _sizes(24, 12, 8)),
        Condition("square weight", _sizes(24, 16, 16, 8)),
        Condition("layers of one shape", _sizes(24, 16, 16, 16, 8), network=Network(sizes=(64, 96, 96, 96, 10))),
        Condition("depth >= 3", _sizes(24, 16, 32, 8)),
        Condition("classes > 32", _sizes(24, 16, 40), network=Network(sizes=(64, 128, 40))),
        Condition("no bias", Situation(Network(bias=False)), network=replace(_DEEP, bias=False)),
        Condition("label smoothing", Situation(Network(label_smoothing=0.1)),
                  network=replace(_DEEP, label_smoothing=0.1)),
        Condition("logit penalty", Situation(Network(logit_penalty=0.01)), network=replace(_DEEP, logit_penalty=0.01)),
        _activation("leaky-relu"),
        _activation("sigmoid"),
        _activation("tanh"),
        _activation("gelu"),
        Condition("exact kink", Situation(prepare=_first_unit(0.0))),
        Condition("pre-activation in (0, 0.001]", Situation(prepare=_first_unit(5e-4))),
        Condition("bias != 0", _BASE, Situation(prepare=_no_bias_yet)),
        Condition("pre-activation > 6", Situation(scale=100.0), Situation(scale=0.5)),
        Condition("pre-activation > 20", Situation(scale=100.0)),
        Condition("logit > 89", Situation(scale=1000.0), Situation()),
        Condition("late in training", Situation(scale=4.0, own_labels=True), Situation(scale=0.1)),
        Condition("loss < 0.05", Situation(scale=20.0, own_labels=True)),
        Condition("gradient norm > 1", Situation(upstream=1000.0)),
        Condition("label 0 present", _BASE, Situation(first_label=1)),
        Condition("float32", Situation(dtype=torch.float32)),
        Condition("float64", _BASE, Situation(dtype=torch.float32), dtype=torch.float64),
        Condition("features divisible by 64", _sizes(64, 16, 8)),
        _contract("input needs gradient", Situation(input_gradient=True), _BASE),
        _contract("frozen parameter", Situation(prepare=_freeze_bias), _BASE),
        _contract("input of one row", Situation(batches=(1,), input_gradient=True), Situation(input_gradient=True)),
        _contract("more than 128 columns", _sizes(24, 200, 8)),
        _contract("more than 3 axes", Situation(use="four axes"), Situation(use="two axes")),
        _contract("upstream varies", _LOGITS, _BASE),
        _contract("upstream varies by example", Situation(use="losses"), _BASE),
        _contract("upstream rows not divisible by 16", Situation(batches=(20,), use="logits")),
        _contract("upstream < 1e-6", Situation(upstream=1e-9), _BASE),
        _contract("earlier gradients used again", Situation(batches=(32, 32), use="kept"), _TWO),
        _contract("upstream used again", Situation(use="upstream again")),
        _contract("saved tensors used again", Situation(use="backward again")),
        _contract("transposed upstream", Situation(use="transposed")),
        _contract("expanded upstream", Situation(use="expanded")),
        _contract("after torch.cat", Situation(use="columns of cat")),
        _contract("upstream inside a larger tensor", Situation(use="rows of cat")),
        _contract("upstream = 0", Situation(use="zero")),
        _contract("double backward", Situation(use="double backward")),
        _contract("autocast", Situation(use="autocast")),
        _contract("empty batch", Situation(batches=(0,), use="logits")),
    )
}  # fmt: skip


def observe(situation: Situation, seed: int = 0) -> list[Tensor]:
    """Everything that the calls of ``situation`` let their caller see of the backward, call by call."""
    generator = torch.Generator().manual_seed(seed)
    model = situation.network.build(seed, situation.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    situation.prepare(model)
    seen: list[Tensor] = []
    for size in situation.batches:
        x = situation.scale * torch.randn(size, model.sizes[0], generator=generator, dtype=torch.float64)
        x = x.to(situation.dtype).requires_grad_(situation.input_gradient)
        labels = torch.randint(situation.first_label, model.sizes[-1], (size,), generator=generator)
        if situation.first_label == 0 and size:
            labels[0] = 0
        if situation.own_labels:
            labels = model(x).argmax(1)
        wanted = [p for p in (x, *model.parameters()) if p.requires_grad]
        found = _USES[situation.use](situation, model, x, labels, wanted, generator)
        seen += found if situation.use == "kept" else [g.detach().clone() for g in found]
        if situation.steps:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
    return seen


def _loss(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    loss = model.loss(x, labels)
    return list(torch.autograd.grad(loss, wanted, torch.full_like(loss, situation.upstream)))


def _accumulated(
    situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any
) -> list[Tensor]:
    model.loss(x, labels).backward()
    return [parameter.grad for parameter in wanted]


def _losses(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    losses = model.loss(x, labels, reduction="none")
    upstream = torch.randn(losses.shape, generator=generator, dtype=torch.float64).to(losses.dtype)
    return list(torch.autograd.grad(losses, wanted, upstream))


def _logits(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    logits = model(x)
    g = torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits.dtype)
    use = situation.use
    if use == "transposed":
        g = g.T.contiguous().T
    elif use == "expanded":
        g = g[0, 0].expand(g.shape)
    elif use == "zero":
        g = torch.zeros_like(g)
    elif use in ("columns of cat", "rows of cat"):
        axis = 1 if use == "columns of cat" else 0
        logits, g = torch.cat([torch.ones_like(logits), logits], axis), torch.cat([g.flip(0), g], axis)
    found = torch.autograd.grad(logits, wanted, g)
    return [*found, g] if use == "upstream again" else list(found)


def _again(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    logits, loss = model(x), model.loss(x, labels)
    g = torch.randn(logits.shape, generator=generator, dtype=torch.float64).to(logits.dtype)
    for _ in range(2):
        found = [*torch.autograd.grad(loss, wanted, retain_graph=True)]
        found += torch.autograd.grad(logits, wanted, g, retain_graph=True)
    return found


def _autocast(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return _loss(situation, model, x, labels, wanted, generator)


def _double(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
    first = torch.autograd.grad(model.loss(x, labels), wanted, create_graph=True)
    penalty = sum((g * g).sum() for g in first)
    assert isinstance(penalty, Tensor)
    return list(torch.autograd.grad(penalty, wanted, allow_unused=True, materialize_grads=True))


def _axes(count: int) -> Any:
    def use(situation: Situation, model: MLP, x: Tensor, labels: Tensor, wanted: Any, generator: Any) -> list[Tensor]:
        shape = (4,) * count
        z = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        g = torch.randn(shape, generator=generator, dtype=torch.float64)
        return list(torch.autograd.grad(functional.activate(z, model.activation), z, g))

    return use


_USES: dict[str, Any] = {
    "loss": _loss,
    "kept": _loss,
    "backward again": _again,
    "accumulated": _accumulated,
    "losses": _losses,
    "autocast": _autocast,
    "double backward": _double,
    "two axes": _axes(2),
    "four axes": _axes(4),
    **dict.fromkeys(
        ("logits", "upstream again", "transposed", "expanded", "zero", "columns of cat", "rows of cat"),
        _logits,
    ),
}
