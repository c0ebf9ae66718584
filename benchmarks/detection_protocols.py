"""The protocols that hand-written backwards are tested with today, each as a function from a subject to its verdict.

A subject is our network's mean loss, or its logits: a function of its parameters and input, the same in plain PyTorch,
and values. A protocol looks at one static call, as a unit test does; each is run as people run it, defaults included.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F  # noqa: N812

from lean_mnist.chainrule import losses
from lean_mnist.mutants.situations import NetworkSpec
from lean_mnist.nn import functional

TINY_BATCH, BATCH = 3, 64
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky-relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


@dataclass(frozen=True)
class Subject:
    """``function`` and ``reference`` take ``values``; a scalar's upstream gradient is 1 unless a protocol says else."""

    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    values: tuple[Tensor, ...]
    seed: int

    def gradients(self, which: str, dtype: torch.dtype, upstream: Tensor | None = None) -> list[Tensor]:
        """By ``"function"`` or ``"reference"``, with ``.sum().backward()`` where no upstream gradient is given."""
        values = [v.detach().to(dtype).requires_grad_() for v in self.values]
        output = getattr(self, which)(*values)
        if upstream is None:
            return list(torch.autograd.grad(output.sum(), values))
        return list(torch.autograd.grad(output, values, upstream.to(dtype)))


def subjects(network: NetworkSpec, seed: int) -> Iterator[tuple[str, Subject]]:
    """The loss and the logits of a tiny network ("tiny") and of one of MNIST's size ("mnist"), with random values."""
    shrunk = {64: 5, 96: 4, 128: 4, 60: 3, 10: 3, 40: 3}
    tiny = replace(network, sizes=tuple(shrunk[size] for size in network.sizes))
    full = replace(network, sizes=(784, *network.sizes[1:]))
    for size, built, batch in (("tiny", tiny, TINY_BATCH), ("mnist", full, BATCH)):
        model = built.build(seed, torch.float64)
        generator = torch.Generator().manual_seed(seed + 1)
        x = torch.randn(batch, built.sizes[0], generator=generator, dtype=torch.float64)
        labels = torch.randint(0, built.sizes[-1], (batch,), generator=generator)
        flat = [p.detach() for layer in model.weights_and_biases() for p in layer if p is not None]
        values = (x, *(v + 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in flat))
        for loss in (True, False):
            yield size, Subject(_ours(built, labels, loss), _plain(built, labels, loss), values, seed)


def _layers(network: NetworkSpec, flat: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor | None]]:
    return list(zip(flat[::2], flat[1::2], strict=True)) if network.bias else [(weight, None) for weight in flat]


def _ours(network: NetworkSpec, labels: Tensor, loss: bool) -> Callable[..., Tensor]:
    # The rule is looked up at each call, so that a mutant planted in the meantime is in it.
    def function(x: Tensor, *flat: Tensor) -> Tensor:
        layers = _layers(network, flat)
        if not loss:
            return functional.mlp(x, layers, network.activation)
        rule = losses.softmax_cross_entropy(network.label_smoothing, network.logit_penalty)
        return functional.mlp_loss(x, labels, layers, network.activation, rule)

    return function


def _plain(network: NetworkSpec, labels: Tensor, loss: bool) -> Callable[..., Tensor]:
    def reference(x: Tensor, *flat: Tensor) -> Tensor:
        layers, h = _layers(network, flat), x
        for weight, bias in layers[:-1]:
            h = _PLAIN[network.activation](F.linear(h, weight, bias))
        logits = F.linear(h, *layers[-1])
        if not loss:
            return logits
        penalty = network.logit_penalty / 2 * logits.square().sum(1).mean()
        return F.cross_entropy(logits, labels, label_smoothing=network.label_smoothing) + penalty

    return reference


def _gradcheck(fast: bool) -> Callable[[Subject], bool]:
    def refuses(subject: Subject) -> bool:
        values = [v.clone().requires_grad_() for v in subject.values]
        with _no_slow_message(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                torch.autograd.gradcheck(subject.function, values, fast_mode=fast)
            except GradcheckError:
                return True
        return False

    return refuses


@contextmanager
def _no_slow_message() -> Iterator[None]:
    """When fast mode fails it computes the whole Jacobian for its message, which takes minutes; the verdict stands."""

    def no_message(*arguments: Any, **options: Any) -> str:
        return "fast mode failed"

    name = "_run_slow_mode_and_get_error"
    with mock.patch.object(sys.modules["torch.autograd.gradcheck"], name, no_message):
        yield


def _compared(wrong: Callable[[Tensor, Tensor], bool]) -> Callable[[Subject], bool]:
    def refuses(subject: Subject) -> bool:
        ours, reference = (subject.gradients(which, torch.float32) for which in ("function", "reference"))
        return any(wrong(o, r) for o, r in zip(ours, reference, strict=True))

    return refuses


def _norm_off(ours: Tensor, reference: Tensor) -> bool:
    return not abs(float(ours.norm()) - float(reference.norm())) <= 0.1 * float(reference.norm())


def _float64_reference(subject: Subject) -> bool:
    generator = torch.Generator().manual_seed(subject.seed + 2)
    with torch.no_grad():
        output = subject.reference(*subject.values)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    ours, reference = (subject.gradients(which, torch.float64, upstream) for which in ("function", "reference"))
    return any(not torch.allclose(o, r, rtol=1e-9, atol=1e-12) for o, r in zip(ours, reference, strict=True))


PROTOCOLS: dict[str, tuple[str, Callable[[Subject], bool]]] = {
    "gradcheck, slow, tiny": ("tiny", _gradcheck(fast=False)),
    "gradcheck, fast, tiny": ("tiny", _gradcheck(fast=True)),
    "gradcheck, fast, MNIST size": ("mnist", _gradcheck(fast=True)),
    "allclose 1e-5, float32": ("mnist", _compared(lambda o, r: not torch.allclose(o, r, rtol=1e-5, atol=1e-5))),
    "allclose 1e-3, float32": ("mnist", _compared(lambda o, r: not torch.allclose(o, r, rtol=1e-3, atol=1e-3))),
    "absolute 2e-2, float32": ("mnist", _compared(lambda o, r: not torch.allclose(o, r, rtol=0, atol=2e-2))),
    "gradient norm 10 %": ("mnist", _compared(_norm_off)),
    "float64 reference, random upstream": ("mnist", _float64_reference),
}
"""For each protocol the size of its subjects, and whether it refuses one."""


def refused(protocol: str, network: NetworkSpec, seed: int) -> bool:
    """True if ``protocol`` refuses the loss or the logits; a backward that raises counts as refused."""
    wanted, refuses = PROTOCOLS[protocol]
    for size, subject in subjects(network, seed):
        if size != wanted:
            continue
        try:
            if refuses(subject):
                return True
        except (RuntimeError, IndexError, ValueError):
            return True
    return False
