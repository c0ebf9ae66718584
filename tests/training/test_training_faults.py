"""Faults while training: not finite, for a moment or for good; weights of no use; too little memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist import train
from lean_mnist.audit.step_audit import StepAudit
from lean_mnist.chainrule import dense
from lean_mnist.data.batches import Batches
from lean_mnist.errors import (
    CertificateError,
    ConfigError,
    OutOfMemory,
    is_out_of_memory,
    memory_for,
)
from lean_mnist.invocation import typed
from lean_mnist.mutants.native import kernels_with
from lean_mnist.nn.engine.native import NativeEngine
from lean_mnist.nn.update import Update
from lean_mnist.training.config.schedules import learning_rate_schedule
from lean_mnist.training.objectives import classification
from lean_mnist.training.objectives.classification import Classification
from lean_mnist.training.run import run
from lean_mnist.training.steps import Steps
from tests.support.distributed_cases import together
from tests.support.planting import Plant
from tests.support.training_cases import (
    LAST,
    NAME,
    STEPS_PER_EPOCH,
    FinishedRun,
    call,
    digits_config,
    digits_run,
    identical,
    load,
    named,
    spoil_weights,
)


def _spoils_backward(plant: Plant, calls: Callable[[int], bool]) -> None:
    """Puts a NaN into the first layer's gradient at those calls of its backward, counted from 1."""
    right, made = dense.dense_backward, []

    def wrong(tape: Any, d_z: Any, needs: Any = (True, True, True), *into: Any) -> Any:
        found: Any = right(tape, d_z, needs, *into)
        if isinstance(d_z, torch.Tensor) and tape.weight_HD.shape == (128, 64):  # not the enclosure's
            made.append(1)
            if calls(len(made)):
                found.bias_H[1] = torch.nan
        return found

    plant("chainrule.dense.dense_backward", wrong)


def _spoils_in_c(plant: Plant, step: int) -> None:
    """Makes the loss of that step, counted from 1, NaN when it is taken with others in one call."""
    rate = torch.tensor(learning_rate_schedule(digits_config(), STEPS_PER_EPOCH)(step - 1), dtype=torch.float32)
    right = "loss /= examples;"
    wrong = f"{right} if (work->update && work->rates[step] == {float(rate).hex()}f) loss = NAN;"
    plant("nn.engine.native.load_kernels", lambda: kernels_with(right, wrong))


@pytest.mark.parametrize(("check", "step", "engine"), [
    ("off", 1, "eager"), ("audit", 1, "eager"), ("audit", 6, "eager"), ("full", 6, "eager"),
    ("off", 6, "native"), ("audit", 6, "native"), ("full", 6, "native"),
])  # fmt: skip
def test_what_is_not_finite_for_a_moment_is_told_and_never_applied(
    check: str,
    step: int,
    engine: str,
    short_run: FinishedRun,
    tmp_path: Path,
    plant: Plant,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if engine == "eager":
        _spoils_backward(plant, lambda call: call == step)
    else:
        _spoils_in_c(plant, step)
    finished = digits_run(tmp_path, check=check, engine=engine)
    assert finished.summary.state.checks.transient == 1
    assert finished.summary_json["checks"]["transient"] == 1
    assert "transient  faults that were gone when a step was computed again: 1" in str(finished.summary)
    (notice,) = [record for record in finished.records if record["name"] == "health/transient"]
    assert notice["step"] == step
    assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "undisturbed").mkdir()
    undisturbed = short_run if engine == "native" else digits_run(tmp_path / "undisturbed", engine=engine)
    assert identical(load(finished.last)["model"], load(undisturbed.last)["model"])
    assert undisturbed.summary.state.checks.transient == 0
    assert "transient" not in str(undisturbed.summary)


@pytest.mark.parametrize("value", [1e38, -(2.0**60), torch.inf, torch.nan])
def test_weights_of_no_use_end_the_run_before_anything_is_made_of_them(
    value: float, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_weights(monkeypatch, STEPS_PER_EPOCH, value)
    arguments = ["--dataset", "digits", "--epochs", "2", "--run-name", NAME, "--quiet"]
    status, out, err = call(train.main, arguments, monkeypatch, capsys)
    assert (status, out) == (3, "")
    assert err.startswith(
        f"error: step {STEPS_PER_EPOCH}: layers.0.weight[3, 5] is {value:.6g}; expected weights below"
    )
    assert err.count("\n") == 1
    assert load(LAST)["training"]["state"]["step"] == 0
    assert not LAST.with_name("best.pt").exists()


def test_weights_that_a_certificate_takes_are_of_use(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_weights(monkeypatch, 2 * STEPS_PER_EPOCH, 2.0**59)
    assert run(digits_config(check="audit")).state.step == 2 * STEPS_PER_EPOCH


def test_which_errors_say_that_memory_was_short() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"))
    assert not is_out_of_memory(RuntimeError("shape '[3]' is invalid for input of size 2"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
    with pytest.raises(OutOfMemory, match=r"^out of memory while baking$"), memory_for("tidying"), memory_for("baking"):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="invalid"), memory_for("tidying"):
        torch.ones(2).reshape(3)


def test_options_about_faults_that_make_no_sense_together() -> None:
    with pytest.raises(ConfigError, match=r"^--rollbacks: expected --on-nonfinite rollback beside it, found stop$"):
        digits_config(rollbacks=2)
    with pytest.raises(ConfigError, match=r"^--rollbacks: expected at least 1, found 0$"):
        digits_config(on_nonfinite="rollback", rollbacks=0)
    with pytest.raises(ConfigError, match=r"^--rank-timeout: expected at least 1, found 0$"):
        digits_config(rank_timeout=0)
    assert digits_config().allowed_rollbacks == 0
    assert digits_config(on_nonfinite="rollback").allowed_rollbacks == 3


# -- too little memory ------------------------------------------------------------------------------------------------


def _short() -> None:
    torch.empty(2**60)


def _short_in(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int = 1) -> None:
    """That call of a function, counted from 1, finds too little memory."""
    right, made = getattr(owner, name), []

    def wrong(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        if len(made) == call:
            _short()
        return right(*arguments, **options)

    patch.setattr(owner, name, wrong)


SHORT: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "step as written": (lambda patch: _short_in(patch, Update, "apply", 2), "computing step 2"),
    "step": (lambda patch: _short_in(patch, NativeEngine, "step"), "computing step 1"),
    "chunk": (lambda patch: _short_in(patch, NativeEngine, "chunk"), "computing step 2"),
    "audit": (lambda patch: _short_in(patch, StepAudit, "check"), "checking the gradients of step 1"),
    "evaluation": (
        lambda patch: _short_in(patch, Classification, "evaluate"),
        f"evaluating the validation split after step {STEPS_PER_EPOCH}",
    ),
    "checkpoint": (lambda patch: _short_in(patch, torch, "save", 2), f"saving best.pt at step {STEPS_PER_EPOCH}"),
    "batches": (lambda patch: _short_in(patch, Batches, "chunks"), "training"),
    "test": (lambda patch: _short_in(patch, classification, "evaluate", 3), "summing up the run"),
    "certificate": (lambda patch: _short_in(patch, classification, "certify_run"), "certifying"),
}


@pytest.mark.parametrize("where", SHORT)
def test_too_little_memory_is_one_line_and_the_run_goes_on_later(
    where: str,
    here: Path,
    short_run: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, what = SHORT[where]
    arguments = ["--dataset", "digits", "--epochs", "2", "--run-name", NAME, "--quiet"]
    if where == "step as written":
        arguments += ["--engine", "eager"]
        (here / "eager").mkdir()
        short_run = digits_run(here / "eager", engine="eager")
    with monkeypatch.context() as patch:
        put(patch)
        status, out, err = call(train.main, arguments, patch, capsys)
    assert (status, out) == (2, "")
    hint = f"the last checkpoint is whole; to go on: {typed('python -m lean_mnist.train', '--resume', LAST.parent)}"
    assert err == f"error: out of memory while {what}; {hint}\n"
    status, out, err = call(train.main, ["--resume", NAME, "--quiet"], monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert identical(load(LAST)["model"], load(short_run.last)["model"])


def test_too_little_memory_of_one_rank_is_said_by_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Steps._computed

    def computed(steps: Steps, *arguments: Any) -> Any:
        if steps.world.rank == 1 and steps.state.step == 4:
            _short()
        return compute(steps, *arguments)

    monkeypatch.setattr(Steps, "_computed", computed)
    outcomes = together(2, lambda world: run(digits_config(), None, world))
    assert {type(error) for _, error in outcomes} == {OutOfMemory}
    assert {str(error).partition(";")[0] for _, error in outcomes} == {"rank 1: out of memory while computing step 5"}
    assert [error.reported_elsewhere for _, error in outcomes if error] == [False, True]


# -- a network without a certificate ----------------------------------------------------------------------------------


def test_a_run_whose_network_cannot_be_certified_is_summed_up_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise CertificateError("weights: no certificate takes them")

    monkeypatch.setattr(classification, "certify_run", refuse)
    finished = digits_run(tmp_path, epochs=1)
    assert finished.summary_json["certificate"] == {"path": None, "why_not": "weights: no certificate takes them"}
    assert finished.summary_json["checks"]["verdict"] == "passed"
    assert not (finished.folder / "certificate.json").exists()
    assert "certified  nothing: weights: no certificate takes them" in str(finished.summary)
    assert named(finished.records, "certificate/none") == ["no certificate: weights: no certificate takes them"]
    assert len(capsys.readouterr().err.splitlines()) == 1
