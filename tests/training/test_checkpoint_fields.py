"""Checkpoints that somebody changed, with the hash that belongs to it: refused with the field's name, or harmless."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import CheckpointError, ConfigError
from lean_mnist.training.arguments import read_arguments
from lean_mnist.training.checkpoints import load_checkpoint, read_checkpoint, write_checkpoint
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.distributed import World
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.saved_run import restore_run
from tests.support.training_cases import FinishedRun, digits_run, load


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return digits_run(tmp_path_factory.mktemp("small"), epochs=1, hidden=(2,), optimizer="adam")


def changed(small: FinishedRun, path: Path, change: Callable[[dict[str, Any]], Any], which: str = "last") -> Path:
    content = load(small.last if which == "last" else small.best)
    del content["content_sha256"]
    change(content)
    write_checkpoint(path / f"{which}.pt", content)
    return path / f"{which}.pt"


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a field more": (lambda c: c.update(more=1), "object contains unknown field more"),
    "a field of metrics": (lambda c: c["metrics"].update(step=-1), "metrics.step: expected int >= 0"),
    "looks": (lambda c: c["metrics"].update(test_looks=[{"step": 1}]), "metrics.test_looks[0]: object missing"),
    "a purpose": (lambda c: c["metrics"].update(test_looks=[{"step": 1, "purpose": "a\n", "errors": 0}]), "purpose"),
    "best": (lambda c: c["metrics"]["best"].update(examples=0), "metrics.best.examples: expected int >= 1"),
    "a verdict": (lambda c: c["crosscheck"].update(verdict="passed", failures=1), "crosscheck.verdict: passed contrad"),
    "checks": (lambda c: c["crosscheck"].update(kinks=1.5), "crosscheck.kinks: expected int"),
    "data": (lambda c: c["data"].update(name="../x"), "data.name: expected str matching regex"),
    "a hash": (lambda c: c["data"].update(sha256="0"), "data.sha256: expected str matching regex"),
    "versions": (lambda c: c.update(versions={"torch": 2}), "versions[...]: expected str, got int"),
    "an architecture": (lambda c: c["architecture"].update(sizes=[64, 1 << 24, 10]), "expected (16777216, 64)"),
    "a long name": (lambda c: c["architecture"].update(activation="x" * 5000), "found 'xxx"),
    "a rule": (lambda c: c["architecture"].update(rule="nearest"), "architecture.rule: expected none without bits"),
    "widths": (lambda c: c["architecture"].update(sizes=[1] * 200), "architecture.sizes: expected array of length <= "),
    "hidden": (lambda c: c["config"].update(hidden=[1 << 23]), "config.hidden: (8388608,) contradicts the arch"),
    "a bias": (lambda c: c["config"].update(bias=False), "config.bias: False contradicts the architecture"),
    "bits": (lambda c: c["config"].update(quantize=2, normalization="unit"), "config.quantize: 2 contradicts the arch"),
    "a dtype": (lambda c: c["model"].update({"layers.0.bias": torch.zeros(2).double()}), "all of one kind"),
    "a rank": (lambda c: c["normalization"].update(scale=0), "normalization.scale: 0, expected a finite number"),
    "random numbers": (lambda c: c["training"].update(rng=torch.zeros(3)), "training.rng: expected the state"),
    "a state": (lambda c: c["training"]["state"].update(seconds=math.inf), "training.state.seconds: expected float <="),
    "rollbacks": (lambda c: c["training"]["state"].update(rollbacks=-400), "state.rollbacks: expected int >= 0"),
    "the state": (lambda c: c["training"].update(state=torch.zeros(3)), "training.state: expected object"),
    "checks of state": (lambda c: c["training"]["state"]["checks"].update(x=1), "state.checks: object contains"),
    "a position": (lambda c: c["training"].update(position={"x": 1}), "training.position: expected at most"),
    "a start of the epoch": (
        lambda c: c["training"].update(position={"epoch_start": torch.zeros(3)}), "epoch_start, a vector of",
    ),
    "an average": (
        lambda c: c["training"].update(position={"average": c["model"]}), "average: expected of a run with --average",
    ),
    "no average": (lambda c: c["config"].update(average=0.5), "position.average: expected of a run with --average"),
    "a place of an average": (
        lambda c: (c["config"].update(average=0.5), c["training"].update(position={"average": {"x": 1}})),
        "layers.0.weight: expected (2, 64) for training.position.average, found none",
    ),
    "log files": (lambda c: c["training"].update(logs={"../../x": 0}), "at key in $.training.logs"),
    "a hash of the best": (lambda c: c["training"].update(best_sha256="x"), "training.best_sha256: expected str"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_field_is_named(kind: str, small: FinishedRun, tmp_path: Path) -> None:
    change, message = CHANGES[kind]
    path = changed(small, tmp_path, change)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def resume(path: Path) -> None:
    """All of a resume but the steps."""
    config, _ = read_arguments(["--resume", str(path)])
    objective = Classification(config, load_dataset("digits", "data"), World())
    restore_run(read_checkpoint(path), path, objective, build_optimizer(config, [objective.parameters.vector]))


RESUMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nothing of a run": (lambda c: c.update(training=None), "expected a last.pt"),
    "no optimizer": (lambda c: c["training"].update(optimizer={}), "training.optimizer: object missing required field"),
    "another optimizer": (lambda c: c["training"]["optimizer"]["state"][0].pop("step"), "expected exp_avg, exp_avg_sq"),
    "a shape": (lambda c: c["training"]["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "state.exp_avg: exp"),
    "a dtype": (lambda c: c["training"]["optimizer"]["state"][0].update(step=torch.tensor(1)), "state.step: expected"),
    "a rate": (lambda c: c["training"]["optimizer"]["param_groups"][0].update(lr="x"), "training.optimizer.lr: exp"),
    "a second parameter": (lambda c: c["training"]["optimizer"]["state"].update({1: {}}), "of parameter 0 alone"),
    "random numbers": (lambda c: c["training"]["rng"].fill_(255), "training.rng: no state of PyTorch's random numbers"),
    "an end": (lambda c: c["training"]["state"].update(finished=""), "training.state: expected a place in this run"),
    "an empty epoch": (lambda c: c["training"]["state"].update(epoch=0, batch=11, finished=""), "a place in this"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RESUMED)
def test_what_a_run_goes_on_from_is_held_against_the_run(kind: str, small: FinishedRun, tmp_path: Path) -> None:
    change, message = RESUMED[kind]
    resume(changed(small, tmp_path, lambda content: None))
    path = changed(small, tmp_path, change)
    with pytest.raises(CheckpointError) as raised:
        resume(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2, 3.5, math.nan, math.inf, 2**62, "", "a\n\x1b[2J", "../..", "/dev/zero", [], {}, [1], {"a": 1},
    {0: 1}, torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.uint8), torch.float32,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def test_random_changes_are_refused_in_one_line_or_harmless(small: FinishedRun, tmp_path: Path) -> None:
    content = load(small.last)
    del content["content_sha256"]
    draw, refused = random.Random(5), 0
    for _ in range(200):
        other = copy.deepcopy(content)
        *path, last = draw.choice(list(places(content)))
        at = other
        for key in path:
            at = at[key]
        if draw.random() < 0.2 and isinstance(at, dict):
            del at[last]
        else:
            at[last] = copy.deepcopy(draw.choice(VALUES))
        write_checkpoint(tmp_path / "last.pt", other)
        try:
            resume(tmp_path / "last.pt")
        except (CheckpointError, ConfigError) as error:
            refused += str(error).isprintable()
    assert refused > 100
