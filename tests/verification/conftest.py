"""One thread, and one run of the whole table that many tests look at."""

from collections.abc import Callable

import pytest
import torch

from lean_mnist import verification, verify
from lean_mnist.verification.model import Obligation
from lean_mnist.verification.report import ObligationReport, obligations
from tests.support.training_cases import Result
from tests.support.training_cases import call as run_in_process

# The arrays are small, and threads that compete for cores with other programs stall.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def full_report() -> ObligationReport:
    """The whole table, checked once."""
    return verification.verify()


@pytest.fixture(scope="session")
def by_id() -> dict[str, Obligation]:
    """Every obligation by its id."""
    return {obligation.id: obligation for obligation in obligations()}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """``call(*arguments)`` runs ``python -m lean_mnist.verify`` in this process."""

    return lambda *arguments: run_in_process(verify.main, list(arguments), monkeypatch, capsys)
