"""A run as a checkpoint holds it, and back."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from lean_mnist.command_line import option_name
from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.nn.update import Optimizer
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.checkpoints import content_hash, read_checkpoint
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.config.optimizers import restore_optimizer
from lean_mnist.training.config.places import checkpoint_path
from lean_mnist.training.config.schedules import BY_EPOCHS as SCHEDULES_BY_EPOCHS
from lean_mnist.training.generations import looks_of
from lean_mnist.training.objectives.protocol import Objective
from lean_mnist.training.state import RunState
from lean_mnist.version import __version__


def restore_run(
    content: Mapping[str, Any], path: Path, objective: Objective, optimizer: Optimizer
) -> tuple[RunState, dict[str, int] | None]:
    """Put objective, optimizer and PyTorch's random numbers where the ``last.pt`` at ``path`` left them.

    Returns the run's state and the sizes of its log files, where known. Raises ``CheckpointError`` or ``ConfigError``.
    """
    where = shown(path)
    if content.get("training") is None:
        raise CheckpointError(f"{where}: expected a last.pt, from which a run can go on, found another checkpoint")
    if content["data"]["sha256"] != objective.fingerprint:
        found = f"the {objective.config.dataset} found now is not the one this run was started on (its hash differs)"
        raise ConfigError(f"{where}: {found}")
    classes, names = content["data"].get("class_names"), list(objective.dataset.class_names)
    if classes not in (None, names):  # which are in no hash
        found = f"{printable(', '.join(names), 60)}, expected {printable(', '.join(classes), 60)} as it was started on"
        raise ConfigError(f"{where}: the classes of {objective.config.dataset} are {found}")
    objective.restore(content, path)
    training = content["training"]
    restore_optimizer(optimizer, training["optimizer"], where)
    try:
        torch.set_rng_state(training["rng"])
    except RuntimeError:
        raise CheckpointError(f"{where}: training.rng: no state of PyTorch's random numbers") from None
    state = msgspec.convert(training["state"], RunState)
    if goes_on(content, objective):
        state.finished = ""
        state.known_looks(state.test_looks)
    over = state.epoch >= objective.config.epochs and not state.finished
    empty = state.batch > 0 and state.epoch_examples == 0
    there = state.step == objective.step_at(state.epoch, state.batch) and math.isfinite(state.epoch_loss_sum)
    if over or empty or not there:
        found = f"step {state.step}, epoch {state.epoch}, batch {state.batch}, loss {state.epoch_loss_sum}"
        raise CheckpointError(f"{where}: training.state: expected a place in this run, found {found}")
    return state, training.get("logs")


def goes_on(content: Mapping[str, Any], objective: Objective) -> bool:
    """True if the run in a checkpoint is to have more epochs than it was started with."""
    epochs = objective.config.to_dict()["epochs"]
    return bool(epochs > content["config"].get("epochs", epochs))


def about_going_on(content: Mapping[str, Any], objective: Objective, state: RunState) -> str:
    """Line that says what it means that the run in a checkpoint gets more epochs."""
    config, before = objective.config, content["config"]["epochs"]
    if config.schedule in SCHEDULES_BY_EPOCHS:
        rate, schedule = objective.learning_rate(state.step), f"--schedule {config.schedule}"
        how = f"by {schedule} of so many, with a rate of {rate:.3g} now; before, rates were those of {before} epochs"
    else:
        how = f"as a run of {config.epochs} from the start"
    pays = "; its test accuracy is known, so that a certificate pays for adaptive evaluations"
    return f"{config.epochs} epochs rather than {before}: from epoch {state.epoch + 1} on {how}{pays * state.adaptive}"


def start_from(which: str, objective: Objective) -> tuple[RunState, str]:
    """Take the weights of a run or checkpoint; returns the state to start from, and what is to be said about that.

    Evaluations of the same test split that led to them are taken over, as a certificate pays for them. Raises
    ``ConfigError`` where there are no such weights or they are of other shapes.
    """
    try:
        path = checkpoint_path(which, objective.config.checkpoints_dir)
        content = read_checkpoint(path)
        dtype = objective.parameters.vector.dtype
        weights = {name: tensor.to(dtype) for name, tensor in content["model"].items()}
        objective.restore({"model": weights}, path)
    except CheckpointError as error:
        raise ConfigError(f"--init-from: {error}") from None
    state, metrics, data = RunState(), content["metrics"], content["data"]
    said = f"weights are those of {shown(path)}, step {metrics['step']}"
    if data["sha256"] == objective.fingerprint:
        state.known_looks(metrics["test_looks"], step=0)
        return state, f"{said}; a certificate pays for the {len(state.test_looks)} evaluations of the test split there"
    said += f", trained on {printable(data['name'], 60)}"
    return state, f"{said}; a certificate assumes that no test image was among these data"


def run_content(
    which: str, objective: Objective, optimizer: Optimizer, state: RunState, logs: Mapping[str, int]
) -> dict[str, Any]:
    """The run as it is, as the checkpoint ``which`` holds it; all but the ``"best"`` also hold what is needed to go on.

    ``logs`` are the sizes of its log files, to which they are cut back where the run goes on from there.
    """
    own, position = objective.saved(best=which == "best")
    metrics: dict[str, Any] = {
        "step": state.step,
        "epoch": state.epoch,
        "best": None if state.best is None else {**dataclasses.asdict(state.best), "accuracy": state.best.accuracy},
        **looks_of(state),
    }
    content: dict[str, Any] = {
        **own,
        "config": objective.config.to_dict(),
        "metrics": metrics,
        "crosscheck": state.checks.to_dict(),
        "data": {"name": objective.dataset.name, "sha256": objective.fingerprint, **objective.dataset.about},
        "versions": {"lean_mnist": __version__, "torch": str(torch.__version__)},
    }
    if which != "best":
        rest = {"rng": torch.get_rng_state(), **({"position": position} if position else {}), "logs": dict(logs)}
        content["training"] = {"state": state.to_dict(), "optimizer": optimizer.state_dict(), **rest, "ended": False}
    return content


def start_of(config: Config, fingerprint: str, start: Any) -> dict[str, str]:
    """Values, as text, that must agree on all ranks before the first step: options, data, versions, state.

    ``fingerprint`` is the data set's; ``start`` a nest of plain values and tensors, of which the hash is compared.
    """
    given = {name: value for name, value in config.to_dict().items() if name not in MAY_CHANGE_ON_RESUME}
    options = {option_name(n): " ".join(map(str, v)) if isinstance(v, list) else str(v) for n, v in given.items()}
    versions = {"lean_mnist": __version__, "PyTorch": str(torch.__version__)}
    start_hash = {"the state to start from (SHA-256)": content_hash(start)[:16]}
    return {**options, "the data (SHA-256)": fingerprint[:16], **versions, **start_hash}
