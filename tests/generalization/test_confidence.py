"""Shares of δ, and what is no holdout."""

from fractions import Fraction
from typing import Any

import pytest

from lean_mnist.errors import BoundError, CertificateError
from lean_mnist.generalization.confidence import SplitHistory, history_of, union


def test_shares() -> None:
    assert union("1e-9", 3) == Fraction(1, 8 * 10**9)
    assert SplitHistory(3).share("0.03", 100) == Fraction(1, 100)
    assert SplitHistory(1, adaptive=True).share("0.03", 100) == Fraction("0.03")
    # the first look, and 101 possible second ones
    assert SplitHistory(2, adaptive=True).share("0.5", 100) == Fraction(1, 2 * 102)


def look(step: int, purpose: str) -> dict[str, Any]:
    return {"step": step, "purpose": purpose, "errors": 3}


BEST = {"step": 1, "epoch": 1}


@pytest.mark.parametrize(
    ("metrics", "looks"),
    [
        ({"test_looks": [], "best": BEST}, 1),  # the run is not finished; the certificate looks
        ({"test_looks": [look(9, "final")], "best": BEST, "test": {}}, 1),  # the same look
        ({"test_looks": [look(9, "final")], "best": BEST}, 2),  # last.pt: the final look was at best.pt
        ({"test_looks": [look(9, "final")], "best": None}, 1),  # no best: the final look was at last.pt
        ({"test_looks": [look(3, "track"), look(6, "track"), look(9, "final")], "best": BEST, "test": {}}, 3),
    ],
)
def test_evaluations_of_a_run(metrics: dict[str, Any], looks: int) -> None:
    history = history_of(metrics, tracked=len(metrics["test_looks"]) > 1)
    assert history == SplitHistory(looks)
    assert history.share("0.06", 100) == Fraction("0.06") / looks
    assert history_of(metrics, tracked=False, looks=7).share("0.07", 100) == Fraction(1, 100)


def test_evaluations_cannot_be_forgotten() -> None:
    metrics = {"test_looks": [look(3, "track"), look(6, "final")], "best": BEST, "test": {}}
    with pytest.raises(CertificateError, match=r"^--looks: expected at least 2, as many as the run's record tells"):
        history_of(metrics, tracked=True, looks=1)
    records: list[dict[str, Any]] = [{}, {"test_looks": None}, {"test_looks": []}]
    for record in records:
        with pytest.raises(CertificateError, match=r"^test_looks: expected the record of every look"):
            history_of(record, tracked=True)


def test_impossible_numbers_of_evaluations_and_bits() -> None:
    with pytest.raises(BoundError, match=r"^looks: expected a whole number from 1 to 1,000,000, found 0$"):
        SplitHistory(0).share("0.05", 10)
    with pytest.raises(BoundError, match=r"^bits: expected a whole number from 0"):
        union("0.05", -1)
