"""Any of ε, δ, m, B and the number of errors given the others; MLCERT's Table 1 from its own counts."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lean_mnist.errors import BoundError
from lean_mnist.generalization.bounds import BOUNDS, confirms
from lean_mnist.generalization.confidence import union
from lean_mnist.generalization.exact import decimal_text
from lean_mnist.generalization.solve import (
    certified_risk,
    epsilon,
    least_delta,
    least_examples,
    most_bits,
    most_errors,
)

BITS = {2: 15_944, 16: 127_104}
COUNTS = {2: (222_029, 37_023), 16: (230_035, 38_271)}
TRAIN, TEST = 240_000, 40_000


@pytest.mark.parametrize(
    ("name", "bits", "part"),
    [
        ("batch_qtest_b2_n10_080118.txt", 2, 0),
        ("batch_qtest_b2_n10_testset_080118.txt", 2, 1),
        ("batch_test_b16_n10_080118.txt", 16, 0),
        ("batch_test_b16_n10_testset_082318.txt", 16, 1),
    ],
)
def test_mlcerts_counts_are_those_of_its_files(mlcert: Path, name: str, bits: int, part: int) -> None:
    counts = [int(line) for line in (mlcert / name).read_text().split()]
    assert (sum(counts), 100 * len(counts)) == (COUNTS[bits][part], (TRAIN, TEST)[part])


@pytest.mark.parametrize(("bits", "train", "test"), [(2, "0.925121", "0.925575"), (16, "0.958479", "0.956775")])
def test_table_1_accuracies(bits: int, train: str, test: str) -> None:
    for correct, examples, printed in zip(COUNTS[bits], (TRAIN, TEST), (train, test), strict=True):
        assert f"{correct / examples:.6f}" == printed


@pytest.mark.parametrize(("bits", "printed"), [(2, "0.151879"), (16, "0.428472"), (None, "0.016095")])
def test_table_1_margins_to_six_digits(bits: int | None, printed: str) -> None:
    """ε = √((B ln 2 + ln(1/δ)) / 2m), with training examples for the union and test examples for the holdout."""
    m = TEST if bits is None else TRAIN
    found = epsilon("hoeffding", 0, m, "1e-9", 0 if bits is None else BITS[bits])
    assert f"{float(found):.6f}" == printed
    assert confirms("hoeffding", 0, m, union("1e-9", BITS.get(bits or 0, 0)), found)


def test_the_papers_margin_is_refuted() -> None:
    """It prints 0.016, which is rounded down: it holds at δ = 1.2754e-9 only."""
    assert not confirms("hoeffding", 0, TEST, "1e-9", "0.016")
    assert confirms("hoeffding", 0, TEST, "1e-9", "0.0161")
    holds_at = least_delta("hoeffding", 0, TEST, "0.016")
    assert Fraction("1.27540e-9") < holds_at < Fraction("1.27541e-9")


@pytest.mark.parametrize(
    ("bound", "bits", "accuracy"),
    [("hoeffding", 2, "0.7732"), ("hoeffding", 16, "0.5300"), ("kl", 2, "0.8196"), ("kl", 16, "0.5918")],
)
def test_union_certificates_of_mlcerts_networks(bound: str, bits: int, accuracy: str) -> None:
    risk = certified_risk(bound, TRAIN - COUNTS[bits][0], TRAIN, "1e-9", BITS[bits])
    assert decimal_text(1 - risk, 4, up=False) == accuracy


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_answer_is_the_best_one(bound: str) -> None:
    k, m, delta, bits = 20, 2000, Fraction("1e-3"), 12
    risk = certified_risk(bound, k, m, delta, bits)
    share = delta / 2**bits
    margin = epsilon(bound, k, m, delta, bits)
    assert abs(Fraction(k, m) + margin - risk) <= Fraction(2, 10**12)
    found = least_delta(bound, k, m, risk, bits)
    assert found <= delta < found * Fraction(101, 100)
    assert confirms(bound, k, m, union(found, bits), risk)
    assert not confirms(bound, k, m, union(found * (1 - Fraction(1, 10**10)), bits), risk)
    assert most_bits(bound, k, m, delta, risk) == bits
    most = most_errors(bound, m, delta, "0.2", bits)
    assert confirms(bound, most, m, share, "0.2")
    assert not confirms(bound, most + 1, m, share, "0.2")
    enough = least_examples(bound, "0.02", "0.03", delta, bits)
    for examples, holds in ((enough, True), (enough - 1, False)):
        if bound == "clopper-pearson":
            assert confirms(bound, examples // 50, examples, share, "0.05") is holds
        else:
            assert BOUNDS[bound].confirms(Fraction(examples, 50), examples, share, Fraction("0.05")) is holds


def test_a_vacuous_margin_is_above_one() -> None:
    assert epsilon("hoeffding", 0, 1000, "0.05", 100_000) > 5
    assert certified_risk("hoeffding", 0, 1000, "0.05", 100_000) == 1
    assert least_delta("kl", 5, 10, "0.5") == 1
    assert least_delta("kl", 5, 10, 1) == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: least_examples("kl", "0.1", 0, "0.05"), "epsilon: expected a number above 0 and at most 1, found 0"),
        (lambda: least_examples("kl", "0.1", "1.01", "0.05"), "epsilon: expected a number from 0 to 1, found 1.01"),
        (lambda: least_examples("kl", "0.1", "-0.1", "0.05"), "epsilon: expected a number from 0 to 1, found -0.1"),
        (lambda: least_examples("hoeffding", "0.1", "1e-9", "0.05"), "epsilon: 1e-9 would take more than 1,000,000,00"),
        (lambda: epsilon("kl", 0, 0, "0.05"), "examples: expected at least 1, found 0"),
        (lambda: epsilon("kl", 1, 10, "0.05", -1), "bits: expected a whole number from 0 to 1,000,000,000, found -1"),
        (lambda: most_bits("kl", 5, 10, "0.05", "0.5"), "risk: 0.5 is not confirmed at delta 0.05 even for a single"),
        (lambda: most_bits("kl", 5, 10, "0.05", 1), "risk: expected a number below 1, found 1"),
        (lambda: most_errors("kl", 10, "0.05", "0.01"), "risk: 0.01 is not confirmed at delta 0.05 by 10 examples"),
    ],
)
def test_impossible_requests(request_: Any, message: str) -> None:
    with pytest.raises(BoundError) as caught:
        request_()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
