"""Steps at which only records are due: computed in a chunk of the engine in C, and looked at before their update."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.errors import MemoryFault
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.step import Step, StepChunk
from lean_mnist.training.hooks.figures import NormsHook
from lean_mnist.training.hooks.step import StepHooks
from lean_mnist.training.sinks.records import Record
from tests.support.training_cases import FinishedRun, digits_run, load, named

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 32, "check_every": 30, "gradcheck_every": 30, "threads": 1}
PARAMETERS = [f"layers.{layer}.{what}" for layer in (0, 1) for what in ("weight", "bias")]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the last step of each chunk was held."""
    found: list[bool] = []
    chunk = NativeEngine.chunk

    def counted(engine: NativeEngine, *arguments: Any, **options: Any) -> StepChunk:
        result = chunk(engine, *arguments, **options)
        found.append(result.held is not None)
        return result

    monkeypatch.setattr(NativeEngine, "chunk", counted)
    return found


def figures(run: FinishedRun) -> dict[str, list[float]]:
    names = ["train/loss", "train/learning_rate", "gradient_norm/all"]
    names += [f"{what}_norm/{name}" for what in ("gradient", "parameter") for name in PARAMETERS]
    return {name: named(run.records, name) for name in names}


@pytest.mark.parametrize(("check", "options"), [
    ("off", {"log_every": 2}), ("audit", {"log_every": 4, "clip_norm": 0.5}), ("screen", {"log_every": 3}),
    ("full", {"log_every": 25, "augment": "affine", "threads": 2}),
    ("full", {"log_every": 1}), ("off", {"log_every": 1}),
], ids=str)  # fmt: skip
def test_run_and_records_are_those_of_steps_taken_by_themselves(
    options: dict[str, Any], check: str, held: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("held", "alone"):
        (tmp_path / folder).mkdir()
    ours = digits_run(tmp_path / "held", **{**OPTIONS, **options}, check=check)
    assert any(held)
    held.clear()
    monkeypatch.setattr(StepHooks, "is_only_observed", lambda hooks, step: False)
    alone = digits_run(tmp_path / "alone", **{**OPTIONS, **options}, check=check)
    assert not any(held)
    for name, value in load(alone.last)["model"].items():
        assert torch.equal(load(ours.last)["model"][name], value), name
    assert [(r["step"], r["name"]) for r in ours.records] == [(r["step"], r["name"]) for r in alone.records]
    for name, values in figures(alone).items():
        assert figures(ours)[name] == pytest.approx(values, rel=1e-6), name
    checks = [run.summary_json["checks"] for run in (ours, alone)]
    assert checks[0]["screens"] == checks[1]["screens"]
    assert checks[0]["comparisons"] == checks[1]["comparisons"]


@pytest.mark.parametrize("what", ["gradient", "parameter"])
def test_what_changes_in_memory_while_a_held_step_is_looked_at_is_not_applied(
    what: str, held: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    observe = NormsHook.on_gradients

    def spoil(hook: NormsHook, step: Step) -> Iterator[Record]:
        if step.number == 20:
            weight = step.model.layers[0].weight
            (weight.grad if what == "gradient" else weight.data)[3, 5] += 0.5
        return observe(hook, step)

    monkeypatch.setattr(NormsHook, "on_gradients", spoil)
    message = {"gradient": "the gradient was changed", "parameter": r"layers\.0\.weight.* was changed"}[what]
    with pytest.raises(MemoryFault, match=f"^step 20: {message} in memory"):
        digits_run(tmp_path, **OPTIONS, log_every=10, check="full")
    assert held[-1]


def test_a_batch_that_is_not_that_of_its_images_is_not_applied(
    held: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chunk = NativeEngine.chunk

    def spoil(engine: NativeEngine, *arguments: Any, **options: Any) -> StepChunk:
        result = chunk(engine, *arguments, **options)
        if result.held is not None:
            result.held.tape.inputs[0][3, 5] += 0.5
        return result

    monkeypatch.setattr(NativeEngine, "chunk", spoil)
    with pytest.raises(MemoryFault, match=r"^step 50: the features of the batch are not those of its images"):
        digits_run(tmp_path, **OPTIONS, log_every=50, check="full")
    assert held[-1]
