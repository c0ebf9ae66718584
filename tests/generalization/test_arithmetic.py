"""Sentences about arithmetic and developers' looks in certificates by a test split, and certificates without them."""

import copy
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.certificates import networks
from lean_mnist.generalization.certificates.counting import count_errors
from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions, risk_text
from lean_mnist.generalization.certificates.networks import certify
from lean_mnist.generalization.confidence import NOBODY, DeveloperLooks, SplitHistory, history_of
from lean_mnist.training.config.presets import PRESETS, developers_of
from tests.support.certificate_cases import forged, random_data, random_network, rejection, sealed
from tests.support.forgeries import of_digits

DEEP = (40, 40, 40, 40, 40, 40)
FINAL = {"step": 1, "purpose": "final", "errors": 0}


def deep_certificate() -> tuple[Certificate, int]:
    """A certificate of a deep random network in float32, and its errors as earlier releases counted them."""
    model, data = random_network(1, hidden=DEEP), random_data(1, 3000)
    normalization, history = Normalization.fit("standard", data.train.images, 255), SplitHistory(1)
    certificate = certify(model, normalization, data, history, ClaimOptions(precision="float32"))
    unit = certificate.document["decoder"]["unit"]
    return certificate, networks.test_errors(model, normalization, data, unit, by_norms=True)


def former(certificate: Certificate, errors: int) -> bytes:
    """The certificate as earlier releases wrote it, with so many errors."""
    document: dict[str, Any] = copy.deepcopy(certificate.document)
    del document["arithmetic"], document["history"]["developers"]
    document["decoder"]["specification"] = checker.FORMER_DECODER
    document["counts"]["errors"] = errors
    for claim in document["claims"]:
        share = Fraction(claim["share"])
        claim["risk"] = risk_text(upper_risk(claim["bound"], errors, document["counts"]["examples"], share))
    document["assumptions"].remove(checker.CLUSTERS)
    return sealed(document)


def test_what_norms_leave_open_is_decided_by_components_and_checked(tmp_path: Path) -> None:
    certificate, by_norms = deep_certificate()
    path = certificate.write(tmp_path)
    assert certificate.errors < by_norms
    assert checker.check(str(path), []).errors == certificate.errors
    document = copy.deepcopy(certificate.document)
    document["counts"]["errors"] -= 1
    for claim in document["claims"]:
        share = Fraction(claim["share"])
        claim["risk"] = risk_text(upper_risk(claim["bound"], certificate.errors - 1, 3000, share))
    path.write_bytes(sealed(document))
    assert rejection(str(path)).startswith(f"counts.errors: expected {certificate.errors}, counted again")


def test_a_leaky_relu_may_underflow() -> None:
    """0.01 z is off by more than its share of z where it is no normal number, which weights of 2^40 make large."""
    weights = float.fromhex("-0x1.286p-138"), 2.0**40, float.fromhex("-0x1.7abfb6p-107")
    h = np.float32(0.01) * (np.float32(weights[0]) * (np.float32(61) / np.float32(255)))
    assert np.float32(weights[1]) * h < np.float32(weights[2])  # class 1 it is, in float32
    scaling = {"kind": "unit", "mean": "0", "scale": "255"}
    decoder = {"normalization": scaling, "activation": "leaky-relu", "unit": checker.UNITS["float32"]}
    layers: Any = [([(weights[0],)], (0.0,)), ([(weights[1],), (0.0,)], (0.0, weights[2]))]
    assert checker.count(layers, decoder, [bytes([61])], bytes([0])) == (1, 1)
    own = [(np.array(weight), np.array(bias)) for weight, bias in layers]
    assert count_errors(own, "leaky-relu", ("unit", 0.0, 255.0), np.array([[[61]]], np.uint8), np.array([0])) == 1


def test_a_certificate_of_an_earlier_release_is_counted_as_it_was(tmp_path: Path) -> None:
    certificate, by_norms = deep_certificate()
    path = certificate.write(tmp_path)
    path.write_bytes(former(certificate, by_norms))
    assert "arithmetic" not in json.loads(path.read_text(encoding="utf-8"))
    found = checker.check(str(path), [])
    assert found.errors == by_norms
    assert "run in" not in found.statement[1]
    assert "  form of an earlier release: it names no arithmetic (its count holds for float32 or finer, in" in str(
        found
    )
    path.write_bytes(former(certificate, certificate.errors))
    assert rejection(str(path)).startswith(f"counts.errors: expected {by_norms}, ")


def test_more_work_than_allowed_is_refused_where_it_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, _ = deep_certificate()
    path = str(certificate.write(tmp_path))
    counted = checker.count

    def limited(layers: Any, decoder: Any, images: Any, labels: Any, most_open: int) -> tuple[int, int]:
        return counted(layers, decoder, images, labels, min(most_open, 3))

    monkeypatch.setattr(checker, "count", limited)
    assert rejection(path) == "work: too many examples need bounds by components; --most-work allows more"


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_arithmetic_stands_in_every_sentence(precision: str, tmp_path: Path) -> None:
    certificate = of_digits(precision=precision)
    arithmetic = checker.ARITHMETICS[checker.UNITS[precision]]
    assert arithmetic.startswith(precision)
    assert all(f" network, run in {arithmetic}, misreads " in line for line in certificate.document["statement"])
    assert f"run in {arithmetic}" in certificate.line()
    assert f"too near to call in {arithmetic};" in certificate.text()
    assert certificate.summary()["arithmetic"] == arithmetic
    path = certificate.write(tmp_path)
    assert checker.check(str(path), []).errors == certificate.errors
    other = next(text for text in checker.ARITHMETICS.values() if text != arithmetic)
    document = copy.deepcopy(certificate.document)
    document["arithmetic"] = other
    document["statement"] = [line.replace(arithmetic, other) for line in document["statement"]]
    path.write_bytes(checker.canonical(document))
    assert rejection(str(path)).startswith("statement[0]: expected ")


def test_a_preset_pays_for_its_developers_looks(tmp_path: Path) -> None:
    metrics = {"test_looks": [FINAL], "test": {}}
    best = developers_of("best", "mnist")
    history = history_of(metrics, tracked=False, developers=best)
    assert (history.evaluations, history.adaptive) == (1 + best.looks, best.adaptive)
    assert history.share("0.035", 10_000) == Fraction("0.035") / sum(10_001**i for i in range(1 + best.looks))
    model, data = random_network(1), random_data(1)
    normalization = Normalization.fit("standard", data.train.images, 255)
    few = SplitHistory(3, True, DeveloperLooks("best", 2, True))
    certificate = certify(model, normalization, data, few, ClaimOptions(precision="float32"))
    path = certificate.write(tmp_path)
    assert checker.check(str(path), []).errors == certificate.errors
    said = "2 of the looks are those that the developers of the preset best took at this split"
    assert certificate.document["assumptions"][-2].startswith(said)
    assert "looked at 3 times, which was paid for, 2 of them by the developers of the preset best" in certificate.text()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not paid for": (lambda d: d["history"].update(looks=1), "history.looks: expected at least the recorded looks and"),
    "fewer": (lambda d: d["history"]["developers"].update(looks=1), "history.looks: expected one more than are"),
    "more": (lambda d: d["history"]["developers"].update(looks=4), "history.looks: expected at least the recorded"),
    "none": (lambda d: d["history"]["developers"].update(looks=0), "history.looks: expected one more than are"),
    "no name": (lambda d: d["history"]["developers"].update(preset="a b"), "history.developers.preset: expected a"),
    "a name for nothing": (
        lambda d: d["history"].update(looks=1, developers={"preset": "best", "looks": 0}),
        "claims[0].risk: ",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_developers_looks_that_are_denied(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    model, data = random_network(1), random_data(1)
    normalization, options = Normalization.fit("standard", data.train.images, 255), ClaimOptions(precision="float32")
    history = SplitHistory(3, developers=DeveloperLooks("small-best", 2))
    certificate = certify(model, normalization, data, history, options, recorded=[FINAL])

    def changed(document: dict[str, Any]) -> None:
        if name in ("fewer", "none"):
            document["history"]["recorded"][0]["purpose"] = "track"
            document["history"]["looks"] = 1 + {"fewer": 1, "none": 0}[name]
        change(document)

    assert forged(certificate.write(tmp_path), changed).startswith(message)


def test_presets_whose_test_accuracy_their_developers_saw() -> None:
    paying = {name for name in PRESETS if developers_of(name, "mnist") != NOBODY}
    assert paying == {"best", "small-best"}
    assert developers_of("best", "mnist") == DeveloperLooks("best", 5, True)
    assert developers_of("best", "qmnist").looks == 5
    assert developers_of("small-best", "mnist") == DeveloperLooks("small-best", 5, True)
    assert all(developers_of(name, "fashion-mnist") == NOBODY for name in PRESETS)
