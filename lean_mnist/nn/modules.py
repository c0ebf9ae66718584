"""``nn.Module`` faces of :mod:`lean_mnist.nn.functional`, and their initial weights."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lean_mnist.chainrule.activations import activation_named
from lean_mnist.chainrule.losses import softmax_cross_entropy
from lean_mnist.errors import ArgumentError, check_choice
from lean_mnist.nn import functional
from lean_mnist.nn.functions import StepTape

INITIALIZATIONS = ("he-normal", "xavier-uniform", "scale")


@torch.no_grad()
def initialize_weight_(
    weight_HD: Tensor, initialization: str, generator: torch.Generator, scale: float = 0.01
) -> Tensor:
    """Fill ``weight (H, D)`` in place, by draws from ``generator`` alone, and return it.

    ``he-normal``: N(0, 2/D) (He et al., 2015, eq. 10); ``xavier-uniform``: U(−a, a), a = √(6 / (D + H)) (Glorot and
    Bengio, 2010, eq. 16); ``scale``: N(0, scale²).
    """
    check_choice("initialization", initialization, INITIALIZATIONS)
    units, features = weight_HD.shape
    if weight_HD.is_meta:  # nothing to fill, for which PyTorch would import its compiler, a second
        return weight_HD
    if initialization == "xavier-uniform":
        bound = math.sqrt(6 / (features + units))
        return weight_HD.uniform_(-bound, bound, generator=generator)
    deviation = math.sqrt(2 / features) if initialization == "he-normal" else scale
    return weight_HD.normal_(0, deviation, generator=generator)


class Dense(nn.Module):
    """``x Wᵀ + b``, ``(B, D)`` to ``(B, H)``, with ``weight (H, D)`` and ``bias (H,)`` or ``None``.

    Weights are drawn from ``generator`` (a new one with seed 0 if none is given); the bias starts at zero.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        initialization: str = "he-normal",
        scale: float = 0.01,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ArgumentError(f"{name}: expected at least 1, found {size}")
        generator = generator or torch.Generator().manual_seed(0)
        weight = torch.empty(out_features, in_features, dtype=dtype)
        self.weight = nn.Parameter(initialize_weight_(weight, initialization, generator, scale))
        start = torch.empty(out_features, dtype=dtype)
        # In PyTorch 2.6 zeros that are no more than a shape import the compiler, too.
        self.bias = nn.Parameter(start if start.is_meta else start.zero_()) if bias else None

    def forward(self, x_BD: Tensor) -> Tensor:
        """Pre-activations ``(B, H)`` of ``x (B, D)``."""
        return functional.dense(x_BD, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Options in ``repr``."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class _Activation(nn.Module):
    name: str

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name

    def forward(self, z: Tensor) -> Tensor:
        """The activation of each entry of ``z``, of any shape."""
        return functional.activate(z, self.name)


class ReLU(_Activation, name="relu"):
    """``max(z, 0)``."""


class LeakyReLU(_Activation, name="leaky-relu"):
    """``z`` where positive, else ``0.01 z``."""


class Sigmoid(_Activation, name="sigmoid"):
    """``1 / (1 + e^−z)``."""


class Tanh(_Activation, name="tanh"):
    """``tanh z``."""


class GELU(_Activation, name="gelu"):
    """``z Φ(z)``, Φ the normal distribution function."""


class Softmax(nn.Module):
    """Softmax along each row of ``(B, C)``."""

    def forward(self, logits_BC: Tensor) -> Tensor:
        """Probabilities ``(B, C)``."""
        return functional.softmax(logits_BC)


class SoftmaxCrossEntropy(nn.Module):
    """Softmax cross-entropy of ``logits (B, C)`` against ``labels (B,)``; see ``functional.cross_entropy``."""

    def __init__(self, label_smoothing: float = 0.0, logit_penalty: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, functional.REDUCTIONS)
        softmax_cross_entropy(label_smoothing, logit_penalty)  # refuses impossible options now, not at the first batch
        self.label_smoothing, self.logit_penalty, self.reduction = label_smoothing, logit_penalty, reduction

    def forward(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        """A scalar, or ``(B,)`` for reduction ``"none"``."""
        return functional.cross_entropy(logits_BC, labels_B, self.label_smoothing, self.logit_penalty, self.reduction)


class MLP(nn.Module):
    """A multilayer perceptron: dense layers of the given ``sizes`` with ``activation`` between them.

    ``MLP((784, 128, 10))`` maps ``(B, 784)`` to logits ``(B, 10)``. Its parameters are named ``layers.0.weight``,
    ``layers.0.bias``, … It is one node of PyTorch's graph, and so are network and :meth:`loss` together.

    Args:
        sizes: features, hidden widths, classes; at least two numbers, each at least 1.
        activation: ``relu``, ``leaky-relu``, ``sigmoid``, ``tanh``, ``gelu`` or ``identity``.
        bias: whether the layers have biases.
        initialization: ``he-normal``, ``xavier-uniform`` or ``scale`` (normal with standard deviation ``scale``).
        seed: of the initial weights; the same seed gives the same weights.
        dtype: of the parameters, any floating dtype.
        label_smoothing, logit_penalty: of :meth:`loss`; see ``chainrule.losses``.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 128, 10),
        activation: str = "relu",
        *,
        bias: bool = True,
        initialization: str = "he-normal",
        scale: float = 0.01,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        label_smoothing: float = 0.0,
        logit_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or any(size < 1 for size in sizes):
            raise ArgumentError(f"sizes: expected two or more numbers of at least 1, found {tuple(sizes)}")
        self.activation = activation_named(activation).name
        softmax_cross_entropy(label_smoothing, logit_penalty)  # refuses impossible options now, not at the first batch
        self.label_smoothing, self.logit_penalty = label_smoothing, logit_penalty
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"initialization": initialization, "scale": scale, "generator": generator}
        self.layers = nn.ModuleList(
            Dense(before, after, bias=bias, dtype=dtype, **options) for before, after in itertools.pairwise(sizes)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features, hidden widths, classes."""
        weights = [weight for weight, _ in self.parameter_pairs()]
        return (weights[0].shape[1], *(weight.shape[0] for weight in weights))

    @property
    def architecture(self) -> dict[str, Any]:
        """Plain values from which ``MLP(**architecture)`` builds a network of the same form."""
        return {"sizes": list(self.sizes), "activation": self.activation, "bias": self.layers[0].bias is not None}

    def weights_and_biases(self) -> list[tuple[Tensor, Tensor | None]]:
        """Pairs (weight ``(H, D)``, bias ``(H,)`` or ``None``), first layer first."""
        return list(self.parameter_pairs())

    def parameter_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter | None]]:
        """The parameters of each layer, first layer first: where gradients and optimizers go."""
        return [(layer.weight, layer.bias) for layer in self.layers]  # type: ignore[misc]

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, C)`` of ``x (B, D)``."""
        return functional.mlp(x_BD, self.weights_and_biases(), self.activation)

    def loss(self, x_BD: Tensor, labels_B: Tensor, reduction: str = "mean", tape: StepTape | None = None) -> Tensor:
        """Softmax cross-entropy of the logits of ``x (B, D)`` against ``labels (B,)``, network and loss in one node.

        A ``tape`` is filled with what this forward and its backward compute on the way, for checks.
        """
        loss = softmax_cross_entropy(self.label_smoothing, self.logit_penalty)  # rebuilt: closures cannot be pickled
        return functional.mlp_loss(x_BD, labels_B, self.weights_and_biases(), self.activation, loss, reduction, tape)

    def loss_and_gradients(
        self, x_BD: Tensor, labels_B: Tensor, upstream: float = 1.0, tape: StepTape | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]]]:
        """See :func:`functional.mlp_loss_and_gradients`; ``.grad`` is left alone."""
        layers, loss = self.weights_and_biases(), softmax_cross_entropy(self.label_smoothing, self.logit_penalty)
        return functional.mlp_loss_and_gradients(x_BD, labels_B, layers, self.activation, loss, upstream, tape)

    def extra_repr(self) -> str:
        """Options in ``repr``."""
        return f"activation={self.activation}"
