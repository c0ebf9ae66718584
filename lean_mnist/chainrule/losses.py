"""Softmax, and the losses of one example: softmax cross-entropy (fused) and the squared error.

A loss's forward maps logits ``s_BC`` and integer labels ``y_B`` to one loss an example, ``loss_B``; its backward maps
the upstream gradient of that vector to ``d_s_BC``. Averaging over the batch is the caller's, so that each formula here
is the formula of one example.
"""

from collections.abc import Callable
from typing import NamedTuple

from lean_mnist.chainrule.arrays import Array, check_upstream, primitives
from lean_mnist.errors import ArgumentError


class Loss(NamedTuple):
    """A loss of one example: ``forward(s_BC, y_B) -> (loss_B, tape)``, ``backward(tape, d_loss_B) -> d_s_BC``."""

    forward: Callable[[Array, Array], tuple[Array, tuple[Array, ...]]]
    backward: Callable[[tuple[Array, ...], Array], Array]


def softmax_forward(s_BC: Array) -> tuple[Array, Array]:
    """``p_c = e^(s_c − m) / Σ_k e^(s_k − m)``, m the largest logit of the row; the tape is p."""
    check_logits(s_BC)
    p = primitives(s_BC)
    e_BC = p.exp(s_BC - p.row_shift(s_BC))
    probabilities_BC = e_BC / e_BC.sum(1)[:, None]
    return probabilities_BC, probabilities_BC


def softmax_backward(probabilities_BC: Array, d_p_BC: Array) -> Array:
    """``ds = p ⊙ (dp − Σ_c p_c dp_c)``."""
    check_upstream("d_p", d_p_BC, probabilities_BC.shape)
    return probabilities_BC * (d_p_BC - (probabilities_BC * d_p_BC).sum(1)[:, None])


def softmax_cross_entropy(label_smoothing: float = 0.0, logit_penalty: float = 0.0) -> Loss:
    """Softmax followed by cross-entropy, fused, for logits of any size::

        loss = log Σ_c e^(s_c − m) − Σ_c q_c (s_c − m)  + (λ/2) Σ_c s_c²      m = max_c s_c
        ds   = (p − q + λ s) · dloss                                          p = softmax(s)

    with ``q = (1 − ε) onehot(y) + ε/C``, ``ε = label_smoothing`` in [0, 1] (Szegedy et al., 2016, section 7) and
    ``λ = logit_penalty ≥ 0``. The logarithm is of a sum between 1 and C, so it neither overflows nor cancels.
    Raises ``ArgumentError`` for other numbers.
    """
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing: expected a number from 0 to 1, found {label_smoothing}")
    if not 0 <= logit_penalty <= 1 << 53:  # a number that float32 has, too
        raise ArgumentError(f"logit_penalty: expected a number from 0 to 2⁵³, found {logit_penalty}")

    def forward(s_BC: Array, labels_B: Array) -> tuple[Array, tuple[Array, ...]]:
        check_loss_shapes(s_BC, labels_B)
        p = primitives(s_BC)
        u_BC = s_BC - p.row_shift(s_BC)
        e_BC = p.exp(u_BC)
        total_B = e_BC.sum(1)
        loss_B = p.log(total_B)
        if label_smoothing:  # Σ_c q_c u_c, as the two terms of q
            epsilon = p.constant(label_smoothing, s_BC)
            mean_B = u_BC.sum(1) / s_BC.shape[1]
            loss_B = loss_B - ((1 - epsilon) * p.take_label(u_BC, labels_B) + epsilon * mean_B)
        else:
            loss_B = loss_B - p.take_label(u_BC, labels_B)
        if logit_penalty:
            loss_B = loss_B + p.constant(logit_penalty, s_BC) / 2 * (s_BC * s_BC).sum(1)
        return loss_B, (e_BC / total_B[:, None], labels_B, s_BC)

    def backward(tape: tuple[Array, ...], d_loss_B: Array) -> Array:
        probabilities_BC, labels_B, s_BC = tape
        check_upstream("d_loss", d_loss_B, probabilities_BC.shape[:1])
        p = primitives(probabilities_BC)
        q_BC = p.one_hot(labels_B, probabilities_BC)
        if label_smoothing:
            epsilon = p.constant(label_smoothing, q_BC)
            q_BC = (1 - epsilon) * q_BC + epsilon / q_BC.shape[1]
        d_s_BC = probabilities_BC - q_BC
        if logit_penalty:
            d_s_BC = d_s_BC + p.constant(logit_penalty, s_BC) * s_BC
        return d_s_BC * d_loss_B[:, None]

    return Loss(forward, backward)


def squared_error() -> Loss:
    """``loss = ½ Σ_c (s_c − onehot(y)_c)²``, ``ds = (s − onehot(y)) · dloss``: rational, for exact arithmetic."""

    def forward(s_BC: Array, labels_B: Array) -> tuple[Array, tuple[Array, ...]]:
        check_loss_shapes(s_BC, labels_B)
        residual_BC = s_BC - primitives(s_BC).one_hot(labels_B, s_BC)
        return (residual_BC * residual_BC).sum(1) / 2, (residual_BC,)

    def backward(tape: tuple[Array, ...], d_loss_B: Array) -> Array:
        (residual_BC,) = tape
        check_upstream("d_loss", d_loss_B, residual_BC.shape[:1])
        return residual_BC * d_loss_B[:, None]

    return Loss(forward, backward)


def mean_forward(loss_B: Array) -> Array:
    """``mean = (1/B) Σ_B loss_B``; of an empty batch NaN in floating point, as PyTorch has it."""
    return primitives(loss_B).divide(loss_B.sum(0), loss_B.shape[0])


def mean_backward(loss_B: Array, d_mean: Array) -> Array:
    """``dloss_B = dmean / B`` for every example."""
    return primitives(loss_B).spread(primitives(loss_B).divide(d_mean, loss_B.shape[0]), loss_B)


def check_logits(logits: Array) -> None:
    """Raise ``ArgumentError`` unless ``logits`` is an array of a known kind, of shape ``(B, C)`` with C ≥ 1."""
    primitives(logits)
    if len(logits.shape) != 2 or logits.shape[1] < 1:
        raise ArgumentError(f"logits: expected shape (B, C) with C of at least 1, found {tuple(logits.shape)}")


def check_loss_shapes(logits: Array, labels: Array) -> None:
    """Raise ``ArgumentError``, naming the argument, unless ``logits (B, C)`` and ``labels (B,)`` fit and C ≥ 1."""
    check_logits(logits)
    if tuple(labels.shape) != (logits.shape[0],):
        raise ArgumentError(
            f"labels: expected shape ({logits.shape[0]},), one a row of logits, found {tuple(labels.shape)}"
        )
