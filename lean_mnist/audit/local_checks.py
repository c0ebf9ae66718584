"""The one list of local checks: every identity that the values of a training step satisfy, each written once.

Each identity is checked on the very numbers that the step itself gave to it, so that one that holds passes even where
all it was given is wrong, and the first that does not hold is the cause: everything after it inherits its fault. The
audit (``step_audit``) takes every check's exact residual, the randomised check (``randomised``) its probed residual, a
number a row, and at most steps the products of the whole list in one table (``batched``).

Shapes: ``B`` batch, ``D`` input features of a layer, ``H`` its units, ``C`` classes.
"""

import enum
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lean_mnist.audit.logits import EXACT, Arithmetic, Expected, LogitsTerms, loss_size
from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS, NetworkLoss
from lean_mnist.audit.rounding import (
    ELEMENTWISE_ULPS,
    Residual,
    probed_product_shares,
    product_residual,
    summed_product_shares,
    total,
    underflow_of,
    unit_of,
)
from lean_mnist.nn import MLP
from lean_mnist.nn.step import (
    Batch,
    Gradients,
    Layers,
    StepResult,
    StepTape,
    compute_gradients,
    gradients_of,
    layers_of,
    names_of_layers,
)


class Identity(enum.Enum):
    """Identities between the values of a step, in the order in which the step computes them."""

    FORWARD = "z = h Wᵀ + b"
    ACTIVATION = "h = σ(z)"
    LOGITS = "ds = (softmax(s) − q + λs) / N"
    WEIGHT = "dW = Σ dzᵀ h"
    BIAS = "db = Σ dz"
    BACKWARD = "dh = dz W"
    DERIVATIVE = "dz = dh ⊙ σ'(z)"
    LOSS = "loss = Σ (log Σ eˢ − Σ q s + λ/2 ‖s‖²) / N"  # last, because no other value is computed from it


@dataclass(frozen=True)
class ComputedStep:
    """A step as it was computed, and the calls before it."""

    rule: NetworkLoss
    layers: Layers
    gradients: Gradients
    tapes: Sequence[StepTape]  # of its batches, whose gradients were summed with their ``upstream`` factors
    loss: Tensor | None = None  # the mean over all examples, as the step reports it
    past: Sequence[StepTape] = ()  # of earlier calls, the latest last
    again: Callable[[], StepResult] | None = None  # computes the same step once more

    @classmethod
    def of(
        cls,
        model: MLP,
        batches: Sequence[Batch],
        tapes: Sequence[StepTape],
        loss: Tensor | None = None,
        past: Sequence[StepTape] = (),
    ) -> "ComputedStep":
        """The step of ``model`` whose gradients stand in ``.grad`` and whose tapes, one a batch, are ``tapes``."""
        again = functools.partial(compute_gradients, model, batches)
        return cls(NetworkLoss.of(model), layers_of(model), gradients_of(model), tapes, loss, past, again)


class Probe(NamedTuple):
    """Random vectors (see :mod:`.randomised`) for one layer with a weight of shape (H, D)."""

    v: Tensor  # (H,)
    u: Tensor  # (D,)


@dataclass(frozen=True)
class LocalCheck(ABC):
    """One identity at one place of a step: ``ours`` is the tensor that should satisfy it."""

    identity: Identity
    tensor: str  # its name, for messages
    layer: int
    batch: int  # the place of its tape in the step; 0 for a sum over all batches
    ours: Tensor

    @abstractmethod
    def residual(self) -> Residual:
        """Exact residual in every element, beside what rounding explains."""

    @abstractmethod
    def row_shares(self, probes: Sequence[Probe]) -> Tensor:
        """For each row, its residual as a share of what rounding explains; products are probed (one pair a layer)."""


@dataclass(frozen=True)
class ProductCheck(LocalCheck):
    """``ours = Σ left @ right + plus``, summed over ``parts``; a bias gradient is the product with a column of ones."""

    parts: Sequence[tuple[Tensor, Tensor]]  # none where the backward has not even gone so far
    plus: Tensor | None = None
    missing: bool = False  # there is no such gradient though there should be; ``ours`` is then zeros

    def operands(self) -> tuple[Tensor, Tensor]:
        """Both factors, with the parts side by side: ``left (rows, n)`` and ``right (n, columns)``."""
        if len(self.parts) == 1:
            return self.parts[0]
        return torch.cat([left for left, _ in self.parts], 1), torch.cat([right for _, right in self.parts])

    def residual(self) -> Residual:
        """The product computed in float64."""
        if not self.parts:
            return Residual(self.ours, torch.full_like(self.ours, torch.inf), torch.ones_like(self.ours))
        return product_residual(self.ours, *self.operands(), self.plus)

    def row_shares(self, probes: Sequence[Probe]) -> Tensor:
        """Rows along their probe (Freivalds); a bias gradient is one column, and summed in float64."""
        if self.missing:
            return self.ours.new_full((1,), torch.inf)
        if self.identity is Identity.BIAS:
            return summed_product_shares(self.ours, list(self.parts))
        probe = probes[self.layer].v if self.identity is Identity.FORWARD else probes[self.layer].u
        return probed_product_shares(self.ours, list(self.parts), self.plus, probe)


@dataclass(frozen=True)
class ElementwiseCheck(LocalCheck):
    """``ours = f(…)``, element by element."""

    expected: Callable[[Arithmetic], Expected]  # computes f in an arithmetic of choice
    exact: bool = False  # f rounds nothing: ``ours`` must be equal to it

    def allowed(self, expected: Expected) -> Tensor:
        """Largest error of each element of ``ours`` that rounding explains."""
        units = ELEMENTWISE_ULPS * unit_of(self.ours) * abs(expected.scale)
        return torch.add(expected.size.new_full((), underflow_of(self.ours)), expected.size, alpha=units)

    def residual(self) -> Residual:
        """The function computed in float64."""
        found = self.expected(EXACT)
        value = found.value * found.scale
        if self.exact:
            return Residual(self.ours, value, torch.full_like(value, torch.finfo(value.dtype).tiny))
        return Residual(self.ours, value, self.allowed(found))

    def shares(self, arithmetic: Arithmetic, known: Expected | None = None, out: Tensor | None = None) -> Tensor:
        """Errors in this arithmetic as shares of what is allowed, with their signs; of ``known`` values where given."""
        found = known or self.expected(arithmetic)
        error = torch.sub(arithmetic.cast(self.ours), found.value, alpha=found.scale)
        return torch.div(error, self.allowed(found), out=out)

    def row_shares(self, probes: Sequence[Probe]) -> Tensor:
        """The largest share of each row, exactly: there is no product to be probed."""
        found = self.residual()
        shares = (found.exact - found.ours).abs_() / found.allowed
        return shares.reshape(len(shares) if shares.dim() else 1, -1).amax(1) if shares.numel() else shares


def local_checks(step: ComputedStep) -> Iterator[LocalCheck]:
    """All local checks of ``step``, in the order in which it computes what they check."""
    for number, tape in enumerate(step.tapes):
        if tape.pre_activations:
            yield from _forward_checks(step, tape, number)
    for number, tape in enumerate(step.tapes):
        d_s = there(tape.d_pre_activations, len(step.layers) - 1)
        if d_s is not None:
            name, last = f"the gradient of the logits{_batch(step, number)}", len(step.layers) - 1
            yield ElementwiseCheck(Identity.LOGITS, name, last, number, d_s, _logits_gradient(step.rule, tape))
    names = names_of_layers(step.layers)
    for index in reversed(range(len(step.layers))):
        yield from _gradient_checks(step, index, names[index])
        for number, tape in enumerate(step.tapes):
            yield from _backward_checks(step, tape, number, index)
    if step.loss is not None and step.tapes:
        yield ElementwiseCheck(Identity.LOSS, "loss", len(step.layers) - 1, 0, step.loss, _mean_loss(step))


@torch.no_grad()
def largest_share(step: ComputedStep) -> float:
    """The largest exact residual of ``step`` as a share of what rounding explains; above 1, or NaN, a check fails."""
    shares = [check.residual().share for check in local_checks(step)]
    return math.nan if any(share != share for share in shares) else max(shares, default=0.0)


def _batch(step: ComputedStep, number: int) -> str:
    return f" of batch {number}" if len(step.tapes) > 1 else ""


def _forward_checks(step: ComputedStep, tape: StepTape, number: int) -> Iterator[LocalCheck]:
    activation, words = REFERENCE_ACTIVATIONS[step.rule.activation], _batch(step, number)
    for index, (weight, bias) in enumerate(step.layers):
        z, parts = tape.pre_activations[index], [(tape.inputs[index], weight.detach().T)]
        plus = None if bias is None else bias.detach()
        yield ProductCheck(Identity.FORWARD, f"the output of layer {index}{words}", index, number, z, parts, plus)
        if index + 1 < len(step.layers):

            def activated(arithmetic: Arithmetic, z: Tensor = z) -> Expected:
                value = activation.value(arithmetic.cast(z))
                return Expected(value, value.abs() + arithmetic.cast(z).abs())

            tensor, h = f"the activation after layer {index}{words}", tape.inputs[index + 1]
            yield ElementwiseCheck(Identity.ACTIVATION, tensor, index, number, h, activated, activation.exact)


def _gradient_checks(step: ComputedStep, index: int, names: tuple[str, str | None]) -> Iterator[LocalCheck]:
    """``dW = Σ dzᵀ h`` and ``db = Σ dzᵀ 1``, over all batches."""
    found = [there(tape.d_pre_activations, index) for tape in step.tapes]
    d_zs = [d_z for d_z in found if d_z is not None]
    complete = len(d_zs) == len(step.tapes) > 0
    for identity, name, parameter, gradient in zip(
        (Identity.WEIGHT, Identity.BIAS), names, step.layers[index], step.gradients[index], strict=True
    ):
        if parameter is None or (gradient is None and not parameter.requires_grad):
            continue
        ours = torch.zeros_like(parameter) if gradient is None else gradient
        parts = [
            (d_z.T, tape.inputs[index] if identity is Identity.WEIGHT else d_z.new_ones(len(d_z), 1))
            for tape, d_z in zip(step.tapes, d_zs, strict=complete)
        ]
        if complete or parameter.requires_grad:
            missing = gradient is None or not complete
            yield ProductCheck(identity, str(name), index, 0, ours.detach(), parts if complete else (), missing=missing)


def _backward_checks(step: ComputedStep, tape: StepTape, number: int, index: int) -> Iterator[LocalCheck]:
    """``dh = dz W`` of layer ``index``, and ``dz = dh ⊙ σ'(z)`` of the activation below it."""
    d_z, d_h = there(tape.d_pre_activations, index), there(tape.d_inputs, index)
    below = there(tape.d_pre_activations, index - 1) if index else None
    if d_z is None or d_h is None:
        return
    words, parts = _batch(step, number), [(d_z, step.layers[index][0].detach())]
    tensor = f"the gradient of the input of layer {index}{words}"
    yield ProductCheck(Identity.BACKWARD, tensor, index, number, d_h, parts)
    if below is None:
        return
    activation, z = REFERENCE_ACTIVATIONS[step.rule.activation], tape.pre_activations[index - 1]

    def derived(arithmetic: Arithmetic) -> Expected:
        upstream = arithmetic.cast(d_h)
        return Expected(activation.backward(arithmetic.cast(z), upstream), upstream.abs())

    tensor = f"the gradient of the output of layer {index - 1}{words}"
    yield ElementwiseCheck(Identity.DERIVATIVE, tensor, index - 1, number, below, derived, activation.exact)


def _logits_gradient(rule: NetworkLoss, tape: StepTape) -> Callable[[Arithmetic], Expected]:
    return lambda arithmetic: LogitsTerms.of(rule, tape, arithmetic).expected()


def _mean_loss(step: ComputedStep) -> Callable[[Arithmetic], Expected]:
    """Mean loss over all examples; its rounding is relative to the largest logit."""

    def expected(arithmetic: Arithmetic) -> Expected:
        terms = [LogitsTerms.of(step.rule, tape, arithmetic) for tape in step.tapes]
        mean = total([-batch.scale * batch.likelihood() for batch in terms]).reshape(())
        largest = torch.stack([batch.s.abs().amax() if batch.s.numel() else mean for batch in terms]).amax()
        return Expected(mean, loss_size(largest.clamp_min(1), step.rule.logit_penalty))

    return expected


def there(values: Sequence[Any], index: int) -> Any:
    """``values[index]``; ``None`` where the backward did not go so far."""
    return values[index] if index < len(values) else None
