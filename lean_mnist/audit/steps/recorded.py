"""Steps as they were computed, put together for a diagnosis: the trainer's own, and gradcheck's piece of one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from lean_mnist.audit.reference import NetworkLoss
from lean_mnist.audit.steps.diagnosis import StepFault, first_fault
from lean_mnist.audit.steps.record import Call, Layers, Step, StepRun, names_of_layers
from lean_mnist.audit.subproblem import UPSTREAM, cut_subproblem
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.chainrule.mlp import MLPTrace
from lean_mnist.nn import MLP, functional

Batch = tuple[Tensor, Tensor]


def names_of(model: MLP) -> list[tuple[str, str | None]]:
    """The names of each layer's weight and bias."""
    return names_of_layers(model.weights_and_biases())


def layers_of(model: MLP) -> list[tuple[Tensor, Tensor | None]]:
    """Each layer's weight and bias as the network multiplies by them, without a graph.

    They require gradients where the parameters do, so that it is known which gradients a step must have given.
    """
    bare = [(w.detach(), None if b is None else b.detach()) for w, b in model.weights_and_biases()]
    for tensors, parameters in zip(bare, model.parameter_pairs(), strict=True):
        for tensor, parameter in zip(tensors, parameters, strict=True):
            if tensor is not None and parameter is not None:
                tensor.requires_grad_(parameter.requires_grad)
    return bare


def gradients_of(model: MLP) -> list[tuple[Tensor | None, Tensor | None]]:
    """What stands in ``.grad`` of each layer's parameters.

    That is the gradient at the weights of ``layers_of``, also where a network makes these from its parameters by
    rounding them (straight-through).
    """
    return [(weight.grad, None if bias is None else bias.grad) for weight, bias in model.parameter_pairs()]


def shares_of(batches: Sequence[Batch]) -> list[float]:
    """The part of all examples that each batch has, which is the upstream gradient of its mean loss."""
    total = sum(len(labels) for _, labels in batches)
    return [len(labels) / max(1, total) for _, labels in batches]


def calls_of(batches: Sequence[Batch], traces: Sequence[MLPTrace]) -> list[Call]:
    """The calls that a step made, one a batch."""
    return [
        Call(trace, labels, share)
        for (_, labels), trace, share in zip(batches, traces, shares_of(batches), strict=True)
    ]


def _places(pairs: Sequence[tuple[Parameter, Parameter | None]]) -> list[tuple[Tensor, Tensor | None]] | None:
    """The tensors in ``.grad``; ``None`` if there are none."""
    if pairs[0][0].grad is None:
        return None
    return [(w.grad, None if b is None else b.grad) for w, b in pairs]  # type: ignore[misc]  # all of them or none


def put_gradients(model: MLP, batches: Sequence[Batch], traces: Sequence[MLPTrace] = ()) -> Tensor:
    """Put the gradient of the mean loss over all examples of ``batches`` into ``.grad``; returns that loss.

    Tensors that stand in ``.grad`` are written over, all of them or none. A trace a batch, if given, is filled.
    """
    mean: Tensor | float = 0.0
    pairs = model.parameter_pairs()
    places = _places(pairs)
    for index, ((x, labels), trace, share) in enumerate(itertools.zip_longest(batches, traces, shares_of(batches))):
        loss, gradients = model.loss_and_gradients(x, labels, share, trace, None if index else places)
        mean = loss if share == 1 else mean + share * loss
        for pair, found in zip(pairs, gradients, strict=True):
            for parameter, gradient in zip(pair, found, strict=True):
                if parameter is None or gradient is None:
                    continue
                if index:
                    assert parameter.grad is not None
                    parameter.grad += gradient
                elif places is None:
                    parameter.grad = gradient
    assert isinstance(mean, Tensor)
    return mean


@torch.enable_grad()
def run_again(model: MLP, batches: Sequence[Batch]) -> StepRun:
    """The same step once more; what stands in ``.grad`` stays there."""
    parameters = list(model.parameters())
    kept = [p.grad for p in parameters]
    traces = [MLPTrace() for _ in batches]
    try:
        for p in parameters:
            p.grad = None
        put_gradients(model, batches, traces)
        gradients = gradients_of(model)
    finally:
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient
    return StepRun(gradients, traces)


def recorded_step(
    model: MLP, loss: NetworkLoss, batches: Sequence[Batch], traces: Sequence[MLPTrace], past: Sequence[Call] = ()
) -> Step:
    """The step whose gradients are in ``.grad`` and whose traces are ``traces``."""
    return Step(
        loss=loss,
        names=names_of(model),
        layers=layers_of(model),
        gradients=gradients_of(model),
        calls=calls_of(batches, traces),
        past=past,
        again=lambda: run_again(model, batches),
    )


def explain_gradcheck(loss: NetworkLoss, layers: Layers, x_BD: Tensor, labels_B: Tensor) -> StepFault | None:
    """What is wrong with the piece that gradcheck was run on; ``None`` if nothing can be told.

    The piece is called as gradcheck calls it, with an upstream gradient that is not 1, and after two other calls, so
    that what is left over from those shows.
    """
    piece = cut_subproblem(loss, layers, x_BD, labels_B)
    if piece is None:
        return None
    x, labels, cut = piece
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor) -> Tensor:
        return tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device))

    past = []
    for _ in range(2):
        other = [(moved(weight), None if bias is None else moved(bias)) for weight, bias in cut]
        turned = labels.roll(1)
        _, trace = _call(loss, other, moved(x), turned)
        past.append(Call(trace, turned, UPSTREAM, other))
    gradients, trace = _call(loss, cut, x, labels)

    def again() -> StepRun:
        found, traced = _call(loss, cut, x, labels)
        return StepRun(found, [traced])

    return first_fault(Step(loss, names_of_layers(cut), cut, gradients, [Call(trace, labels, UPSTREAM)], past, again))


@torch.enable_grad()
def _call(
    loss: NetworkLoss, layers: Layers, x: Tensor, labels: Tensor
) -> tuple[list[tuple[Tensor | None, Tensor | None]], MLPTrace]:
    own = [(w.detach().requires_grad_(), None if b is None else b.detach().requires_grad_()) for w, b in layers]
    wanted = [p for layer in own for p in layer if p is not None]
    trace, rule = MLPTrace(), softmax_cross_entropy(loss.label_smoothing, loss.logit_penalty)
    value = functional.mlp_loss(x.detach().requires_grad_(), labels, own, loss.activation, rule, "mean", trace)
    found = iter(torch.autograd.grad(value, wanted, torch.full_like(value, UPSTREAM)))
    gradients: list[tuple[Tensor | None, Tensor | None]] = [
        (next(found), None if b is None else next(found)) for _, b in own
    ]
    return gradients, trace
