"""Comparison of an engine's step with its specification: the chain rule's own lines, operation by operation.

Each operation is given what the engine's tape says it was given, in float64, so that what differs is what the engine
computed there; nothing that came before can flip a kink.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lean_mnist.chainrule import dense, losses
from lean_mnist.chainrule.activations import activation_named
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.nn.engine.structures import BLOCK, UpdateRule, address
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.step import Layers, StepResult
from lean_mnist.nn.update import SGD, Update

_ROUNDINGS = 8.0  # standard deviations of a sum's rounding, as a random walk
_ULPS = 64.0  # of an elementwise function


@torch.no_grad()
def first_difference(result: StepResult, layers: Layers, model: MLP) -> str:
    """The first value of a step of one batch that is not what the chain rule gives, in words; empty if all are."""
    for what, ours, expected, allowed in _compared(result, layers, model):
        if found := _difference(what, ours, expected, allowed):
            return found
        if not bool(ours.isfinite().all()):  # too large for float32: nothing is expected of what follows
            return ""
    return ""


def _difference(what: str, ours: Tensor, expected: Tensor, allowed: Tensor, rule: str = "the chain rule") -> str:
    error, limits = (ours.double() - expected).abs(), torch.finfo(torch.float32)
    overflows = ~(torch.maximum(expected.abs(), allowed / limits.eps) <= limits.max) & ~ours.isfinite()
    wrong = ~(error <= allowed) & ~overflows  # NaN is, but of what float32 does not hold
    if not bool(wrong.any()):
        return ""
    worst = float((error / allowed)[wrong].nan_to_num(nan=math.inf).amax())
    return f"{what} differs from {rule} by {worst:.3g} times what rounding explains"


@torch.no_grad()
def update_difference(apply: Callable[[UpdateRule, float], None], rule: UpdateRule | None, update: Update) -> str:
    """As :func:`first_difference`, of what ``apply`` makes of any numbers by ``rule``, and ``update`` of them."""
    if rule is None or not isinstance(update.optimizer, SGD):
        return ""  # it is not made in C
    size, rate, settings, clip = min(rule.size, 3 * BLOCK + 5), 0.1, update.optimizer.rule, update.clip_norm
    generator, unit = torch.Generator().manual_seed(0), torch.finfo(torch.float32).eps / 2
    for length in (1.0,) if clip is None else (clip / 2, 2 * clip):
        drawn = [torch.randn(size, generator=generator) for _ in range(3)]
        drawn[1] *= length / drawn[1].norm()
        exact = SGD(
            [nn.Parameter(drawn[0].double())],
            rate,
            settings["momentum"],
            settings["nesterov"],
            settings["weight_decay"],
        )
        (vector,) = exact.param_groups[0]["params"]
        vector.grad, momentum = drawn[1].double(), drawn[2:] if settings["momentum"] else []
        exact.momentum = [values.double() for values in momentum]
        sizes = drawn[0].abs(), drawn[1].abs() + settings["momentum"] * drawn[2].abs()
        wide = sizes[1] + settings["weight_decay"] * sizes[0]
        own = UpdateRule.from_buffer_copy(rule)
        own.parameters, own.gradient, own.size, own.sums = address(drawn[0]), address(drawn[1]), size, None
        own.momentum = address(momentum[0]) if momentum else None
        apply(own, rate)
        Update(nn.ParameterList([vector]), exact, clip).apply(rate)
        compared = [
            ("an updated parameter", drawn[0], vector.detach(), 2 * unit * sizes[0] + rate * _ULPS * unit * wide)
        ]
        compared += [("momentum", values, exact.momentum[0], _ULPS * unit * wide) for values in momentum]
        for what, ours, expected, allowed in compared:
            if found := _difference(what, ours, expected, allowed, "the update as it is written"):
                return found
    return ""


def _compared(result: StepResult, layers: Layers, model: MLP) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Values in the order in which they are computed: name, ours, the chain rule's, the largest error of each."""
    (tape,), unit = result.tapes, torch.finfo(result.loss.dtype).eps / 2
    activation = activation_named(model.activation)
    wide = [(weight.detach().double(), None if bias is None else bias.detach().double()) for weight, bias in layers]
    inputs = [h.double() for h in tape.inputs]
    saved = []
    for i, (weight, bias) in enumerate(wide):
        z, _ = dense.dense_forward(inputs[i], weight, bias)
        sizes = _product_size(inputs[i], weight.T) + (0 if bias is None else bias.abs())
        yield f"the output of layer {i}", tape.pre_activations[i], z, sizes * unit
        if i + 1 < len(wide):
            ours = tape.pre_activations[i].double()
            h, kept = activation.forward(ours)
            yield f"the activation after layer {i}", tape.inputs[i + 1], h, _elementwise(h.abs() + ours.abs(), unit)
            saved.append(kept)
    loss, examples = softmax_cross_entropy(model.label_smoothing, model.logit_penalty), len(tape.labels_B)
    logits = tape.pre_activations[-1].double()
    loss_B, loss_tape = loss.forward(logits, tape.labels_B)
    size = 1 + logits.abs().amax(1) + model.logit_penalty * logits.square().sum(1)
    assert tape.loss_B is not None
    yield "the loss of an example", tape.loss_B, loss_B, _elementwise(size, unit)
    mean = losses.mean_forward(loss_B)
    yield "the mean loss", result.loss, mean, _elementwise(size.amax(), unit)
    d_logits = loss.backward(loss_tape, losses.mean_backward(loss_B, torch.ones_like(mean)))
    size = (1 + model.logit_penalty * logits.abs() + logits.abs().amax(1, keepdim=True) * 0.1) / examples
    yield "the gradient of the logits", _there(tape.d_pre_activations, -1), d_logits, _elementwise(size, unit)
    for i in reversed(range(len(wide))):
        d_z = _there(tape.d_pre_activations, i).double()
        found = dense.dense_backward(dense.DenseTape(inputs[i], wide[i][0]), d_z)
        d_weight, d_bias = result.gradients[i]
        assert d_weight is not None
        assert found.weight_HD is not None
        assert found.x_BD is not None
        yield (
            f"the gradient of the weight of layer {i}",
            d_weight,
            found.weight_HD,
            _product_size(d_z.T, inputs[i]) * unit,
        )
        if d_bias is not None:
            assert found.bias_H is not None
            ones = torch.ones(len(d_z), 1, dtype=d_z.dtype)
            yield (
                f"the gradient of the bias of layer {i}",
                d_bias,
                found.bias_H,
                _product_size(d_z.T, ones)[:, 0] * unit,
            )
        if i:
            d_h = _there(tape.d_inputs, i)
            yield f"the gradient of the input of layer {i}", d_h, found.x_BD, _product_size(d_z, wide[i][0]) * unit
            d_below = activation.backward(saved[i - 1], d_h.double())
            ours = _there(tape.d_pre_activations, i - 1)
            yield f"the gradient of the output of layer {i - 1}", ours, d_below, _elementwise(d_h.double().abs(), unit)


def _there(values: Sequence[Tensor | None], index: int) -> Tensor:
    found = values[index]
    assert found is not None
    return found


def _product_size(left: Tensor, right: Tensor) -> Tensor:
    """Units of rounding that each element of ``left @ right`` may be off by."""
    walk = _ROUNDINGS * math.sqrt(left.shape[1] + 2)
    return torch.outer(left.norm(dim=1) * walk, right.norm(dim=0)).add_(1e4 * torch.finfo(torch.float32).tiny)


def _elementwise(size: Tensor, unit: float) -> Tensor:
    return size * (_ULPS * unit) + 1e4 * torch.finfo(torch.float32).tiny
