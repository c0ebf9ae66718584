"""Situations in which the conditions of the corpus hold, and others in which they do not.

A situation is a few calls of our own network, small and in float64, so that what a fault changes there is the fault
itself and not rounding; :func:`observe` runs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lean_mnist.chainrule.activations import ACTIVATIONS
from lean_mnist.mutants.situations import NetworkSpec
from lean_mnist.nn import MLP, functional

SMALL = NetworkSpec(sizes=(24, 16, 8))


@dataclass(frozen=True)
class Situation:
    """Calls of a network: on batches of these sizes, with this upstream gradient, used in this way."""

    network: NetworkSpec = SMALL
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


BASE, TWO, LOGITS = Situation(), Situation(batches=(32, 32)), Situation(use="logits")

SITUATIONS: dict[str, tuple[Situation, Situation | None]] = {
    "always": (BASE, None),
    "at random": (Situation(batches=(32,) * 60), None),
    "first call": (BASE, None),
    "second call": (TWO, BASE),
    "second step": (Situation(batches=(32, 32), steps=True), BASE),
    "third call": (Situation(batches=(32, 32, 32)), TWO),
    "every 50th call": (Situation(batches=(32,) * 50), Situation(batches=(32,) * 20)),
    "after 200 calls": (Situation(batches=(32,) * 110), Situation(batches=(32,) * 50)),
    "upstream != 1": (Situation(upstream=0.7), BASE),
    "upstream > 1": (Situation(upstream=1.7), Situation(upstream=0.7)),
    "accumulated batches": (Situation(batches=(32, 32), use="accumulated"), Situation(batches=(32, 32), steps=True)),
    "ragged batch": (Situation(batches=(32, 16)), TWO),
    "batch not divisible by 16": (Situation(batches=(20,)), BASE),
    "activations not a multiple of 256": (Situation(batches=(20,)), BASE),
    "batch = width": (Situation(batches=(16,)), BASE),
    "width >= 128": (Situation(replace(SMALL, sizes=(24, 128, 8))), BASE),
    "width not divisible by 8": (Situation(replace(SMALL, sizes=(24, 12, 8))), BASE),
    "square weight": (Situation(replace(SMALL, sizes=(24, 16, 16, 8))), BASE),
    "layers of one shape": (Situation(replace(SMALL, sizes=(24, 16, 16, 16, 8))), BASE),
    "depth >= 3": (Situation(replace(SMALL, sizes=(24, 16, 32, 8))), BASE),
    "classes > 32": (Situation(replace(SMALL, sizes=(24, 16, 40))), BASE),
    "no bias": (Situation(replace(SMALL, bias=False)), BASE),
    "label smoothing": (Situation(replace(SMALL, label_smoothing=0.1)), BASE),
    "logit penalty": (Situation(replace(SMALL, logit_penalty=0.01)), BASE),
    **{
        f"activation {name}": (Situation(replace(SMALL, activation=name)), BASE)
        for name in ACTIVATIONS
        if name != "relu"
    },
    "exact kink": (Situation(prepare=_first_unit(0.0)), BASE),
    "pre-activation in (0, 0.001]": (Situation(prepare=_first_unit(5e-4)), BASE),
    "bias != 0": (BASE, Situation(prepare=_no_bias_yet)),
    "pre-activation > 6": (Situation(scale=100.0), Situation(scale=0.5)),
    "pre-activation > 20": (Situation(scale=100.0), BASE),
    "logit > 89": (Situation(scale=1000.0), BASE),
    "late in training": (Situation(scale=4.0, own_labels=True), Situation(scale=0.1)),
    "loss < 0.05": (Situation(scale=20.0, own_labels=True), BASE),
    "gradient norm > 1": (Situation(upstream=1000.0), BASE),
    "label 0 present": (BASE, Situation(first_label=1)),
    "float32": (Situation(dtype=torch.float32), BASE),
    "float64": (BASE, Situation(dtype=torch.float32)),
    "features divisible by 64": (Situation(replace(SMALL, sizes=(64, 16, 8))), BASE),
    "input needs gradient": (Situation(input_gradient=True), BASE),
    "frozen parameter": (Situation(prepare=_freeze_bias), BASE),
    "input of one row": (Situation(batches=(1,), input_gradient=True), Situation(input_gradient=True)),
    "more than 128 columns": (Situation(replace(SMALL, sizes=(24, 200, 8))), LOGITS),
    "more than 3 axes": (Situation(use="four axes"), Situation(use="two axes")),
    "upstream varies": (LOGITS, BASE),
    "upstream varies by example": (Situation(use="losses"), BASE),
    "upstream rows not divisible by 16": (Situation(batches=(20,), use="logits"), LOGITS),
    "upstream < 1e-6": (Situation(upstream=1e-9), BASE),
    "earlier gradients used again": (Situation(batches=(32, 32), use="kept"), TWO),
    "upstream used again": (Situation(use="upstream again"), LOGITS),
    "saved tensors used again": (Situation(use="backward again"), LOGITS),
    "transposed upstream": (Situation(use="transposed"), LOGITS),
    "expanded upstream": (Situation(use="expanded"), LOGITS),
    "after torch.cat": (Situation(use="columns of cat"), LOGITS),
    "upstream inside a larger tensor": (Situation(use="rows of cat"), LOGITS),
    "upstream = 0": (Situation(use="zero"), LOGITS),
    "double backward": (Situation(use="double backward"), LOGITS),
    "autocast": (Situation(use="autocast"), LOGITS),
    "empty batch": (Situation(batches=(0,), use="logits"), LOGITS),
}
"""For each condition a situation in which it holds, and one in which it does not (``None`` for what always holds)."""


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
        found = _USES[situation.use](ModelCall(situation, model, x, labels, wanted, generator))
        seen += found if situation.use == "kept" else [g.detach().clone() for g in found]
        if situation.steps:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
    return seen


class ModelCall(NamedTuple):
    """A call of the network: its batch, the tensors whose gradients are wanted, a generator of upstream gradients."""

    situation: Situation
    model: MLP
    x: Tensor
    labels: Tensor
    wanted: Sequence[Tensor]
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Random numbers in float64."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def _loss(call: ModelCall) -> list[Tensor]:
    loss = call.model.loss(call.x, call.labels)
    return list(torch.autograd.grad(loss, call.wanted, torch.full_like(loss, call.situation.upstream)))


def _accumulated(call: ModelCall) -> list[Tensor]:
    call.model.loss(call.x, call.labels).backward()
    return [parameter.grad for parameter in call.wanted if parameter.grad is not None]


def _losses(call: ModelCall) -> list[Tensor]:
    losses = call.model.loss(call.x, call.labels, reduction="none")
    upstream = call.normal(*losses.shape).to(losses.dtype)
    return list(torch.autograd.grad(losses, call.wanted, upstream))


def _logits(call: ModelCall) -> list[Tensor]:
    logits = call.model(call.x)
    g = call.normal(*logits.shape).to(logits.dtype)
    use = call.situation.use
    if use == "transposed":
        g = g.T.contiguous().T
    elif use == "expanded":
        g = g[0, 0].expand(g.shape)
    elif use == "zero":
        g = torch.zeros_like(g)
    elif use in ("columns of cat", "rows of cat"):
        axis = 1 if use == "columns of cat" else 0
        logits, g = torch.cat([torch.ones_like(logits), logits], axis), torch.cat([g.flip(0), g], axis)
    found = torch.autograd.grad(logits, call.wanted, g)
    return [*found, g] if use == "upstream again" else list(found)


def _again(call: ModelCall) -> list[Tensor]:
    logits, loss = call.model(call.x), call.model.loss(call.x, call.labels)
    g = call.normal(*logits.shape).to(logits.dtype)
    for _ in range(2):
        found = [*torch.autograd.grad(loss, call.wanted, retain_graph=True)]
        found += torch.autograd.grad(logits, call.wanted, g, retain_graph=True)
    return found


def _autocast(call: ModelCall) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return _loss(call)


def _double(call: ModelCall) -> list[Tensor]:
    first = torch.autograd.grad(call.model.loss(call.x, call.labels), call.wanted, create_graph=True)
    penalty = sum((g * g).sum() for g in first)
    assert isinstance(penalty, Tensor)
    return list(torch.autograd.grad(penalty, call.wanted, allow_unused=True, materialize_grads=True))


def _axes(count: int) -> Callable[[ModelCall], list[Tensor]]:
    def use(call: ModelCall) -> list[Tensor]:
        shape = (4,) * count
        z = call.normal(*shape).requires_grad_()
        g = call.normal(*shape)
        return list(torch.autograd.grad(functional.activate(z, call.model.activation), z, g))

    return use


_USES: dict[str, Callable[[ModelCall], list[Tensor]]] = {
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
