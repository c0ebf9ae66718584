"""Faults while training: not finite, for a moment or for good; weights of no use; too little memory; signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist import train
from lean_mnist.chainrule import dense
from lean_mnist.errors import ConfigError, Interrupted, OutOfMemory, is_out_of_memory, memory_for
from lean_mnist.nn.update import SGD
from lean_mnist.training.run import run
from lean_mnist.training.stopping import StopRequest
from tests.support.planting import Plant
from tests.support.training_cases import (
    NAME,
    STEPS_PER_EPOCH,
    FinishedRun,
    call,
    digits_config,
    digits_run,
    identical,
    load,
)

LAST = Path("checkpoints", NAME, "last.pt")


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


@pytest.mark.parametrize(("check", "step"), [("off", 1), ("audit", 1), ("audit", 6), ("full", 6)])
def test_what_is_not_finite_for_a_moment_is_told_and_never_applied(
    check: str, step: int, short_run: FinishedRun, tmp_path: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoils_backward(plant, lambda call: call == step)
    finished = digits_run(tmp_path, check=check, replay=False)
    assert finished.summary.state.checks.transient == 1
    assert finished.summary_json["checks"]["transient"] == 1
    assert "transient  1 faults were gone" in str(finished.summary)
    (notice,) = [record for record in finished.records if record["name"] == "health/transient"]
    assert notice["step"] == step
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert identical(load(finished.last)["model"], load(short_run.last)["model"])
    assert short_run.summary.state.checks.transient == 0
    assert "transient" not in str(short_run.summary)


def _spoils_weights(patch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Puts ``value`` in the place of a weight after that many steps of the optimizer."""
    move, made = SGD.step, []

    def moved(optimizer: SGD) -> None:
        move(optimizer)
        made.append(1)
        if len(made) == step:
            optimizer.param_groups[0]["params"][0].detach()[5 * 128 + 3] = value

    patch.setattr(SGD, "step", moved)


@pytest.mark.parametrize("value", [1e38, -(2.0**60), torch.inf, torch.nan])
def test_weights_of_no_use_end_the_run_before_anything_is_made_of_them(
    value: float, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoils_weights(monkeypatch, STEPS_PER_EPOCH, value)
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
    _spoils_weights(monkeypatch, 2 * STEPS_PER_EPOCH, 2.0**59)
    assert run(digits_config()).state.step == 2 * STEPS_PER_EPOCH


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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_ask_once_and_end_at_once_where_nothing_is_lost(name: str) -> None:
    number = getattr(signal, name)
    with StopRequest() as request:
        with request.at_once("never said"):
            assert request.requested == ""
        os.kill(os.getpid(), number)
        assert request.requested == name
        with pytest.raises(Interrupted, match=r"^asked before$"), request.at_once("asked before"):
            raise AssertionError("entered")
    with StopRequest() as request, pytest.raises(Interrupted, match=r"^asked inside$"):
        _end_at_once(request, number)


def _end_at_once(request: StopRequest, number: int) -> None:
    with request.at_once("asked inside"):
        os.kill(os.getpid(), number)
        raise AssertionError("went on")


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.requested == ""
    finally:
        signal.signal(signal.SIGHUP, before)
