"""Engines of a run's steps: what is taken where, and a fault in C that the first step shows, or an audit later."""

from pathlib import Path
from typing import Any

import pytest

from lean_mnist.data.batches import HotBatch
from lean_mnist.errors import ConfigError, GradientMismatch
from lean_mnist.mutants.native import kernels_with
from lean_mnist.nn.engine.library import CannotCompile
from lean_mnist.training.config import Config
from lean_mnist.training.config.files import config_from_dict
from lean_mnist.training.objectives import build
from lean_mnist.training.run import run
from tests.support.planting import Plant
from tests.support.training_cases import NAME, FinishedRun, digits_config, digits_run, identical, load, named

NO_COMPILER = "there is no C compiler: install gcc or clang, or `pip install ziglang`"
BIAS = "for (int64_t i = 0; i < net->examples;) {"  # the sum that is its gradient


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise CannotCompile(NO_COMPILER)

    monkeypatch.setattr(build, "load_kernels", fail)


def test_without_a_compiler_a_run_says_so_and_is_taken_as_written(
    no_compiler: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = digits_run(tmp_path, check="full")
    assert capsys.readouterr().err.splitlines() == [
        f"warning: step 0: steps are taken as they are written: {NO_COMPILER}"
    ]
    assert len(named(finished.records, "run/engine")) == 1
    (tmp_path / "eager").mkdir()
    eager = digits_run(tmp_path / "eager", engine="eager")
    assert capsys.readouterr().err == ""
    assert identical(load(finished.last)["model"], load(eager.last)["model"])


def test_an_engine_that_cannot_be_had_is_refused_in_one_line(no_compiler: None, here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--engine native: there is no C compiler"):
        run(digits_config(engine="native"))
    assert not list(here.iterdir())


@pytest.mark.parametrize(("options", "why"), [
    ({"accumulate": 2}, "--accumulate takes several batches a step"),
    ({"quantize": 4, "normalization": "unit"}, "a quantised network is computed by PyTorch"),
    ({"precision": "float64"}, "kernels in C are for float32 on a CPU, not for float64 on cpu"),
    ({"precision": "bfloat16"}, "kernels in C are for float32 on a CPU, not for bfloat16 on cpu"),
    ({"device": "cuda"}, "kernels in C are for float32 on a CPU, not for float32 on cuda"),
], ids=str)  # fmt: skip
def test_what_the_engine_in_c_does_not_suit(options: dict[str, Any], why: str) -> None:
    given = {"device": "cpu", **options}
    memory, missing = build.batch_memory(digits_config(**given), 100, 64)
    assert not isinstance(memory, HotBatch)
    assert not missing
    with pytest.raises(ConfigError) as caught:
        build.batch_memory(digits_config(**given, engine="native"), 100, 64)
    assert str(caught.value) == f"--engine native: {why}"


def test_a_batch_of_the_engine_in_c_is_no_larger_than_its_data() -> None:
    memory, _ = build.batch_memory(digits_config(device="cpu", batch_size=128), 100, 64)
    assert isinstance(memory, HotBatch)
    assert memory.features.shape == (100, 64)


@pytest.mark.parametrize(("replay", "engine"), [(True, "auto"), (False, "eager")])
def test_configurations_of_earlier_versions_say_whether_to_replay(replay: bool, engine: Any) -> None:
    assert config_from_dict({"replay": replay, "epochs": 3}, "config.json", Config) == Config(engine=engine, epochs=3)


def test_a_replay_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="replay"):
        config_from_dict({"replay": "often"}, "config.json", Config)


def test_an_engine_that_is_wrong_at_the_first_step_refuses_itself(
    tmp_path: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("nn.engine.native.load_kernels", lambda: kernels_with(BIAS, BIAS.replace("i = 0", "i = 1")))
    finished = digits_run(tmp_path)
    (told,) = named(finished.records, "engine/refused")
    assert told.startswith("the gradient of the bias of layer 1 differs from the chain rule by ")
    assert capsys.readouterr().err == f"warning: step 1: {told}\n"
    assert finished.summary.state.checks.verdict == "passed"
    (tmp_path / "eager").mkdir()
    eager = digits_run(tmp_path / "eager", engine="eager")
    assert identical(load(finished.last)["model"], load(eager.last)["model"])


def _goes_wrong_later(plant: Plant, test: str) -> None:
    """After some batches, gradients of biases leave out an example; the counter's name makes a library of its own."""
    counted = f"static int {test} = 0; if (begin == 0) {test}++; for (int64_t i = {test} > 20; i < net->examples;) {{"
    plant("nn.engine.native.load_kernels", lambda: kernels_with(BIAS, counted))


@pytest.mark.parametrize("check", ["audit", "screen", "full"])
def test_an_engine_that_goes_wrong_later_is_found_by_the_checks(check: str, here: Path, plant: Plant) -> None:
    _goes_wrong_later(plant, check)
    with pytest.raises(GradientMismatch, match=r"^gradient check failed at step \d+: layers\.\d\.bias") as caught:
        run(digits_config(check=check, check_every=5, threads=1))
    assert list(Path("runs", NAME, "failures").glob("step-*.pt"))
    assert "db = Σ dz" in str(caught.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads: int, short_run: FinishedRun, tmp_path: Path) -> None:
    finished = digits_run(tmp_path, threads=threads)
    assert identical(load(finished.last)["model"], load(short_run.last)["model"])
