"""The dense (fully connected, affine) layer."""

from typing import NamedTuple

from lean_mnist.chainrule.arrays import Array, check_same_kind, check_upstream, primitives
from lean_mnist.errors import ArgumentError


class DenseTape(NamedTuple):
    """Values that the backward of a dense layer needs: its input ``(B, D)`` and its weight ``(H, D)``."""

    x_BD: Array
    weight_HD: Array


class DenseGradients(NamedTuple):
    """Gradients of a dense layer; ``None`` where one was not asked for."""

    x_BD: Array | None
    weight_HD: Array | None
    bias_H: Array | None


def dense_forward(x_BD: Array, weight_HD: Array, bias_H: Array | None = None) -> tuple[Array, DenseTape]:
    """``z = x Wᵀ + b``, one row an example.

    Args: ``x_BD`` input; ``weight_HD`` one row a unit; ``bias_H`` or ``None``.
    Returns: the pre-activation ``z_BH`` and the tape. Raises ``ArgumentError`` on shapes that do not fit.
    """
    check_dense_shapes(x_BD, weight_HD, bias_H)
    return primitives(x_BD).affine(x_BD, weight_HD, bias_H), DenseTape(x_BD, weight_HD)


def dense_backward(
    tape: DenseTape, d_z_BH: Array, needs: tuple[bool, bool, bool] = (True, True, True)
) -> DenseGradients:
    """``dx = dz W``, ``dW = dzᵀ x``, ``db = Σ_B dz`` (Rumelhart, Hinton and Williams, 1986, eq. 4 to 6).

    ``dW`` is computed as ``(xᵀ dz)ᵀ``, so that it lies in memory column by column: the forward multiplies by ``Wᵀ``.

    Args: ``d_z_BH`` upstream gradient; ``needs`` which of (x, weight, bias) to compute.
    """
    check_upstream("d_z", d_z_BH, (tape.x_BD.shape[0], tape.weight_HD.shape[0]))
    return DenseGradients(
        x_BD=d_z_BH @ tape.weight_HD if needs[0] else None,
        weight_HD=(tape.x_BD.T @ d_z_BH).T if needs[1] else None,
        bias_H=d_z_BH.sum(0) if needs[2] else None,
    )


def check_dense_shapes(x: Array, weight: Array, bias: Array | None) -> None:
    """Raise ``ArgumentError``, naming the argument, unless ``x (B, D)``, ``weight (H, D)`` and ``bias (H,)`` fit."""
    check_same_kind(x, weight, bias)
    if len(x.shape) != 2:
        raise ArgumentError(f"x: expected shape (B, D), found {tuple(x.shape)}")
    if len(weight.shape) != 2:
        raise ArgumentError(f"weight: expected shape (H, D), found {tuple(weight.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ArgumentError(
            f"x: expected {weight.shape[1]} features a row, as weight {tuple(weight.shape)} has columns, "
            f"found shape {tuple(x.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ArgumentError(f"bias: expected shape ({weight.shape[0]},), found {tuple(bias.shape)}")
