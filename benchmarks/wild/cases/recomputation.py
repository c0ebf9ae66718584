"""Memory for time: checkpoints and reversible layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild.case import Call, Case, Expect, load, normal

_BACKWARD = {"gradients_from": "backward"}


def _layers(width: int, count: int = 2) -> list[nn.Module]:
    """Small right-hand sides, without gradients of their own."""
    return [nn.Sequential(nn.Linear(width, width), nn.Tanh()).requires_grad_(False) for _ in range(count)]


def _of(call: Callable[[list[nn.Module], Tensor], Any], reference: Callable[[list[nn.Module], Tensor], Any],
        *shape: int, **options: Any) -> Call:  # fmt: skip
    layers = _layers(shape[-1] // 2)

    def in_dtype(x: Tensor) -> list[nn.Module]:
        return [copy.deepcopy(layer).to(x.dtype) for layer in layers]

    return Call(lambda x: call(in_dtype(x), x), [normal(*shape)], lambda x: reference(in_dtype(x), x), options)


def _coupling(layers: list[nn.Module], x: Tensor, dim: int) -> Tensor:
    first, second = x.chunk(2, dim)
    first = first + layers[0](second)
    return torch.cat([first, second + layers[1](first)], dim)


def _reversible(package: str) -> Call:
    def call(layers: list[nn.Module], x: Tensor) -> Any:
        blocks = nn.ModuleList(
            [
                load(f"{package}.reversible:ReversibleBlock")(
                    *layers, *((0, False) if package == "reformer_pytorch" else ())
                )
            ]
        )
        empty: dict[str, Any] = {"f_args": {}, "g_args": {}}
        blocks.train()
        arguments = empty if package == "reformer_pytorch" else [empty]
        return load(f"{package}.reversible:_ReversibleFunction").apply(x, blocks, arguments)

    return _of(call, lambda layers, x: _coupling(layers, x, 2), 2, 3, 8)


def _memcnn(keep_input: bool, leaf: bool = False) -> Call:
    def call(layers: list[nn.Module], x: Tensor) -> Any:
        coupling = load("memcnn:AdditiveCoupling")(*layers)
        wrapper = load("memcnn:InvertibleModuleWrapper")(coupling, keep_input=keep_input, keep_input_inverse=True)
        return wrapper(x if leaf else x.clone())

    return _of(call, lambda layers, x: _coupling(layers, x, 1), 3, 8, **_BACKWARD)


def _additive() -> Call:
    def call(layers: list[nn.Module], x: Tensor) -> Any:
        weights = [w.requires_grad_() for layer in layers for w in layer.parameters()]
        return load("memcnn.models.additive:AdditiveBlockFunction").apply(x, *layers, *weights)

    return _of(call, lambda layers, x: _coupling(layers, x, 1), 3, 8)


def _revlib() -> Call:
    def call(layers: list[nn.Module], x: Tensor) -> Any:
        return load("revlib:ReversibleSequential")(*layers, split_dim=1)(x)

    def reference(layers: list[nn.Module], x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        for layer in layers:
            first, second = second, first + layer(second)
        return torch.cat([first, second], 1)

    return _of(call, reference, 3, 8)


def _checkpoint(wrap: Callable[[nn.Module], Callable[[Tensor], Any]]) -> Call:
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def twin(x: Tensor) -> nn.Module:
        return copy.deepcopy(layer).to(x.dtype)

    return Call(lambda x: wrap(twin(x))(x), [normal(3, 4)], lambda x: twin(x)(x), _BACKWARD)


def _deepspeed(layer: nn.Module) -> Callable[[Tensor], Any]:
    checkpointing = load("deepspeed.runtime.activation_checkpointing.checkpointing:checkpoint")
    return lambda x: checkpointing(layer, x)


def _phony(name: str) -> Call:
    function = load(f"fairscale.nn.pipe.dependency:{name}")
    if name == "Join":
        return Call(lambda x: function.apply(x, torch.empty(0)), [normal(3, 4)], lambda x: x * 1)
    return Call(lambda x: function.apply(x)[0], [normal(3, 4)], lambda x: x * 1)


CASES = [
    Case("memcnn", "InvertibleCheckpointFunction", Expect.RIGHT, "recomputes; only by .backward()",
         lambda: _memcnn(True)),
    Case("memcnn", "InvertibleCheckpointFunction of a leaf", Expect.BUG,
         "sets .grad of its input and returns the gradient too, so that a leaf gets it twice",
         lambda: _memcnn(True, leaf=True)),
    Case("memcnn", "InvertibleCheckpointFunction, input freed", Expect.RIGHT,
         "recomputes the input from the output; only by .backward()", lambda: _memcnn(False)),
    Case("memcnn", "AdditiveBlockFunction", Expect.RIGHT, "a reversible block", _additive),
    Case("revlib", "_ReversibleHalfResidualSwapFn", Expect.RIGHT, "reversible residuals", _revlib),
    Case("reformer-pytorch", "_ReversibleFunction", Expect.RIGHT, "reversible residuals",
         lambda: _reversible("reformer_pytorch")),
    Case("performer-pytorch", "_ReversibleFunction", Expect.RIGHT, "reversible residuals",
         lambda: _reversible("performer_pytorch")),
    Case("fairscale", "CheckpointFunction", Expect.RIGHT, "recomputes; only by .backward()",
         lambda: _checkpoint(lambda layer: load("fairscale.nn:checkpoint_wrapper")(layer))),
    Case("fairscale", "Fork", Expect.RIGHT, "an identity with a second, empty output", lambda: _phony("Fork")),
    Case("fairscale", "Join", Expect.RIGHT, "an identity that depends on an empty tensor", lambda: _phony("Join")),
    Case("deepspeed", "CheckpointFunction", Expect.CONTRACT,
         "keeps its inputs without save_for_backward, which would notice that they were changed in place",
         lambda: _checkpoint(_deepspeed)),
    Case("torch", "checkpoint, reentrant", Expect.RIGHT, "recomputes; only by .backward()",
         lambda: _checkpoint(lambda layer: lambda x: load("torch.utils.checkpoint:checkpoint")(
             layer, x, use_reentrant=True))),
    Case("torch", "checkpoint, not reentrant", Expect.RIGHT, "recomputes",
         lambda: _checkpoint(lambda layer: lambda x: load("torch.utils.checkpoint:checkpoint")(
             layer, x, use_reentrant=False))),
]  # fmt: skip
