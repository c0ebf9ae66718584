"""Hooks on loss and gradients as numbers: are they finite, how large are they."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lean_mnist.errors import HealthError
from lean_mnist.nn.update import has_finite_sum, not_finite
from lean_mnist.training.config.schedules import Schedule
from lean_mnist.training.hooks.step import KeepFailure, Step, keep_nothing
from lean_mnist.training.sinks.records import Notice, Record, Scalar

# LEAN_mnist's thresholds for the norm of one tensor's gradient.
EXPLODING, VANISHING = 10.0, 1e-4


class HealthHook:
    """Gate, every step: loss and gradients are finite. First step: the loss is near that of guessing.

    ``guessing`` is ``ln C`` for C classes, ``None`` where there is no such loss. ``cause`` gives words on which
    operation made a gradient of finite numbers not finite, none if training diverged; a step with a cause is kept.
    """

    def __init__(
        self, guessing: float | None, cause: Callable[[Step], str] = lambda step: "", keep: KeepFailure = keep_nothing
    ) -> None:
        self._guessing, self._cause, self._keep = guessing, cause, keep

    def due(self, step: int) -> bool:
        """Every step."""
        return True

    def on_gradients(self, step: Step) -> Iterable[Record]:
        """Raises ``HealthError`` naming the tensor; records of the first step."""
        loss = step.loss_value
        if not (math.isfinite(loss) and has_finite_sum(step.gradient)):
            cause = self._cause(step) if math.isfinite(loss) else ""
            if message := not_finite(step.model, loss, step.number, cause):
                raise HealthError(message + (self._keep(step, message) if cause else ""))
        return self._first(loss, self._guessing) if step.number == 1 and self._guessing is not None else ()

    def _first(self, loss: float, guessing: float) -> Iterator[Record]:
        yield Scalar(1, "health/initial_loss_over_ln_classes", loss / guessing if guessing else 1.0)
        if not guessing / 2 <= loss <= guessing * 2:
            yield Notice(
                1, "health/warning",
                f"the first loss is {loss:.3f}; that of guessing is ln C = {guessing:.3f}: "
                f"check the initialization and the scale of the inputs",
            )  # fmt: skip


class LossHook:
    """Records loss and learning rate."""

    def __init__(self, due: Schedule) -> None:
        self.due = due

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Two scalars."""
        yield Scalar(step.number, "train/loss", step.loss_value)
        yield Scalar(step.number, "train/learning_rate", step.learning_rate)


class NormsHook:
    """Records norms of each tensor and its gradient; one warning a tensor when a gradient explodes or vanishes.

    Small gradients are normal, and no warning, once the loss is below a tenth of ``guessing``, that of a network that
    knows nothing. ``warned`` has the tensors and warnings that were given; a resumed run does not repeat them.
    """

    def __init__(self, due: Schedule, guessing: float, warned: list[str]) -> None:
        self.due, self._guessing, self._warned = due, guessing, warned

    def on_gradients(self, step: Step) -> Iterator[Record]:
        """Two scalars a tensor, one of all, and warnings."""
        named = list(step.model.named_parameters())
        norms = torch.stack([norm for _, p in named for norm in (_norm(p.grad), _norm(p.detach()))]).tolist()
        still_learning = step.loss_value > 0.1 * self._guessing
        for (name, _), gradient, parameter in zip(named, norms[::2], norms[1::2], strict=True):
            yield Scalar(step.number, f"gradient_norm/{name}", gradient)
            yield Scalar(step.number, f"parameter_norm/{name}", parameter)
            if gradient > EXPLODING:
                yield from self._warn(step.number, name, f"exploding: its norm is {gradient:.3g}, above {EXPLODING:g}")
            elif gradient < VANISHING and still_learning:
                yield from self._warn(step.number, name, f"vanishing: its norm is {gradient:.3g}, below {VANISHING:g}")
        yield Scalar(step.number, "gradient_norm/all", float(torch.linalg.vector_norm(step.gradient)))

    def _warn(self, number: int, name: str, what: str) -> Iterator[Record]:
        key = f"{name} {what.partition(':')[0]}"
        if key not in self._warned:
            self._warned.append(key)
            yield Notice(number, "health/warning", f"the gradient of {name} is {what}")


def _norm(tensor: Tensor | None) -> Tensor:
    return torch.zeros(()) if tensor is None else tensor.norm()
