"""Faults planted in the code under test, each with the obligations that must fail and some that must not.

They replace functions of ``chainrule``, ``nn`` and ``training``; the checks themselves are left alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lean_mnist.chainrule import activations, dense, losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.mutants import planting
from lean_mnist.nn import functions, parameters

Replacements = dict[str, Any]  # target and replacement, as of ``planting``


def _dense(change: Callable[[Any, Any, Any], dense.DenseGradients]) -> Replacements:
    original = dense.dense_backward

    def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> dense.DenseGradients:
        return change(tape, d_z, original(tape, d_z, (True, True, True)))

    return {"chainrule.dense.dense_backward": wrong}


def _activation(name: str, backward: Callable[[Any, Any], Any], forward: Any = None) -> Replacements:
    faulty = Activation(name, forward or ACTIVATIONS[name].forward, backward)
    return {f"chainrule.activations.ACTIVATIONS.{name}": faulty}


def _cross_entropy(
    backward: Callable[[Any, Any, Any], Any] | None = None, forward: Any = None, penalty_factor: float = 1.0
) -> Replacements:
    original = losses.softmax_cross_entropy

    def wrong(label_smoothing: float = 0.0, logit_penalty: float = 0.0) -> losses.Loss:
        right = original(label_smoothing, logit_penalty)
        penalised = original(label_smoothing, logit_penalty * penalty_factor)

        def wrong_backward(tape: Any, d_loss: Any) -> Any:
            return backward(tape, d_loss, right) if backward else right.backward(tape, d_loss)

        return losses.Loss(forward(right) if forward else penalised.forward, wrong_backward)

    return {"chainrule.losses.softmax_cross_entropy": wrong}


def _torch(name: str, method: Callable[..., Any]) -> Replacements:
    return {f"chainrule.arrays._TorchPrimitives.{name}": method}


def _gelu_without_density(z: Any, d_h: Any) -> Any:
    return d_h * activations._normal_cdf(z)


def _greater_or_equal(z: Any, d_h: Any) -> Any:
    return primitives(z).where_nonpositive(-z, d_h, d_h * 0)


def _relu_that_saves_its_input(z: Any) -> tuple[Any, Any]:
    return _RELU.forward(z)[0], z


_RELU = ACTIVATIONS["relu"]


def _first_weight_lost() -> Replacements:
    original = mlp.mlp_backward

    def wrong(*arguments: Any) -> mlp.MLPGradients:
        found = original(*arguments)
        (weight, bias), *others = found.layers
        return found._replace(layers=((None if weight is None else weight * 0, bias), *others))

    return {"chainrule.mlp.mlp_backward": wrong}


def _columns_first(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().T.reshape(-1) if p.ndim == 2 else p.detach() for p in model.parameters()])


def _biases_first() -> Replacements:
    original = parameters.unflatten_parameters

    def wrong(vector: torch.Tensor, model: torch.nn.Module) -> None:
        original(vector.roll(1), model)

    def right_back(model: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).roll(-1)

    return {"nn.parameters.unflatten_parameters": wrong, "nn.parameters.flatten_parameters": right_back}


def _momentum(config: Any, chosen: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(chosen), lr=config.learning_rate, momentum=0.5)


def _node(function: type, scale: float) -> Replacements:
    original = function.backward  # type: ignore[attr-defined]

    def wrong(ctx: Any, *upstream: torch.Tensor) -> Any:
        found = original(ctx, *upstream)
        return tuple(None if g is None else g * scale for g in (found if isinstance(found, tuple) else (found,)))

    return {f"nn.functions.{function.__name__}.backward": wrong}


@dataclass(frozen=True)
class Fault:
    """A fault, what it replaces, the obligations that must fail with it, and some that must still hold."""

    name: str
    replacements: Replacements
    fails: tuple[str, ...]
    holds: tuple[str, ...] = ()

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Plant it for the length of a ``with``."""
        with contextlib.ExitStack() as stack:
            for target, replacement in self.replacements.items():
                stack.enter_context(planting(target, replacement))
            yield


FAULTS = [
    Fault(
        "the weight gradient is 1 % too large",
        _dense(lambda tape, d_z, right: right._replace(weight_HD=right.weight_HD * 101 / 100)),
        ("gradient.matvec-matrix", "gradient.dense", "gradient.layer", "linear-algebra.outer"),
        ("gradient.matvec-vector", "gradient.vadd", "linear-algebra.vadd"),
    ),
    Fault(
        "the input gradient has the wrong sign",
        _dense(lambda tape, d_z, right: right._replace(x_BD=-right.x_BD)),
        ("gradient.matvec-vector", "gradient.smul", "linear-algebra.matmul", "gradient.chain-rule"),
        ("gradient.matvec-matrix", "linear-algebra.transpose"),
    ),
    Fault(
        "the bias gradient is the mean over the batch and not the sum",
        _dense(lambda tape, d_z, right: right._replace(bias_H=right.bias_H / d_z.shape[0])),
        ("gradient.dense", "linear-algebra.batchAddVec", "gradient.network-exact", "tensors.gradcheck"),
        ("gradient.vadd", "linear-algebra.vadd", "linear-algebra.matmul"),
    ),
    Fault(
        "the bias gradient is not summed over the batch",
        _dense(lambda tape, d_z, right: right._replace(bias_H=d_z)),
        ("gradient.vadd", "gradient.dense", "layer.batch-dimension"),
        ("gradient.matvec-matrix",),
    ),
    Fault(
        "the one-hot target is dropped",
        _cross_entropy(lambda tape, d_loss, right: tape[0] * d_loss[:, None]),
        ("gradient.cross-entropy", "loss.gradient-sum", "tensors.loss-bounds"),
        ("gradient.softmax", "gradient.squared-error", "loss.nonnegative"),
    ),
    Fault(
        "the target is added and not subtracted",
        _cross_entropy(
            lambda tape, d_loss, right: (tape[0] * 2 - right.backward(tape, d_loss * 0 + 1))
            * d_loss[:, None]
        ),
        ("gradient.cross-entropy", "loss.gradient-bounded", "loss.lipschitz", "loss.convex"),
        ("loss.nonnegative",),
    ),
    Fault(
        "the penalty is λ s² and not λ/2 s²",
        _cross_entropy(penalty_factor=2.0),
        ("gradient.cross-entropy-options",),
        ("gradient.cross-entropy", "loss.convex"),
    ),
    Fault(
        "the loss has the wrong sign",
        _cross_entropy(forward=lambda right: lambda s, y: (-right.forward(s, y)[0], right.forward(s, y)[1])),
        ("loss.nonnegative", "loss.log-sum-exp", "loss.zero", "loss.unbounded", "tensors.loss-bounds"),
        ("loss.gradient-sum", "loss.gradient-lipschitz"),
    ),
    Fault(
        "GELU's derivative lacks its second term",
        _activation("gelu", _gelu_without_density),
        ("gradient.gelu", "gradient.central-difference", "tensors.gradcheck"),
        ("gradient.tanh", "gradient.sigmoid"),
    ),
    Fault(
        "sigmoid's derivative is σ",
        _activation("sigmoid", lambda h, d_h: d_h * h),
        ("gradient.sigmoid", "tensors.gradcheck"),
        ("gradient.gelu",),
    ),
    Fault(
        "ReLU's mask is z ≥ 0",
        _activation("relu", _greater_or_equal, _relu_that_saves_its_input),
        ("gradient.relu",),
        ("gradient.leaky-relu", "tensors.gradcheck", "gradient.network-exact"),
    ),
    Fault(
        "ReLU's mask is dropped",
        _activation("relu", lambda h, d_h: d_h),
        ("gradient.relu", "gradient.network-exact", "gradient.network-gradcheck", "gradient.network-full-size"),
        ("gradient.leaky-relu",),
    ),
    Fault(
        "leaky ReLU's slope is 0.1 in the backward only",
        _activation("leaky-relu", lambda h, d_h: primitives(h).where_nonpositive(h, d_h / 10, d_h)),
        ("gradient.leaky-relu", "gradient.network-exact"),
        ("gradient.relu",),
    ),
    Fault(
        "softmax's backward is its diagonal",
        {"chainrule.losses.softmax_backward": lambda p, d_p: p * (1 - p) * d_p},
        ("gradient.softmax", "tensors.gradcheck"),
        ("gradient.cross-entropy",),
    ),
    Fault(
        "the mean's backward forgets 1/B",
        {"chainrule.losses.mean_backward": lambda loss, d: primitives(loss).spread(d, loss)},
        ("gradient.mean", "convergence.batch-variance", "gradient.network-full-size"),
        ("gradient.dense",),
    ),
    Fault(
        "the gradient of the first weight is lost",
        _first_weight_lost(),
        ("gradient.network", "gradient.network-exact", "gradient.network-gradcheck", "gradient.chain-rule"),
        ("gradient.dense", "gradient.layer"),
    ),
    Fault(
        "on tensors, the mean of the logits is subtracted and not the largest",
        _torch("row_shift", lambda self, x: x.detach().mean(1, keepdim=True)),
        ("tensors.loss-bounds", "tensors.loss", "original.log-sum-exp-stable"),
        ("gradient.cross-entropy", "loss.nonnegative"),
    ),
    Fault(
        "on tensors, the bias is left out",
        _torch("affine", lambda self, x, weight, bias: x @ weight.T),
        ("tensors.whole-numbers", "gradient.network-full-size"),
        ("gradient.dense",),
    ),
    Fault(
        "on tensors, values below 0.3 count as negative",
        _torch("where_nonpositive", lambda self, c, then, otherwise: torch.where(c <= 0.3, then, otherwise)),
        ("tensors.activations", "gradient.network-full-size"),
        ("gradient.relu",),
    ),
    Fault(
        "on tensors, tanh is evaluated in float32",
        _torch("tanh", lambda x: torch.tanh(x.float()).to(x.dtype)),
        ("tensors.elementary", "tensors.activations"),
        ("gradient.tanh",),
    ),
    Fault(
        "a node scales its gradient by 1.001",
        _node(functions.MLPFunction, 1.001),
        ("tensors.gradcheck",),
        ("gradient.dense", "gradient.network-gradcheck"),
    ),
    Fault(
        "the node that trains scales its gradient by 0.99",
        _node(functions.MLPLossFunction, 0.99),
        ("gradient.network-gradcheck", "gradient.network-full-size", "gradient.central-difference-network"),
        ("tensors.gradcheck", "gradient.network-exact"),
    ),
    Fault(
        "parameters are flattened column by column",
        {"nn.parameters.flatten_parameters": _columns_first},
        ("types.round-trip",),
        ("types.wrong-shapes", "types.layout"),
    ),
    Fault(
        "the vector is stored one place further on, consistently",
        _biases_first(),
        ("types.layout",),
        ("types.round-trip",),
    ),
    Fault(
        "a layer's shapes are not checked",
        {"chainrule.dense.check_dense_shapes": lambda *arguments: None},
        ("types.wrong-shapes",),
        ("types.wrong-upstream",),
    ),
    Fault(
        "upstream gradients may broadcast",
        {"chainrule.arrays.check_upstream": lambda *arguments: None},
        ("types.wrong-upstream",),
        ("types.wrong-shapes",),
    ),
    Fault(
        "plain SGD has momentum",
        {"training.config.optimizers.build_optimizer": _momentum},
        ("convergence.sgd-enumerated", "convergence.gd-quadratic", "convergence.running-mean"),
        ("convergence.batch-variance",),
    ),
]  # fmt: skip
