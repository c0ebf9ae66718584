"""The form of a fault for the self-test of obligations, and the replacements that make one."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lean_mnist.chainrule import activations, dense, losses, mlp
from lean_mnist.chainrule.activations import ACTIVATIONS, Activation
from lean_mnist.chainrule.arrays import primitives
from lean_mnist.mutants.planting import planting
from lean_mnist.nn import parameters
from lean_mnist.verification.statements.convergence import CEILING, CLAIMS, SIGMA2

Replacements = dict[str, Any]  # target and replacement, as of ``planting``


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


def dense_fault(change: Callable[[Any, Any, Any], dense.DenseGradients]) -> Replacements:
    """``change(tape, dz, right gradients)`` of a dense layer's backward."""
    original = dense.dense_backward

    def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True)) -> dense.DenseGradients:
        return change(tape, d_z, original(tape, d_z, (True, True, True)))

    return {"chainrule.dense.dense_backward": wrong}


def activation_fault(name: str, backward: Callable[[Any, Any], Any], forward: Any = None) -> Replacements:
    """An activation with this backward, and forward if given."""
    faulty = Activation(name, forward or ACTIVATIONS[name].forward, backward)
    return {f"chainrule.activations.ACTIVATIONS.{name}": faulty}


def cross_entropy_fault(
    backward: Callable[[Any, Any, Any], Any] | None = None, forward: Any = None, penalty_factor: float = 1.0
) -> Replacements:
    """Softmax cross-entropy with ``backward(tape, dloss, right)``, ``forward(right)``, or another penalty."""
    original = losses.softmax_cross_entropy

    def wrong(label_smoothing: float = 0.0, logit_penalty: float = 0.0) -> losses.Loss:
        right = original(label_smoothing, logit_penalty)
        penalised = original(label_smoothing, logit_penalty * penalty_factor)

        def wrong_backward(tape: Any, d_loss: Any) -> Any:
            return backward(tape, d_loss, right) if backward else right.backward(tape, d_loss)

        return losses.Loss(forward(right) if forward else penalised.forward, wrong_backward)

    return {"chainrule.losses.softmax_cross_entropy": wrong}


def on_torch(name: str, method: Callable[..., Any]) -> Replacements:
    """Another primitive of tensors."""
    return {f"chainrule.arrays._TorchPrimitives.{name}": method}


def gelu_without_density(z: Any, d_h: Any) -> Any:
    """GELU's backward without z φ(z)."""
    return d_h * activations._normal_cdf(z)


def greater_or_equal(z: Any, d_h: Any) -> Any:
    """ReLU's backward with the mask z ≥ 0, given z."""
    return primitives(z).where_nonpositive(-z, d_h, d_h * 0)


def relu_that_saves_its_input(z: Any) -> tuple[Any, Any]:
    """ReLU's forward that keeps z."""
    return RIGHT["relu"].forward(z)[0], z


RIGHT = dict(ACTIVATIONS)


def first_weight_lost() -> Replacements:
    """A network's backward that gives no gradient of its first weight."""
    original = mlp.mlp_backward

    def wrong(*arguments: Any) -> mlp.MLPGradients:
        found = original(*arguments)
        (weight, bias), *others = found.layers
        return found._replace(layers=((None if weight is None else weight * 0, bias), *others))

    return {"chainrule.mlp.mlp_backward": wrong}


def columns_first(model: torch.nn.Module) -> torch.Tensor:
    """Parameters flattened column by column."""
    return torch.cat([p.detach().T.reshape(-1) if p.ndim == 2 else p.detach() for p in model.parameters()])


def biases_first() -> Replacements:
    """Flattening and its inverse, both one place further on."""
    original = parameters.unflatten_parameters

    def wrong(vector: torch.Tensor, model: torch.nn.Module) -> None:
        original(vector.roll(1), model)

    def right_back(model: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).roll(-1)

    return {"nn.parameters.unflatten_parameters": wrong, "nn.parameters.flatten_parameters": right_back}


def with_momentum(config: Any, chosen: Any) -> torch.optim.Optimizer:
    """SGD with momentum, whatever the configuration says."""
    return torch.optim.SGD(list(chosen), lr=config.learning_rate, momentum=0.5)


def node_fault(function: type, scale: float) -> Replacements:
    """A node whose gradients are scaled."""
    original = function.backward  # type: ignore[attr-defined]

    def wrong(ctx: Any, *upstream: torch.Tensor) -> Any:
        found = original(ctx, *upstream)
        return tuple(None if g is None else g * scale for g in (found if isinstance(found, tuple) else (found,)))

    return {f"nn.functions.{function.__name__}.backward": wrong}


def scaled_slope(name: str, factor: float) -> Replacements:
    """An activation whose backward is scaled by ``factor``."""
    return activation_fault(name, lambda saved, d_h: RIGHT[name].backward(saved, d_h) * factor)


def only_in(dtype: torch.dtype, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``change`` of tensors of ``dtype`` alone."""
    return lambda g: change(g) if isinstance(g, torch.Tensor) and g.dtype == dtype else g


def network_fault(change: Callable[[Any, Any], Any]) -> Replacements:
    """``change(gradients, layers)`` of what ``mlp_backward`` gives."""
    original = mlp.mlp_backward
    return {"chainrule.mlp.mlp_backward": lambda tape, layers, *more: change(original(tape, layers, *more), layers)}


def weights_times(factor: float, found: Any, where: Callable[[Any], bool], layers: Any) -> Any:
    """The weight gradients of layers ``where`` it holds, scaled."""
    pairs = zip(found.layers, layers, strict=True)
    changed = ((w * factor if w is not None and where(layer) else w, b) for (w, b), layer in pairs)
    return found._replace(layers=tuple(changed))


def in_place_fault(change: Callable[[Any, list[torch.Tensor]], list[torch.Tensor]]) -> Replacements:
    """``change(self, gradients)`` of what is copied to the vector that trains."""
    original = parameters.FlatParameters.gradients_to_vector

    def wrong(self: Any, gradients: Any) -> None:
        original(self, change(self, list(gradients)))

    return {"nn.parameters.FlatParameters.gradients_to_vector": wrong}


def biases_exchanged(self: Any, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of the first two biases exchanged, if they are of one size."""
    if len(gradients) > 3 and gradients[1].shape == gradients[3].shape:
        gradients[1], gradients[3] = gradients[3], gradients[1]
    return gradients


def without_option(option: str) -> Replacements:
    """On float32, the backward forgets an option of the loss."""
    original = losses.softmax_cross_entropy

    def wrong(**options: float) -> losses.Loss:
        right, bare = original(**options), original(**{**options, option: 0.0})

        def backward(tape: Any, d_loss: Any) -> Any:
            narrow = isinstance(tape[0], torch.Tensor) and tape[0].dtype == torch.float32
            return (bare if narrow else right).backward(tape, d_loss)

        return losses.Loss(right.forward, backward)

    def with_names(label_smoothing: float = 0.0, logit_penalty: float = 0.0) -> losses.Loss:
        return wrong(label_smoothing=label_smoothing, logit_penalty=logit_penalty)

    return {"chainrule.losses.softmax_cross_entropy": with_names}


def narrow_node(function: Any) -> Replacements:
    """On float32, a node that is 1 % off."""
    original = function.backward
    one_percent = only_in(torch.float32, lambda g: g * 1.01)
    return {f"nn.functions.{function.__name__}.backward": lambda *given: tuple(map(one_percent, original(*given)))}


SQUARED = losses.squared_error()


def odd_batches() -> Replacements:
    """On tensors, a mean of an odd number B of losses that divides by B + 1 in the backward."""
    original = losses.mean_backward

    def wrong(loss_B: Any, d_mean: Any) -> Any:
        found, size = original(loss_B, d_mean), loss_B.shape[0]
        return found * (size / (size + 1)) if isinstance(loss_B, torch.Tensor) and size % 2 else found

    return {"chainrule.losses.mean_backward": wrong}


def square_weights_transposed(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The columns of a weight, of a square one its rows."""
    return lambda p: p.reshape(-1) if p.dim() == 2 and p.shape[0] == p.shape[1] else original(p)


def float32_fault(name: str, change: Callable[[Any], Any]) -> Replacements:
    """On float32, a primitive's result is changed."""
    original = getattr(primitives(torch.zeros(1)), name)
    return on_torch(name, lambda x: only_in(torch.float32, change)(original(x)))


def small_counts_as_negative(limit: float, dtype: torch.dtype | None = None) -> Replacements:
    """On tensors, of ``dtype`` or of any, a mask that takes what is at most ``limit`` for not positive."""
    original = type(primitives(torch.zeros(1))).where_nonpositive

    def wrong(self: Any, condition: Any, then: Any, otherwise: Any) -> Any:
        if dtype in (None, condition.dtype):
            return torch.where(condition <= limit, then, otherwise)
        return original(self, condition, then, otherwise)

    return on_torch("where_nonpositive", wrong)


def claim_fault(name: str, **changes: Any) -> Replacements:
    """Another learning rate or bound in a claim of convergence."""
    claim = CLAIMS[name]
    changed = {key: change(getattr(claim, key)) for key, change in changes.items()}
    return {f"verification.statements.convergence.CLAIMS.{name}": replace(claim, **changed)}


def ceiling_fault(change: Callable[[Any], Any]) -> Replacements:
    """Another ceiling of the sum of squares of Robbins and Monro."""
    return {"verification.statements.convergence.CEILING": change(CEILING)}


def noise_term_subtracted(bound: Any) -> Any:
    """A bound with the wrong sign of the noise."""
    return bound.subs(SIGMA2, -SIGMA2)
