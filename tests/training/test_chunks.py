"""Chunks of steps captured as one: the same run, stopped where it would have been stopped.

A stand-in for a CUDA graph computes again what the graph would launch, which differs in nothing but speed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lean_mnist.chainrule import dense
from lean_mnist.data.batches import BatchRing
from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import GradientMismatch, HealthError, MemoryFault
from lean_mnist.nn.engine.graph import CannotCapture, CudaGraph, Graph, GraphEngine
from lean_mnist.nn.step import RING_DEPTH, put_flat_gradients
from lean_mnist.nn.update import Update
from lean_mnist.training.config.optimizers import build_optimizer
from lean_mnist.training.distributed import World
from lean_mnist.training.hooks.graph_screen import GraphScreen
from lean_mnist.training.objectives import build, classification
from lean_mnist.training.objectives.classification import Classification
from tests.support.planting import Plant
from tests.support.training_cases import digits_config, digits_run, load, named

taken: list[int] = []


class Again:
    """As ``CudaGraph``: computes once more at every ``replay``."""

    replaying = False

    def __init__(self, compute: Callable[[], Any], restored: Sequence[Tensor] = ()) -> None:
        self.before = [tensor.clone() for tensor in restored]
        with torch.no_grad():
            self.result = compute()
        for tensor, old in zip(restored, self.before, strict=True):
            tensor.copy_(old)
        self._compute = compute

    def replay(self) -> None:
        Again.replaying = True
        with torch.no_grad():
            self.result = self._compute()
        Again.replaying = False
        if isinstance(self.result, list):  # the tapes of a whole chunk
            taken.append(len(self.result))


def graphs(patch: pytest.MonkeyPatch, graph: Graph = Again, **options: Any) -> None:
    """Every run is taken by the engine of a GPU, on the processor; ``graph`` stands in for a CUDA graph."""
    taken.clear()
    patch.setattr(build, "batch_memory", lambda *arguments: (BatchRing(RING_DEPTH + 1), ""))

    class Graphs(GraphEngine):
        def __init__(self, *arguments: Any, **given: Any) -> None:
            super().__init__(*arguments, **{**given, **options}, graph=graph)

    patch.setattr(classification, "GraphEngine", Graphs)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs(monkeypatch)


OPTIONS: dict[str, Any] = {
    "batch_size": 32, "log_every": 40, "epochs": 3, "check": "audit", "check_every": 80, "gradcheck_every": 500,
}  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"clip_norm": 0.5, "check": "off"}, {"momentum": 0.0, "schedule": "one-cycle"}, {"precision": "bfloat16"},
    {"check": "screen"}, {"check": "full"}, {"check": "full", "precision": "bfloat16", "momentum": 0.0},
], ids=str)  # fmt: skip
def test_the_run_is_the_same(captured: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: Any) -> None:
    for folder in ("together", "alone"):
        (tmp_path / folder).mkdir()
    together = digits_run(tmp_path / "together", **{**OPTIONS, **options})
    assert sum(taken) > together.summary.state.step / 3
    graphs(monkeypatch, whole_chunks=False)
    alone = digits_run(tmp_path / "alone", **{**OPTIONS, **options})
    assert not taken
    for name, value in load(alone.last)["model"].items():
        # Learning rates are float32 on the device.
        assert torch.allclose(load(together.last)["model"][name], value, rtol=0, atol=1e-5), name
    for name in ("train/loss", "train/epoch_loss", "validation/loss", "train/learning_rate"):
        found, expected = named(together.records, name), named(alone.records, name)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for count in ("comparisons", "screens", "transient", "failures"):
        assert together.summary_json["checks"][count] == alone.summary_json["checks"][count]


@pytest.mark.parametrize("diverging", [True, False])
def test_a_step_that_is_not_finite_stops_the_run_with_the_weights_as_they_were(
    monkeypatch: pytest.MonkeyPatch, plant: Plant, tmp_path: Path, diverging: bool
) -> None:
    # Weights that decay by more than twice themselves grow, twofold a step.
    options = {**OPTIONS, "check": "off", "schedule": "constant", "momentum": 0.0, "lr": 0.05}
    options["weight_decay"] = 60.0 if diverging else 0.0
    right, make, first_rows, made = dense.dense_backward, build.build_model, [], []

    def backward(tape: Any, *arguments: Any) -> Any:
        found: Any = right(tape, *arguments)
        if tape.x_BD.shape[1] == 64:
            row = tape.x_BD[0].sum()
            first_rows.append(row.clone())
            if not diverging and bad is not None:  # from finite numbers, at one batch
                found.bias_H.add_(torch.where(row == bad, torch.inf, 0.0))
        return found

    plant("chainrule.dense.dense_backward", backward)

    def build_model(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(build, "build_model", build_model)
    bad: Tensor | None = None
    if not diverging:
        digits_run(tmp_path, **options, engine="eager")
        bad = first_rows[69]
    messages = []
    for whole_chunks in (False, True):
        graphs(monkeypatch, whole_chunks=whole_chunks)
        (folder := tmp_path / f"{whole_chunks}").mkdir()
        with pytest.raises(HealthError) as raised:
            digits_run(folder, **options)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert diverging or messages[0].startswith("step 70: the gradient of layers.0.bias is not finite")
    assert taken
    for ours, expected in zip(made[-1].parameters(), made[-2].parameters(), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-5)
        assert torch.isfinite(ours).all()


def test_what_cannot_be_captured_is_taken_step_by_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(compute: Any, restored: Any) -> Any:
        Again(compute, restored)
        raise CannotCapture("operation not permitted when stream is capturing")

    found = []
    for refused in (False, True):
        if refused:
            graphs(monkeypatch, refuse)
        (folder := tmp_path / f"{refused}").mkdir()
        options = {**OPTIONS, "precision": "bfloat16", "check": "off", "engine": "eager"}
        found.append(load(digits_run(folder, **options).last)["model"])
    assert not taken
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_no_step_that_a_hook_is_to_look_at_is_one_of_several(
    captured: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits_run(tmp_path, **{**OPTIONS, "epochs": 1, "check": "screen", "log_every": 8})
    assert not taken


def a_fault(plant: Plant, row: Tensor, times: int) -> list[int]:
    """A bias gradient with one wrong element, so many times, at the step whose batch begins with such a row."""
    found = list[int]()

    def wrong(parameters: Any, batches: Any) -> Any:
        result = put_flat_gradients(parameters, batches)
        if len(found) < times and batches and torch.equal(batches[0][0][0], row):
            found.append(1)
            bias_gradient = result.gradients[0][1]
            assert bias_gradient is not None
            bias_gradient[3] += 0.1
        return result

    plant("nn.engine.graph.put_flat_gradients", wrong)
    return found


FULL: dict[str, Any] = {**OPTIONS, "check": "full", "epochs": 2}
STEP = 70


@pytest.fixture
def row_of_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The first row of the batch of step ``STEP``; and the weights of the run without a fault, in ``right``."""
    rows: list[Tensor] = []
    with monkeypatch.context() as patch:
        put = vars(classification)["put_flat_gradients"]

        def noted(parameters: Any, batches: Any) -> Any:
            rows.append(batches[0][0][0].clone())
            return put(parameters, batches)

        patch.setattr(classification, "put_flat_gradients", noted)
        (folder := tmp_path / "right").mkdir()
        digits_run(folder, **FULL, engine="eager")
    return rows[STEP - 1]


def test_a_wrong_gradient_in_a_chunk_is_refused_at_its_step(
    row_of_step: Tensor, captured: None, plant: Plant, tmp_path: Path
) -> None:
    a_fault(plant, row_of_step, 1000)
    with pytest.raises(GradientMismatch, match=rf"^gradient check failed at step {STEP}: layers\.0\.bias\[3\]: "):
        digits_run(tmp_path, **FULL)
    assert sum(taken) > STEP / 2


def test_a_fault_in_a_chunk_that_is_gone_again_leaves_nothing(
    row_of_step: Tensor, captured: None, plant: Plant, tmp_path: Path
) -> None:
    found = a_fault(plant, row_of_step, 1)
    run = digits_run(tmp_path, **FULL)
    assert found
    assert run.summary_json["checks"]["transient"] == 1
    notice = next(record for record in run.records if record["name"] == "screen/transient")
    assert notice["step"] == STEP
    for name, value in load(tmp_path / "right/checkpoints/a-run/last.pt")["model"].items():
        assert torch.allclose(load(run.last)["model"][name], value, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("place", [0, 6, 7])
@pytest.mark.parametrize("what", ["weights", "momentum"])
def test_a_bit_that_flips_in_a_chunk(
    row_of_step: Tensor, captured: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, place: int
) -> None:
    moved, calls = GraphScreen.moved, list[int]()

    def flipping(screen: Any) -> None:
        moved(screen)
        if Again.replaying and sum(taken) >= 16:
            calls.append(1)
            if len(calls) == place + 1:
                guard = screen._guard
                flat = guard._parameters.vector if what == "weights" else guard._update.optimizer.momentum[0]
                flat.data.view(torch.int32)[5] ^= 1

    monkeypatch.setattr(GraphScreen, "moved", flipping)
    if place == 7:  # after the chunk's last step
        with pytest.raises(MemoryFault, match=r"layers\.0\.weight.* was changed in memory"):
            digits_run(tmp_path, **FULL)
        return
    run = digits_run(tmp_path, **FULL)
    assert run.summary_json["checks"]["transient"] == 1
    for name, value in load(tmp_path / "right/checkpoints/a-run/last.pt")["model"].items():
        assert torch.allclose(load(run.last)["model"][name], value, rtol=0, atol=1e-5), name


class NoHost(TorchDispatchMode):
    """Refuses what a captured graph cannot hold: operations after which the host must wait for the device."""

    waits = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        booleans = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert name not in self.waits, name
        assert not booleans
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_screened_step_is_kernels_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, activation: str
) -> None:
    seen: list[int] = []

    def graph(compute: Callable[[], Any], restored: Sequence[Tensor] = ()) -> Again:
        made = Again(compute, restored)  # what is made once, the first time, is not captured
        if isinstance(made.result, list):
            with NoHost(), torch.no_grad():  # type: ignore[no-untyped-call]
                compute()
            seen.append(len(made.result))
            for tensor, old in zip(restored, made.before, strict=True):
                tensor.copy_(old)
        return made

    graphs(monkeypatch, graph)
    digits_run(tmp_path, **FULL, precision=precision, activation=activation, clip_norm=1.0, logit_penalty=0.01)
    assert seen
    assert taken


def test_when_steps_are_captured() -> None:
    def memory(**options: Any) -> Any:
        return build.batch_memory(digits_config(**options), 100, 64)[0]

    assert isinstance(memory(device="cuda"), BatchRing)
    assert isinstance(memory(device="cuda", precision="bfloat16"), BatchRing)
    others: list[dict[str, Any]] = [
        {"device": "cpu"}, {"engine": "eager"}, {"accumulate": 2}, {"quantize": 4, "normalization": "unit"},
    ]  # fmt: skip
    for other in others:
        assert not isinstance(memory(**{"device": "cuda", **other}), BatchRing)


@pytest.mark.parametrize(("options", "processes", "whole"), [
    ({}, 1, True), ({"precision": "bfloat16"}, 1, True), ({"optimizer": "adam"}, 1, False),
    ({"precision": "float64"}, 1, False), ({}, 2, False),
], ids=str)  # fmt: skip
def test_when_whole_chunks_are_captured(
    monkeypatch: pytest.MonkeyPatch, options: Any, processes: int, whole: bool
) -> None:
    graphs(monkeypatch)
    found: list[bool] = []
    monkeypatch.setattr(classification, "GraphEngine", lambda *arguments, whole_chunks: found.append(whole_chunks))
    world = World()
    world.size = processes
    objective = Classification(digits_config(device="cpu", **options), load_dataset("digits"), world)
    optimizer = build_optimizer(objective.config, [objective.parameters.vector])
    objective.engine(Update(objective.parameters.network, optimizer, flat=objective.parameters), lambda: False)
    assert found == [whole]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_run_is_that_without_graphs(tmp_path: Path) -> None:
    found = []
    for engine in ("auto", "eager"):
        (folder := tmp_path / engine).mkdir()
        found.append(digits_run(folder, **OPTIONS, device="cuda", engine=engine))
    captured, alone = (load(run.last)["model"] for run in found)
    for name, value in alone.items():
        assert torch.allclose(captured[name], value, rtol=0, atol=1e-4), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_does_again_what_was_captured() -> None:
    x = torch.arange(4.0, device="cuda")
    total = torch.zeros((), device="cuda")

    def compute() -> Tensor:
        total.add_(x.sum())
        return x * 2

    graph = CudaGraph(compute, [total])
    assert float(total) == 0
    x.fill_(3)
    graph.replay()
    assert graph.result.tolist() == [6.0] * 4
    assert float(total) == 12
    with pytest.raises(CannotCapture):
        CudaGraph(lambda: float(x.sum()))
