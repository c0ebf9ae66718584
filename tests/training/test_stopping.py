"""Signals, terminals that hang up, and clocks that are moved while a run goes on."""

import errno
import io
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lean_mnist import train
from lean_mnist.errors import (
    Interrupted,
)
from lean_mnist.invocation import typed
from lean_mnist.nn import FlatParameters
from lean_mnist.training.evaluation import metrics
from lean_mnist.training.objectives import classification
from lean_mnist.training.run import run
from lean_mnist.training.sinks.progress import progress_sink
from lean_mnist.training.sinks.records import Epoch, Notice
from lean_mnist.training.stopping import StopRequest
from tests.support.training_cases import (
    LAST,
    NAME,
    STEPS_PER_EPOCH,
    FinishedRun,
    after_updates,
    call,
    digits_config,
    digits_run,
    identical,
    load,
    named,
)


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


# -- a run that is asked to stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_while_a_run_is_summed_up_ends_it_at_once_with_everything_saved(
    name: str, here: Path, short_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = metrics.evaluate

    def asked(*arguments: Any, with_probabilities: bool = False) -> Any:
        found = evaluate(*arguments, with_probabilities=with_probabilities)
        if with_probabilities:  # of the test split, once
            os.kill(os.getpid(), getattr(signal, name))
            raise AssertionError("went on")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(classification, "evaluate", asked)
        with pytest.raises(Interrupted) as caught:
            run(digits_config())
    step = 2 * STEPS_PER_EPOCH
    assert str(caught.value).startswith(
        f"interrupted at the end of training, step {step}; everything is saved; to go on: "
    )
    assert not Path("runs", NAME, "summary.json").exists()
    assert run(digits_config(), LAST).test.errors == short_run.summary.test.errors
    assert identical(load(LAST)["metrics"], load(short_run.last)["metrics"])


def test_a_second_interrupt_ends_a_run_at_once_and_it_goes_on_from_its_last_checkpoint(
    here: Path, short_run: FinishedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(number: int, parameters: FlatParameters[Any]) -> None:
        if number == STEPS_PER_EPOCH + 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        after_updates(patch, twice)
        arguments = ["--dataset", "digits", "--epochs", "2", "--run-name", NAME, "--quiet"]
        status, out, err = call(train.main, arguments, patch, capsys)
    hint = f"the last checkpoint is whole; to go on: {typed('python -m lean_mnist.train', '--resume', LAST.parent)}"
    assert (status, out, err.count("\n")) == (130, "", 1)
    assert err.startswith("interrupted at once, at step ")
    assert err.endswith(f"; {hint}\n")
    assert load(LAST)["metrics"]["step"] == STEPS_PER_EPOCH
    run(digits_config(), LAST)
    assert identical(load(LAST)["model"], load(short_run.last)["model"])


# -- clocks and terminals ---------------------------------------------------------------------------------------------


class _Gone(io.StringIO):
    """A terminal that has hung up."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_that_is_gone_ends_no_run(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    sink = progress_sink("digits", 2, 22, 0, quiet, _Gone())
    sink.write(Notice(1, "health/warning", "said to nobody"))
    sink.write(Epoch(11, "epoch", {"epoch": 1, "train_loss": 1.0, "divergence": 0.0}))
    sink.close()


def test_progress_does_not_ask_the_clock_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    sink = progress_sink("digits", 3, 33, 0, False, shown)
    now, year = time.time(), 365 * 24 * 3600
    for epoch, moved in ((1, -year), (2, year), (3, 0)):
        monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
        sink.write(Epoch(11 * epoch, "epoch", {"epoch": epoch, "train_loss": 1.0, "divergence": 0.0}))
    sink.close()
    last = shown.getvalue().split("\r")[-1]
    assert "100%" in last
    assert "0:00, 0:00 left" in last


def test_a_run_through_which_the_clock_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, calls = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: begun - 1000.0 * next(calls))
    finished = digits_run(tmp_path, check_every=5)
    assert finished.summary.state.seconds > 0
    assert finished.summary.examples_per_second > 0
    assert all(value >= 0 for value in named(finished.records, "crosscheck/seconds"))
