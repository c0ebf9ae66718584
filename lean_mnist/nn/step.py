"""One training step: the gradient of the mean loss of its batches, and the tape of every value that it computed.

Checks read the tape: a pre-activation that is computed again can fall on the other side of a kink.

Shapes: ``B`` batch, ``D`` input features of a layer, ``H`` its units, ``C`` classes; ``L`` layers.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lean_mnist.nn.functions import StepTape as StepTape
from lean_mnist.nn.modules import MLP
from lean_mnist.nn.parameters import FlatParameters
from lean_mnist.nn.update import Update

Batch = tuple[Tensor, Tensor]  # features (B, D) and labels (B,) int64
Layers = Sequence[tuple[Tensor, Tensor | None]]  # weight (H, D) and bias (H,) of each layer, first layer first
Gradients = Sequence[tuple[Tensor | None, Tensor | None]]  # of each layer's weight and bias; None where not computed

RING_DEPTH = 2  # steps after a step during which its batch and its tape stay as they were, but with an engine in C

Norms = list[tuple[str, float, float]]


class StepResult(NamedTuple):
    """Mean loss over all examples of a step's batches, its gradient, and one tape a batch."""

    loss: Tensor
    gradients: Gradients
    tapes: list[StepTape]


@dataclass
class Step:
    """One step, its gradients ready in ``.grad`` and not yet applied."""

    number: int  # counted from 1
    model: Any  # the network that computed it
    batches: list[Batch]  # one, or several whose gradients were averaged
    loss: Tensor  # the mean over all their examples, a scalar
    gradient: Tensor  # the whole gradient, (P,)
    learning_rate: float  # of the update that follows
    tapes: list[StepTape]  # one a batch; empty where the run keeps none
    past: tuple[StepTape, ...] = ()  # tapes of the steps before, the latest last
    norms_by: Callable[[], Norms | None] = lambda: None  # of the engine

    @functools.cached_property
    def norms(self) -> Norms:
        """Name of each parameter of ``model``, norm of its gradient (0 where it has none), and its own."""
        own = self.norms_by()
        if own is not None:
            return own
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        gradients = [p.new_zeros(()) if p.grad is None else p.grad for p in parameters]
        tensors = [*gradients, *(p.detach() for p in parameters)]
        norms = torch.stack([torch.linalg.vector_norm(x, dtype=self.gradient.dtype) for x in tensors]).tolist()
        return list(zip(names, norms[: len(names)], norms[len(names) :], strict=True))

    @functools.cached_property
    def loss_value(self) -> float:
        """``loss`` as a Python number, fetched from its device once."""
        return float(self.loss)

    @functools.cached_property
    def gradient_sum(self) -> float:
        """Sum of the gradient as it was when first asked; finite only if every term is."""
        return float(self.gradient.sum())

    @property
    def is_finite(self) -> bool:
        """True if the loss and the sum of the gradient are finite, as they were when first asked."""
        return math.isfinite(self.loss_value) and math.isfinite(self.gradient_sum)


def compute_gradients(model: MLP, batches: Sequence[Batch]) -> StepResult:
    """Gradient of the mean loss over all examples of one batch or more; ``.grad`` is left alone."""
    tapes = [StepTape(labels, share) for (_, labels), share in zip(batches, shares_of(batches), strict=True)]
    mean, total = None, []
    for (x, labels), tape in zip(batches, tapes, strict=True):
        loss, gradients = model.loss_and_gradients(x, labels, tape.upstream, tape)
        loss = loss if tape.upstream == 1 else tape.upstream * loss
        if mean is None:
            mean, total = loss, gradients
            continue
        mean = mean + loss
        for sums, terms in zip(total, gradients, strict=True):
            for sum_so_far, term in zip(sums, terms, strict=True):
                if sum_so_far is not None and term is not None:
                    sum_so_far += term
    assert mean is not None
    return StepResult(mean, total, tapes)


def put_gradients(model: MLP, batches: Sequence[Batch]) -> StepResult:
    """As :func:`compute_gradients`, and put the gradients in ``.grad``, in place of what stood there."""
    result = compute_gradients(model, batches)
    for pair, found in zip(model.parameter_pairs(), result.gradients, strict=True):
        for parameter, gradient in zip(pair, found, strict=True):
            if parameter is not None:
                parameter.grad = gradient
    return result


def put_flat_gradients(parameters: FlatParameters[MLP], batches: Sequence[Batch]) -> StepResult:
    """As :func:`compute_gradients`, and copy the gradients to ``parameters.gradient``, of which the result has parts.

    Without batches it stays as it is, and the loss is NaN.
    """
    network = parameters.network
    if not batches:
        return StepResult(parameters.gradient.new_tensor(math.nan), gradients_of(network), [])
    loss, gradients, tapes = compute_gradients(network, batches)
    parameters.gradients_to_vector(g for pair in gradients for g in pair if g is not None)
    return StepResult(loss, gradients_of(network), tapes)


def shares_of(batches: Sequence[Batch]) -> list[float]:
    """Number of examples of each batch as a fraction of all: the upstream gradient of its mean loss."""
    total = sum(len(labels) for _, labels in batches)
    return [len(labels) / max(1, total) for _, labels in batches]


def names_of_layers(layers: Layers) -> list[tuple[str, str | None]]:
    """Names of each layer's weight and bias in a network with these ``layers``, as in ``named_parameters()``."""
    return [(f"layers.{i}.weight", None if bias is None else f"layers.{i}.bias") for i, (_, bias) in enumerate(layers)]


def layers_of(model: MLP) -> list[tuple[Tensor, Tensor | None]]:
    """Each layer's weight ``(H, D)`` and bias ``(H,)`` as the network multiplies by them, detached.

    ``requires_grad`` is that of the parameters: it says which gradients a step must have given.
    """
    detached = [(w.detach(), None if b is None else b.detach()) for w, b in model.weights_and_biases()]
    for tensors, parameters in zip(detached, model.parameter_pairs(), strict=True):
        for tensor, parameter in zip(tensors, parameters, strict=True):
            if tensor is not None and parameter is not None:
                tensor.requires_grad_(parameter.requires_grad)
    return detached


def gradients_of(model: MLP) -> list[tuple[Tensor | None, Tensor | None]]:
    """``.grad`` of each layer's weight and bias: the gradient at the weights of :func:`layers_of`, rounded or not."""
    return [(weight.grad, None if bias is None else bias.grad) for weight, bias in model.parameter_pairs()]


class HeldStep(NamedTuple):
    """A step that is computed and found finite, its update left to be made."""

    loss: Tensor
    tape: StepTape


class StepChunk(NamedTuple):
    """Steps that were taken in a row, updates included."""

    losses: list[float]
    tapes: list[list[StepTape]]  # of those that still hold
    stopped: bool  # the run is asked to stop after them
    not_finite: bool = False  # the loss or gradient of the next one is not
    held: HeldStep | None = None  # the next one, screened where the engine screens


class StepEngine:
    """Computes the steps of a training run, each as it is written, in memory of its own: tapes hold forever.

    An engine derived from it may reuse memory. The batches and the tape of a step hold until ``RING_DEPTH`` more steps
    have been computed, or as long as it says; the gradient until the next step. ``compute`` puts that of a step into
    the flat gradient, ``update`` moves the parameters, and ``stop_requested`` is asked after every step of a chunk.
    """

    def __init__(
        self, compute: Callable[[Sequence[Batch]], StepResult], update: Update, stop_requested: Callable[[], bool]
    ) -> None:
        self._compute, self._update, self._stop_requested = compute, update, stop_requested

    hot = False  # True if its tapes hold only until the next batch is made

    def kept_tapes(self) -> list[StepTape]:
        """Of a hot engine: a copy of the tape of the latest step, if there was one."""
        return []

    def norms(self) -> Norms | None:
        """As of :class:`Step`, where the engine computes them itself: every step's, however it was taken."""
        return None

    def update(self, rate: float) -> None:
        """Move the parameters by the present gradient."""
        self._update.apply(rate)

    @property
    def screens(self) -> bool:
        """True if a chunk's steps pass the gates of every step in the engine itself."""
        return False

    @property
    def refused(self) -> str:
        """Why steps are taken as they are written though another way was asked for; empty where they are not."""
        return ""

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Put the gradient of one step into the flat gradient; its loss may still be being computed on its device."""
        return self._compute(batches)

    def chunk(
        self, batches: Sequence[Batch], rates: Sequence[float], first: int = 1, *, hold: bool = False
    ) -> StepChunk:
        """Take one step a batch, with these learning rates, at none of which anybody looks before its update.

        ``first`` is the number of the first one. With ``hold``, of a hot engine alone, somebody looks at the last one:
        it is ``held``, or nothing is done of it where the engine takes it as written.

        Ends before the first step whose loss or gradient is not finite, or at which something stands out where the
        engine ``screens``, with the weights as they were before it; or after a step after which the run is asked to
        stop.
        """
        losses, tapes, stopped, finite = [], [], False, True
        for batch, rate in zip(batches, rates, strict=True):
            result = self.step([batch])
            loss: float = result.loss.item()
            if not (finite := self._update.is_finite(loss)):
                break
            self.update(rate)
            losses.append(loss)
            tapes.append(result.tapes)
            if stopped := self._stop_requested():
                break
        return StepChunk(losses, tapes, stopped, not finite)
