"""One thread, and one run of the whole table that many tests look at."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

import pytest
import torch

from lean_mnist import verify as command
from lean_mnist.command_line import run_command
from lean_mnist.verification import Obligation, ObligationReport, obligations, verify
from tests.support.obligations_cases import Call

# The arrays are small, and threads that compete for cores with other programs stall.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def full_report() -> ObligationReport:
    """The whole table, checked once."""
    return verify()


@pytest.fixture(scope="session")
def by_id() -> dict[str, Obligation]:
    """Every obligation by its id."""
    return {obligation.id: obligation for obligation in obligations()}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Call]:
    """``call(*arguments)`` runs ``python -m lean_mnist.verify`` in this process."""

    def run(*arguments: str) -> Call:
        monkeypatch.setattr(sys, "argv", ["verify", *arguments])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_command(command.main)
            except SystemExit as stop:
                return Call(int(stop.code or 0), out.getvalue(), err.getvalue())
        return Call(0, out.getvalue(), err.getvalue())

    return run
