"""Cases for the tests of the engine in C: a small network, images for it, and both engines of its steps."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lean_mnist.audit import native_screen
from lean_mnist.data.batches import Batches, HotBatch, PlannedBatches
from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn import MLP, FlatParameters
from lean_mnist.nn.engine import library, native
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import Batch, Layers, StepEngine, layers_of, put_flat_gradients
from lean_mnist.nn.update import SGD, Update
from tests.support.crosscheck_cases import plain_loss, random_model

SIZES = ((7, 5, 4, 3), (7, 1, 3), (7, 3), (784, 128, 10), (65, 97, 17))  # none but one layer's fills its tiles
WITHOUT = pytest.mark.parametrize("without", ["", "avx512f", "avx"])  # instructions; see compile_without
UNIT = Normalization("unit", 0.0, 255.0)
EPS = torch.finfo(torch.float32).eps


def random_images(examples: int, features: int, classes: int, seed: int = 5, pixels: float = 1.0) -> Split:
    """Images of one row and so many ``features``, this share of which ``pixels`` that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (examples, 1, features), generator=generator, dtype=torch.uint8)
    if pixels < 1:
        images *= torch.rand(images.shape, generator=generator) < pixels
    return Split(images, torch.randint(classes, (examples,), generator=generator))


class Case:
    """A network with random images, its update, and the engine in C or, ``written``, the steps as they are written."""

    def __init__(
        self,
        sizes: Sequence[int] = (7, 5, 4, 3),
        activation: str = "relu",
        *,
        examples: int = 20,
        batch_size: int = 6,
        pixels: float = 1.0,
        threads: int | None = 1,
        written: bool = False,
        normalization: Normalization = UNIT,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        watched: bool = False,
        stop_requested: Callable[[], bool] = lambda: False,
        **options: Any,
    ) -> None:
        self.model = random_model(3, sizes, activation, **options)
        self.parameters: FlatParameters[MLP] = FlatParameters(self.model)
        self.optimizer = SGD([self.parameters.vector], 0.1, momentum, nesterov, weight_decay)
        self.update = Update(self.model, self.optimizer, clip_norm, flat=self.parameters)
        self.split, self._pixels = random_images(examples, sizes[0], sizes[-1], pixels=pixels), pixels
        self.hot = HotBatch(min(batch_size, examples), sizes[0])
        memory = None if written else self.hot
        self.batches = Batches(self.split, normalization, batch_size, 0, memory=memory, classes=sizes[-1])
        if watched:
            self.batches.watched()
        self.engine: Any
        if written:
            compute = functools.partial(put_flat_gradients, self.parameters)
            self.engine = StepEngine(compute, self.update, stop_requested)
        else:
            self.engine = NativeEngine(self.parameters, self.update, stop_requested, self.hot, threads)

    def planned(self, epoch: int = 0) -> Any:
        """The batches of an epoch, as they are handed to ``chunk``."""
        if self.batches._memory is None:
            return list(self.batches.epoch(epoch))
        (planned,) = self.batches.chunks(epoch)
        assert isinstance(planned, PlannedBatches)
        return planned

    def chunk(self, epoch: int = 0, rate: float = 0.1) -> Any:
        """The steps of an epoch as one chunk; rates fall."""
        planned = self.planned(epoch)
        return self.engine.chunk(planned, [rate / (1 + i) for i in range(len(planned))])

    def hot_batch(self, examples: int, seed: int = 0) -> Batch:
        """So many random examples in the engine's memory, the background where a pixel would be 0."""
        generator = torch.Generator().manual_seed(seed)
        x, labels = self.hot.features[:examples], self.hot.labels[:examples]
        x.copy_(torch.randn(x.shape, generator=generator))
        x[torch.rand(x.shape, generator=generator) >= self._pixels] = self.hot.background
        labels.copy_(torch.randint(self.model.sizes[-1], labels.shape, generator=generator))
        return x, labels

    def exact(self, batch: Batch) -> tuple[float, list[Tensor]]:
        """Loss and gradient of the flat vector's parts in float64, by PyTorch's autograd."""
        return exact_gradients(self.model, layers_of(self.model), batch)

    def state(self) -> list[Tensor]:
        """Copies of parameters and momentum."""
        return [tensor.detach().clone() for tensor in (self.parameters.vector, *self.optimizer.momentum)]


def exact_gradients(model: MLP, layers: Layers, batch: Batch) -> tuple[float, list[Tensor]]:
    """The loss of ``model`` with these ``layers`` in float64, and the gradient of every weight and bias."""
    wide = [tuple(None if t is None else t.detach().double().requires_grad_() for t in pair) for pair in layers]
    loss = plain_loss(model, wide, batch[0].double(), batch[1])
    return loss.item(), list(torch.autograd.grad(loss, [t for pair in wide for t in pair if t is not None]))


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """As one vector, in the order of :class:`FlatParameters`."""
    return torch.cat([g.T.reshape(-1) if g.dim() == 2 else g for g in gradients])


def quick_compiler(patch: Any) -> None:
    """Compile without optimisation, which takes a tenth of the time, and keep nothing."""
    patch.setattr(library, "_OPTIONS", [option.replace("-O3", "-O0") for option in library._OPTIONS])
    patch.setenv("LEAN_MNIST_CACHE", "")


def compile_without(patch: Any, instructions: str) -> None:
    """Kernels and screen for processors that do not have these: avx512f, avx."""
    if instructions and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("vectors have one width on this processor")
    load = library.load_library.__wrapped__
    patch.setattr(library, "_OPTIONS", [*library._OPTIONS, *(f"-mno-{name}" for name in instructions.split())])
    for module in (native, native_screen):
        patch.setattr(module, "load_library", load)


def all_options() -> Iterator[dict[str, Any]]:
    """Those of a network and its loss."""
    for bias in (True, False):
        for smoothing, penalty in ((0.0, 0.0), (0.1, 0.01)):
            yield {"bias": bias, "label_smoothing": smoothing, "logit_penalty": penalty}
