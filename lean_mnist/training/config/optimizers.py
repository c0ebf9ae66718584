"""The optimizers that a configuration can name."""

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from lean_mnist.errors import CheckpointError
from lean_mnist.nn.update import SGD, Optimizer
from lean_mnist.reading.schema import Amount, Fields, checked
from lean_mnist.training.config import Config


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer of a configuration, in PyTorch's fused form where it has one."""
    lr, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    if config.optimizer == "sgd":
        return SGD(parameters, lr, momentum, config.nesterov and momentum > 0, decay)
    from torch import optim

    if config.optimizer == "rmsprop":  # the one without a fused form
        return optim.RMSprop(parameters, lr=lr, weight_decay=decay, momentum=momentum)
    adam: type[optim.Adam] = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return adam(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay, fused=True)


class _Saved(Fields):
    state: dict[int, dict[str, Any]]
    param_groups: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1)]


def restore_optimizer(optimizer: Optimizer, saved: Any, where: str) -> None:
    """Take what a run's optimizer, of one parameter, remembers, and its learning rate, from an equal one's.

    Raises ``CheckpointError`` naming the entry that does not fit.
    """
    own, (parameter,) = optimizer.state_dict(), optimizer.param_groups[0]["params"]
    fields = checked(saved, _Saved, where, "training.optimizer", CheckpointError)
    state, (group,) = saved["state"], fields.param_groups
    own["param_groups"][0]["lr"] = checked(group.get("lr"), Amount, where, "training.optimizer.lr", CheckpointError)
    if not set(state) <= {0}:
        raise CheckpointError(f"{where}: training.optimizer.state: expected what is remembered of parameter 0 alone")
    found: dict[str, Any] = state.get(0, {})
    expected = _REMEMBERED[type(optimizer).__name__]
    if not own["param_groups"][0].get("momentum", True):
        expected = expected - {"momentum_buffer"}
    if found and set(found) != expected:
        names = ", ".join(sorted(expected))
        raise CheckpointError(f"{where}: training.optimizer.state: expected {f'{names}, or ' if names else ''}nothing")
    for name, tensor in found.items():
        shape, dtype = (torch.Size(), torch.float32) if name == "step" else (parameter.shape, parameter.dtype)
        if not isinstance(tensor, Tensor) or tensor.shape != shape or tensor.dtype != dtype:
            kind = f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"
            raise CheckpointError(f"{where}: training.optimizer.state.{name}: expected {kind}")
    # Numbers of no use show at the next step, whose gates look at them.
    remembered = {name: tensor.contiguous() for name, tensor in found.items()}
    optimizer.load_state_dict({**own, "state": {0: remembered} if remembered else {}})


_REMEMBERED = {  # by the class of the optimizer
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "RMSprop": {"step", "square_avg", "momentum_buffer"},
}
