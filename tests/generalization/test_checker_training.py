"""Certificates about the examples learned from: the checker accepts those made, and rejects every alteration."""

import copy
import hashlib
import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lean_mnist import certify as certify_command
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import cut
from lean_mnist.errors import BoundError, CertificateError, ConfigError
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import pac_bayes_risk, upper_risk
from lean_mnist.generalization.certificates.document import FILE, Certificate, ClaimOptions, risk_text
from lean_mnist.generalization.certificates.networks import certify, certify_network
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.generalization.pacbayes.certificate import certify_posterior, draw_outcomes, layers_of
from lean_mnist.generalization.quantize import quantize_layers
from lean_mnist.generalization.spaces.encoding import write_network
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from tests.generalization.test_checker import altered_value, leaves
from tests.generalization.test_pacbayes import moved
from tests.support.certificate_cases import forged, random_data, rejection, sealed
from tests.support.import_cases import halves

DRAWS = 45


def pac_bayes(seed: int = 4, **options: Any) -> Certificate:
    """Of a network that reads nothing; its bound is not vacuous, because it has hardly left its prior."""
    given = {"prior_scale": "1/10", "prior_examples": 50, "split_seed": 5, "candidates": 3, "draws": DRAWS}
    return certify_posterior(moved(seed), random_data(3, 400), deltas=("0.035", "1e-9"), **{**given, **options})


def quantized(bits: int, biases: bool, encoding: str = "integer") -> QuantizedNetwork:
    rng = np.random.default_rng(bits)
    layers = [(rng.normal(size=shape), rng.normal(size=shape[0]) if biases else None) for shape in ((5, 20), (3, 5))]
    return halves(layers) if encoding == "float16" else quantize_layers(layers, bits)


def code_length(
    bits: int = 2, biases: bool = True, encoding: str = "integer", code: str = "fixed", candidates: int = 1, **more: Any
) -> Certificate:
    network, options = quantized(bits, biases, encoding), ClaimOptions(("0.035",), **more)
    return certify_network(network, random_data(3, 2000), options, code=code, candidates=candidates)


def with_outcomes(certificate: Certificate, outcomes: bytes) -> Certificate:
    """The certificate with other outcomes of its draws, and counts, bounds and hashes to match."""
    document = copy.deepcopy(certificate.document)
    counts, divergence = document["counts"], Fraction(document["divergence"])
    counts["errors"] = int.from_bytes(outcomes, "big").bit_count()
    document["files"]["outcomes"]["sha256"] = hashlib.sha256(outcomes).hexdigest()
    for claim in document["claims"]:
        share, of_draws = Fraction(claim["share"]), Fraction(claim["share_monte_carlo"])
        empirical = upper_risk("clopper-pearson", counts["errors"], counts["draws"], of_draws)
        risk = pac_bayes_risk(empirical, counts["examples"], divergence, share)
        claim["empirical_risk"], claim["risk"] = risk_text(empirical), risk_text(risk)
    return Certificate(json.loads(sealed(document)), {**certificate.files, "certificate.outcomes": outcomes})


def without_errors(certificate: Certificate, missing: int) -> Certificate:
    """The certificate with the first so many errors called none."""
    outcomes = int.from_bytes(certificate.files["certificate.outcomes"], "big")
    for _ in range(missing):
        outcomes ^= 1 << outcomes.bit_length() - 1
    return with_outcomes(certificate, outcomes.to_bytes(len(certificate.files["certificate.outcomes"]), "big"))


MAKERS: dict[str, Callable[[], Certificate]] = {"PAC-Bayes": pac_bayes, "code length": code_length}


@pytest.fixture(scope="module")
def made() -> dict[str, Certificate]:
    return {name: make() for name, make in MAKERS.items()}


@pytest.mark.parametrize("options", [{"prior_examples": 0, "candidates": 1}, {"draws": 8}, {"prior_scale": "0.3"}])
def test_it_accepts_what_is_made(options: dict[str, Any], tmp_path: Path) -> None:
    certificate = pac_bayes(1, **options)
    found = checker.check(str(certificate.write(tmp_path)), [], redraw=7)
    assert found.again is not None
    assert (found.again.redrawn, found.again.draws, found.examples) == (7, *[options.get("draws", DRAWS)] * 2)
    assert f": consistent of data that nobody vouches for; {found.errors} errors in {found.examples} draws" in str(
        found
    )
    assert f"Consistent, not proved: of {found.again.forged} errors called none" in str(found)
    assert certificate.text().startswith(f"{found.errors} of {found.examples} draws of a network and an example are er")


def test_candidates_that_were_tried_adaptively_are_paid_for(tmp_path: Path) -> None:
    """Three of them as 1 + 10001 + 10001² fixed beforehand would be; each draw of a candidate is its own."""
    price, delta = 1 + 10_001 + 10_001**2, Fraction(7, 200)
    for number, certificate in enumerate((pac_bayes(1, adaptive=True), code_length(candidates=3, adaptive=True))):
        document = certificate.document
        (tmp_path / str(number)).mkdir()
        path = certificate.write(tmp_path / str(number))
        assert rejection(str(path)) == ""
        assert checker.CANDIDATES[True] in document["assumptions"]
        if number == 0:
            claim, beside = document["claims"][0], document["holdout"]["claims"][0]
            assert Fraction(claim["share"]) == delta * Fraction(5, 7) / price
            assert Fraction(claim["share_monte_carlo"]) == delta * Fraction(2, 7) / 3
            assert Fraction(beside["share"]) == delta / price
        else:
            assert document["share"] == checker.CODE_SHARES[True]
    fixed, adaptive = (code_length(candidates=3, adaptive=each).risks.values() for each in (False, True))
    assert max(fixed) < max(adaptive)


def test_beside_a_learnt_prior_stands_a_plain_holdout(tmp_path: Path) -> None:
    """Its count is that of the certificate by a test split, for the same network and examples; all is summed up."""
    certificate, network, data = pac_bayes(), moved(4).prior, random_data(3, 400)
    _, part = cut(data.train, 50, 5)
    own = certify(
        network,
        Normalization("unit", 0.0, 255.0),
        replace(data, test=part),
        SplitHistory(3),
        ClaimOptions(precision="float64"),
    )
    holdout = certificate.document["holdout"]
    assert holdout["errors"] == own.errors
    assert [claim["risk"] for claim in holdout["claims"]] == [claim["risk"] for claim in own.document["claims"]]
    assert "the prior's mean network alone, one 20-6-3 network for all images, run in float64" in certificate.text()
    assert certificate.total_delta == 2 * (Fraction("0.035") + Fraction("1e-9"))
    found = checker.check(str(certificate.write(tmp_path)), [])
    assert found.total_delta == "35000001/500000000"
    assert str(found).endswith("All claims together hold with confidence 1 - 35000001/500000000.")


def test_the_allowed_work_reaches_the_holdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[int] = []

    def counted(layers: Any, decoder: Any, images: Any, labels: Any, most_open: int) -> tuple[int, int]:
        allowed.append(most_open)
        return 0, len(labels)

    monkeypatch.setattr(checker, "count", counted)
    path = str(pac_bayes().write(tmp_path))
    for most in (10**10, 10**13):
        checker.check(path, [], most_work=most)
    assert 900 < allowed[1] / allowed[0] < 1100


@pytest.mark.parametrize("name", MAKERS)
def test_certificates_of_earlier_releases_are_read(name: str, made: dict[str, Certificate], tmp_path: Path) -> None:
    """They say nothing of adaptive candidates, and have no holdout."""
    document = copy.deepcopy(made[name].document)
    document.pop("holdout", None)
    del document["prior" if name == "PAC-Bayes" else "code"]["adaptive"]
    certificate = Certificate(json.loads(sealed(document)), made[name].files)
    if name == "PAC-Bayes":
        key, (_, part) = bytes.fromhex(certificate.document["draws"]["key"]), cut(random_data(3, 400).train, 50, 5)
        wrong = draw_outcomes(layers_of(moved(4)), part.images.numpy(), part.labels.numpy(), 255, key, DRAWS)
        certificate = with_outcomes(certificate, np.packbits(wrong).tobytes())
    found, today = (checker.check(str(each.write(tmp_path)), []) for each in (certificate, made[name]))
    assert "\n  form of an earlier release: it does not say that no candidate was tried" in str(found)
    assert "earlier release" not in str(today)
    assert (len(found.to_dict()["former"]), today.to_dict()["former"]) == (1, [])


@pytest.mark.parametrize("code", checker.CODES)
@pytest.mark.parametrize(("bits", "biases"), [(1, False), (3, True)])
def test_it_counts_quantised_networks_again(bits: int, biases: bool, code: str, tmp_path: Path) -> None:
    certificate = code_length(bits, biases, code=code, bounds=("kl", "clopper-pearson", "hoeffding"), candidates=2)
    found = checker.check(str(certificate.write(tmp_path)), [])
    assert 0 < found.errors < found.examples == 2000
    assert any(risk < 1 for risk in certificate.risks.values())


def test_it_counts_half_precision_networks_again(tmp_path: Path) -> None:
    assert rejection(str(code_length(16, True, "float16").write(tmp_path))) == ""


@pytest.mark.parametrize("name", MAKERS)
def test_every_alteration_is_rejected(name: str, made: dict[str, Certificate], tmp_path: Path) -> None:
    """Random single bits of every file, and every field in turn, with the hash of the content written anew."""
    seed = 21
    print(f"seed {seed}")
    draw, certificate, accepted = random.Random(seed), made[name], []
    path = certificate.write(tmp_path)
    for _ in range(100):
        file = tmp_path / draw.choice([FILE, *certificate.files])
        before = file.read_bytes()
        altered, bit = bytearray(before), draw.randrange(8 * len(before))
        altered[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(altered))
        if "\n" in (message := rejection(str(path))) or ":" not in message:
            accepted.append((file.name, bit, message))
        file.write_bytes(before)
    for at in leaves(certificate.document):
        document = copy.deepcopy(certificate.document)
        inner: Any = document
        for key in at[:-1]:
            inner = inner[key]
        inner[at[-1]] = altered_value(inner[at[-1]], draw)
        del document["content_sha256"]
        document["content_sha256"] = hashlib.sha256(checker.canonical(document)).hexdigest()
        path.write_bytes(checker.canonical(document))
        if at != ("content_sha256",) and ("\n" in (message := rejection(str(path))) or ":" not in message):
            accepted.append((".".join(map(str, at)), 0, message))
    assert accepted == []
    path.write_bytes(checker.canonical(certificate.document))
    assert rejection(str(path)) == ""


def less(document: dict[str, Any], name: str) -> None:
    risk = document["claims"][0][name]
    document["claims"][0][name] = f"{risk[:-1]}{(int(risk[-1]) - 1) % 10}"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("PAC-Bayes", lambda d: d["counts"].update(errors=d["counts"]["errors"] - 1), "counts.errors: expected "),
        (
            "PAC-Bayes",
            lambda d: d["counts"].update(draws=DRAWS - 5),
            "files.outcomes.file: expected 5 bytes, found 6",
        ),
        ("PAC-Bayes", lambda d: d["counts"].update(draws=8 * DRAWS), f"files.outcomes.file: expected {DRAWS} bytes"),
        ("PAC-Bayes", lambda d: d.update(divergence="0.000001"), "divergence: expected "),
        (
            "PAC-Bayes",
            lambda d: d.update(divergence="9e9"),
            "divergence: expected a decimal with 6 digits, found '9e9'",
        ),
        ("PAC-Bayes", lambda d: d.update(divergence="9" * 900 + ".000000"), "divergence: expected "),
        ("PAC-Bayes", lambda d: less(d, "risk"), "claims[0].risk: "),
        ("PAC-Bayes", lambda d: less(d, "empirical_risk"), "claims[0].empirical_risk: "),
        ("PAC-Bayes", lambda d: d["prior"].update(candidates=2), "claims[0].risk: "),
        ("PAC-Bayes", lambda d: d["prior"].update(scale="1/9"), "divergence: expected "),
        ("PAC-Bayes", lambda d: d["prior"].update(scale="1/1" + "0" * 900), "prior.scale: expected a number above"),
        ("PAC-Bayes", lambda d: d["prior"].update(scale="2/20"), "prior.scale: expected a number above 0, of moderate"),
        ("PAC-Bayes", lambda d: d["prior"].update(kind="data-free"), "prior.kind: expected learnt or data-free"),
        ("PAC-Bayes", lambda d: d["data"]["part"].update(seed=6), "holdout.errors: expected 235, counted again, found"),
        ("PAC-Bayes", lambda d: d["holdout"].update(errors=d["holdout"]["errors"] - 1), "holdout.claims[0].risk: "),
        ("PAC-Bayes", lambda d: d["holdout"].update(errors=351), "holdout.errors: expected at most 350, of a learnt"),
        ("PAC-Bayes", lambda d: d["holdout"]["claims"].pop(), "holdout.claims: expected 2, as many as claims"),
        ("PAC-Bayes", lambda d: d["prior"].update(adaptive=True), "claims[0].empirical_risk: "),
        (
            "PAC-Bayes",
            lambda d: d["prior"].update(adaptive=True, candidates=301),
            "prior.candidates: expected at most 300",
        ),
        ("code length", lambda d: d["code"].update(adaptive=True, candidates=2), "share: expected delta * 10000"),
        ("PAC-Bayes", lambda d: d["data"]["part"].update(prior_examples=49), "claims[0].risk: "),
        ("PAC-Bayes", lambda d: d["data"].update(split="test"), "data.split: expected train"),
        ("PAC-Bayes", lambda d: d["decoder"].update(maximum=254), "files.outcomes: draw "),
        ("PAC-Bayes", lambda d: d["decoder"].update(sizes=[20, 3, 3]), "files.mean.file: expected "),
        ("PAC-Bayes", lambda d: d["files"]["mean"].update(file="../x"), "files.mean.file: expected the name of a file"),
        ("PAC-Bayes", lambda d: d["claims"][0].update(delta="1/30"), "claims[0].empirical_risk: "),
        ("PAC-Bayes", lambda d: d.update(claims=[]), "claims: expected at least one, found none"),
        ("code length", lambda d: d["counts"].update(errors=d["counts"]["errors"] - 1), "claims[0].risk: "),
        ("code length", lambda d: d["code"].update(length=d["code"]["length"] - 1), "code.length: expected "),
        ("code length", lambda d: d["code"].update(candidates=2), "claims[0].risk: "),
        ("code length", lambda d: d["code"].update(name="enumerative"), "code.length: expected "),
        ("code length", lambda d: less(d, "risk"), "claims[0].risk: "),
        ("code length", lambda d: d["decoder"].update(bits=3), "weights.file: expected "),
        ("code length", lambda d: d["decoder"].update(bits=17), "decoder.bits: expected a whole number from 1 to 16"),
        (
            "code length",
            lambda d: d["decoder"].update(encoding="float16"),
            "decoder.bits: expected 16 for the encoding",
        ),
        ("code length", lambda d: d["decoder"].update(denominator=1), "counts.errors: expected "),
        ("code length", lambda d: d["data"].update(split="test"), "data.split: expected train"),
    ],
)
def test_a_forger_who_recomputes_everything_is_rejected(
    name: str, change: Any, message: str, made: dict[str, Certificate], tmp_path: Path
) -> None:
    assert forged(made[name].write(tmp_path), change).startswith(message)


def test_a_forged_outcome_is_found_by_drawing_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is called none, with count, bounds and hashes to match."""
    honest = pac_bayes().files["certificate.outcomes"]
    first = next(draw for draw in range(DRAWS) if honest[draw // 8] >> (7 - draw % 8) & 1)

    def without_it(*arguments: Any) -> Any:
        wrong = np.unpackbits(np.frombuffer(honest, np.uint8))[:DRAWS].astype(bool)
        wrong[first] = False
        return wrong

    monkeypatch.setattr("lean_mnist.generalization.pacbayes.certificate.draw_outcomes", without_it)
    path = str(pac_bayes().write(tmp_path))
    with pytest.raises(checker.Rejected, match=f"^files.outcomes: draw {first} is an error, stated otherwise$"):
        checker.check(path, [], redraw=DRAWS)  # all of them: of those that are drawn if not given, one can miss it
    checker.check(path, [], redraw=0)  # nobody who does not draw again can find it


@pytest.mark.parametrize("margin", [math.nan, 2.0**-20 + 2.0**-29, 2.0**-20 - 2.0**-29])
def test_a_margin_that_is_nan_passes_as_no_outcome(
    margin: float, made: dict[str, Certificate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as an error nor as none; and margins near a tie, but not too near, as one of them only."""
    path = made["PAC-Bayes"].write(tmp_path)
    monkeypatch.setattr(checker.PairDraws, "margin", lambda self, pixels, label, noise: margin)
    for byte, passes in ((0, margin > 2.0**-20), (255, margin < 2.0**-20)):
        outcomes = bytes([byte]) * 5 + bytes([byte & 0b11111000])
        (tmp_path / "certificate.outcomes").write_bytes(outcomes)
        draws = {"errors": DRAWS if byte else 0}

        def change(document: dict[str, Any], draws: dict[str, int] = draws, outcomes: bytes = outcomes) -> None:
            document["counts"].update(draws)
            document["files"]["outcomes"]["sha256"] = hashlib.sha256(outcomes).hexdigest()

        monkeypatch.setattr(checker, "check_risk", lambda field, stated, confirmed: None)
        assert (forged(path, change) == "") is passes


def test_an_overflow_in_a_draw_is_no_outcome() -> None:
    """Infinite pre-activations would be NaN in the next layer, which a ReLU would make 0."""
    sizes = [*[1] * 12, 2]
    means = scales = (2.0**59,) * 26
    pairs = checker.PairDraws({"maximum": 255, "sizes": sizes}, means, scales)
    with pytest.raises(
        checker.Rejected, match=r"^files\.mean: a draw gives a unit of layer \d that is infinite or NaN$"
    ):
        pairs.margin(b"\xff", 0, [0.5] * 13)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("mean", struct.pack("<f", float("nan")), "files.mean: holds NaN, an infinity, or a number of 2^60 or more"),
        ("scale", struct.pack("<f", 0.0), "files.scale: holds a standard deviation that is not above 0"),
        ("prior_mean", struct.pack("<f", 0.5), "divergence: expected "),
        ("outcomes", None, "files.outcomes: expected 6 bytes, one bit a draw, filled up with zeros"),
    ],
)
def test_raw_files_that_cannot_be(
    file: str, content: bytes | None, message: str, made: dict[str, Certificate], tmp_path: Path
) -> None:
    certificate = made["PAC-Bayes"]
    path, name = certificate.write(tmp_path), f"certificate.{file}"
    raw = certificate.files[name]
    raw = raw[:-1] + bytes([raw[-1] | 1]) if content is None else content + raw[4:]
    (tmp_path / name).write_bytes(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    assert forged(path, lambda document: document["files"][file].update(sha256=sha256)).startswith(message)


def test_the_command_certifies_a_quantised_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(8)
    write_network(tmp_path / "network.json", quantize_layers([(rng.normal(size=(10, 64)), None)], 2, denominator=16))
    for options, said in (
        (["network.json", "--dataset", "digits", "--code", "enumerative"], "of 1,437 training examples are wrong"),
        (["--check", FILE, "--json"], '"examples": 1437'),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["certify", *options])
        certify_command.main()
        assert said in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["certify", "--check", FILE, "--redraw", "-1"])
    with pytest.raises(ConfigError, match="--redraw: expected at least 0, found -1"):
        certify_command.main()
    monkeypatch.setattr("sys.argv", ["certify", "--check", FILE, "--redraw", "0"])
    with pytest.raises(CertificateError, match="--redraw: expected with a lean_mnist PAC-Bayes certificate alone"):
        certify_command.main()


def test_what_no_certificate_is_made_of() -> None:
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: pac_bayes(draws=0), CertificateError, "draws: expected at least 1, found 0"),
        (lambda: pac_bayes(candidates=0), CertificateError, "candidates: expected from 1 to 1,000,000,000 to be paid"),
        (
            lambda: pac_bayes(candidates=301, adaptive=True),
            CertificateError,
            "candidates: expected from 1 to 300 adaptive ones to be paid for, found 301",
        ),
        (lambda: pac_bayes(prior_scale=0.1), BoundError, "prior-scale: expected an exact number"),
        (lambda: code_length(code="huffman"), CertificateError, "--code: expected one of fixed, enumerative, found"),
        (lambda: code_length(bounds=("wald",)), CertificateError, "--bound: expected one of clopper-pearson, kl, hoe"),
        (
            lambda: code_length(candidates=0),
            CertificateError,
            "candidates: expected from 1 to 1,000,000,000 to be paid",
        ),
    ]
    for make, error, message in cases:
        with pytest.raises(error) as caught:
            make()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("draws", "forged", "redrawn"), [(45, 3, 7), (45, 45, 1), (9, 1, 8), (60, 5, 56), (50, 2, 0)])
def test_the_power_of_redraws_is_the_hypergeometric_one(draws: int, forged: int, redrawn: int) -> None:
    exactly = 1 - math.comb(draws - forged, redrawn) / math.comb(draws, redrawn)
    found = checker.detection(draws, forged, redrawn)
    assert found == pytest.approx(exactly, abs=1e-12)
    assert math.copysign(1, found) == 1  # no -0.0


def test_a_tenth_of_the_errors_is_found_by_500_redraws_one_time_in_three() -> None:
    """As the default once was, of 2,897 errors in 400,000 draws."""
    assert 0.29 < checker.detection(400_000, 290, 500) < 0.34


def test_the_default_finds_the_least_forgery_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit of the second digit is forged away: of 300 checks, whose picks have seeds here, 99 % have to find it."""
    honest = pac_bayes(1, draws=400)
    missing = next(f for f in range(1, 400) if checker.least_forgery(without_errors(honest, f).document) <= f)
    lost = []
    for number in (missing - 1, missing):
        pairs = zip(honest.risks.values(), without_errors(honest, number).risks.values(), strict=True)
        lost.append(max(true - stated for true, stated in pairs if stated < 1))
    assert lost[0] < Fraction(1, 100) <= lost[1]

    path, found = str(without_errors(honest, missing).write(tmp_path)), 0
    assert checker.least_forgery(checker.read(path)) == missing
    monkeypatch.setattr(checker, "least_forgery", lambda document: missing)  # which takes most of the time
    monkeypatch.setattr(checker, "check_risk", lambda field, stated, confirmed: None)
    for seed in range(300):
        monkeypatch.setattr("random.SystemRandom", lambda seed=seed: random.Random(seed))
        found += rejection(path).startswith("files.outcomes: draw ")
    print(f"{missing} forged, found {found} times in 300")
    assert found >= 0.99 * 300 - 3 * math.sqrt(300 * 0.99 * 0.01)
