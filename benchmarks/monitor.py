"""Cost of ``GradientMonitor`` to a transformer with custom Functions, and how often it sees planted errors.

python -m benchmarks.monitor [--trials 18] [--steps 24] [--width 768] [--tokens 256]

Two layers of four Functions each: RMS normalisation, linear, causal attention, SwiGLU. Ways of training take turns in
one run, on one thread. Errors are planted in one gradient of one Function: dense ones of 1e-3 of its norm, and a
single element that is 0; each trial is one checked step of one layer, on a quarter of the tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import silu

from lean_mnist.crosscheck import GradientMonitor
from lean_mnist.crosscheck.report import ModuleReport

HEADS, BATCH = 12, 4
TURNS = 8  # calls of Functions in two layers, each checked in its turn


class RMSNorm(Function):
    """``w x / √(mean x²)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The norm along the last dimension."""
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        ctx.save_for_backward(x * r, w, r)
        return x * r * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Gradients of x and w."""
        n, w, r = ctx.saved_tensors
        gw = g * w
        return r * (gw - n * (gw * n).mean(-1, keepdim=True)), (g * n).flatten(0, -2).sum(0)


class Linear(Function):
    """``x wᵀ``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Gradients of x and w."""
        x, w = ctx.saved_tensors
        return g @ w, g.flatten(0, -2).T @ x.flatten(0, -2)


class Attention(Function):
    """``softmax(q kᵀ / √d) v``, causal."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the last but one dimension."""
        later = torch.ones(q.shape[-2], q.shape[-2]).triu(1).bool()
        p = torch.softmax((q @ k.mT * q.shape[-1] ** -0.5).masked_fill(later, -torch.inf), -1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Gradients of q, k and v."""
        q, k, v, p = ctx.saved_tensors
        dp = g @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        return ds @ k, ds.mT @ q, p.mT @ g


class SwiGLU(Function):
    """``a sigmoid(a) b``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """The gated product."""
        ctx.save_for_backward(a, b)
        return silu(a) * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Gradients of a and b."""
        a, b = ctx.saved_tensors
        s = torch.sigmoid(a)
        return g * b * s * (1 + a * (1 - s)), g * a * s


FUNCTIONS = (RMSNorm, Linear, Attention, SwiGLU)
GRADIENTS = {RMSNorm: 2, Linear: 2, Attention: 3, SwiGLU: 2}


class Planted:
    """An error in one gradient of one Function of the layer that is built while it is there."""

    def __init__(self, function: Any, index: int, kind: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def backward(ctx: Any, g: Tensor) -> Any:
            gradients = list(function.backward(ctx, g))
            right = gradients[index]
            generator.manual_seed(seed)  # the same error in a replay
            if kind == "dense":
                noise = torch.randn(right.shape, generator=generator).to(right.dtype)
                gradients[index] = right + 1e-3 * right.norm() / noise.norm() * noise
            else:
                place = int(torch.randint(right.numel(), (), generator=generator))
                gradients[index] = right.clone()
                gradients[index].view(-1)[place] = 0
            return tuple(gradients)

        self.function = function
        self.spoilt = type(function.__name__, (function,), {"backward": staticmethod(backward)})

    def __call__(self, function: Any) -> Any:
        """The spoilt Function in the place of the right one."""
        return self.spoilt if function is self.function else function


class Norm(nn.Module):
    """RMS normalisation."""

    def __init__(self, width: int, function: Any) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(width)), function

    def forward(self, x: Tensor) -> Any:
        """Of the shape of ``x``."""
        return self.function.apply(x, self.weight)


class Projection(nn.Module):
    """A linear layer without bias."""

    def __init__(self, width: int, function: Any) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(width, width) * width**-0.5), function

    def forward(self, x: Tensor) -> Any:
        """Of the shape of ``x``."""
        return self.function.apply(x, self.weight)


class SelfAttention(nn.Module):
    """Causal attention of several heads."""

    def __init__(self, width: int, function: Any) -> None:
        super().__init__()
        self.qkv, self.function = nn.Linear(width, 3 * width), function

    def forward(self, x: Tensor) -> Any:
        """Of the shape of ``x``."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.function.apply(q, k, v).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    """Two linear layers with a gate between them."""

    def __init__(self, width: int, function: Any) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(width, 4 * width), nn.Linear(2 * width, width), function

    def forward(self, x: Tensor) -> Any:
        """Of the shape of ``x``."""
        return self.down(self.function.apply(*self.up(x).chunk(2, -1)))


class Layer(nn.Module):
    """One layer of the transformer, of four custom Functions."""

    def __init__(self, width: int, replaced: Any = lambda function: function) -> None:
        super().__init__()
        norm, linear, attention, swiglu = map(replaced, FUNCTIONS)
        self.norm, self.attention = Norm(width, norm), SelfAttention(width, attention)
        self.projection, self.feed = Projection(width, linear), FeedForward(width, swiglu)

    def forward(self, x: Tensor) -> Any:
        """Of the shape of ``x``."""
        x = x + self.projection(self.attention(self.norm(x)))
        return x + self.feed(x)


class Training:
    """A model with its optimizer, and a monitor, if there is one."""

    def __init__(self, layers: Sequence[Layer], tokens: int, every: Any = None, seed: int | None = None) -> None:
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        width = len(layers[0].norm.weight)
        self.shape, self.found = (BATCH, tokens // BATCH, width), list[ModuleReport]()
        self.monitor = None
        if every is not None:
            self.monitor = GradientMonitor(self.model, every, on_mismatch=self.found.append, seed=seed)

    def step(self) -> float:
        """The seconds of one training step."""
        x = torch.randn(self.shape, requires_grad=True)
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(x).sin().mean().backward()
        self.optimizer.step()
        return time.perf_counter() - started


def costs(width: int, tokens: int, steps: int) -> None:
    """Print what a step costs in every way."""

    def two_layers() -> list[Layer]:
        torch.manual_seed(0)
        return [Layer(width), Layer(width)]

    plain, checked = Training(two_layers(), tokens), Training(two_layers(), tokens, every=1)
    plain.step()
    first = {"first checked step (a call of each kind)": checked.step()}
    times = [(plain.step(), checked.step()) for _ in range(steps)]
    plain_step = min(seconds for seconds, _ in times)  # other programs only add to it
    turns = [min(seconds for _, seconds in times[turn::TURNS]) for turn in range(min(TURNS, steps))]
    mean, count = statistics.mean(turns), _count()
    print(f"plain step: {plain_step * 1e3:.0f} ms (width {width}, {tokens} tokens)")
    print(f"a forward that is not checked: {count * 1e6:.1f} µs more")
    rows = first | {"checked (a call in turn)": mean, "checked, the longest": max(turns)}
    for name, seconds in rows.items():
        print(f"{name}: {seconds / plain_step:.2f} plain steps")
    print(f"every=100: {mean / plain_step - 1 + 100 * count / plain_step:.2f} % of the time")
    assert checked.monitor is not None
    print(checked.monitor.summary())
    assert not checked.found, "a false alarm"


def _count() -> float:
    """The seconds that a forward takes longer which is not checked."""
    alone, watched = nn.Identity(), nn.Identity()
    GradientMonitor(watched, every=lambda number: False)
    x, least = torch.zeros(1), [float("inf")] * 2
    for _ in range(20):
        for k, module in enumerate((alone, watched)):
            started = time.perf_counter()
            for _ in range(1000):
                module(x)
            least[k] = min(least[k], (time.perf_counter() - started) / 1000)
    return least[1] - least[0]


def detection(width: int, tokens: int, trials: int) -> None:
    """Print how many planted errors the first checked step sees."""
    places = [(function, index) for function in FUNCTIONS for index in range(GRADIENTS[function])]
    for kind, words in (("dense", "dense, 1e-3 of the norm"), ("element", "one element that is 0")):
        seen = 0
        for trial in range(trials):
            function, index = places[trial % len(places)]
            torch.manual_seed(trial)
            training = Training([Layer(width, Planted(function, index, kind, trial))], tokens // 4, every=1, seed=trial)
            training.step()
            seen += bool(training.found)
        print(f"seen, {words}: {seen} of {trials}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=18)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs(options.width, options.tokens, options.steps)
    detection(options.width, options.tokens, options.trials)


if __name__ == "__main__":
    main()
