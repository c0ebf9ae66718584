"""Every run ends with a certificate, and ``evaluate`` shows the one that speaks of its network."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from lean_mnist.certify import CertifyArguments, certify_checkpoint
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.certificates.document import Certificate, risk_text
from lean_mnist.generalization.certificates.networks import weights_hash
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import load_checkpoint, write_checkpoint
from lean_mnist.training.run import run
from tests.support.certificate_cases import certificate_beside, sealed
from tests.support.training_cases import FinishedRun, digits_config, load, named, tree


def held(finished: FinishedRun) -> checker.Checked:
    """The certificate of a run, as its checker finds it."""
    return checker.check(str(finished.folder / "certificate.json"), [])


def test_a_run_ends_with_a_certificate_that_its_checker_accepts(short_run: FinishedRun) -> None:
    checked, said = held(short_run), short_run.summary_json["certificate"]
    assert said["path"] == f"runs/{short_run.folder.name}/certificate.json"
    assert said["statement"] == checked.statement
    assert (said["errors"], said["examples"], said["looks"]) == (checked.errors, 360, 1)
    assert said["weights_sha256"] == weights_hash(load_checkpoint(short_run.best).model)
    certificate = short_run.summary.certificate
    assert isinstance(certificate, Certificate)
    assert said["claims"] == certificate.summary()["claims"]


def test_dashboard_and_printed_summary_say_what_it_says(short_run: FinishedRun) -> None:
    claims = short_run.summary_json["certificate"]["claims"]
    for claim, tag, delta in zip(claims, ("7_in_200", "1_in_1000000000"), ("0.035", "1e-09"), strict=True):
        recorded = named(short_run.records, f"certificate/clopper_pearson_risk_{tag}")
        assert recorded == [float(Fraction(claim["risk"]))]
        percent = checker.percent(Fraction(claim["risk"]), True)
        assert f"risk at most {percent} at δ = {delta}" in " ".join(str(short_run.summary).split())
    statement = short_run.summary_json["certificate"]["statement"]
    assert named(short_run.records, "certificate/statement") == ["\n\n".join(statement)]


def test_a_run_that_tracked_the_test_split_pays_for_every_look(default_run: FinishedRun) -> None:
    assert held(default_run).errors == default_run.summary_json["certificate"]["errors"]
    document = json.loads((default_run.folder / "certificate.json").read_text(encoding="utf-8"))
    assert document["history"]["looks"] == 31
    claim = document["claims"][0]
    assert Fraction(claim["share"]) == Fraction("0.035") / 31
    assert Fraction(claim["risk"]) == upper_risk("clopper-pearson", document["counts"]["errors"], 360, claim["share"])


def test_a_run_without_a_best_checkpoint_is_certified_by_its_last(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.trainer.Trainer._select", lambda trainer, validation: None)
    finished = FinishedRun(here, run(digits_config(epochs=1)))
    assert not finished.best.exists()
    assert held(finished).errors == finished.summary_json["certificate"]["errors"]
    assert finished.summary_json["certificate"]["looks"] == 1
    found = certificate_beside(finished.last, load_checkpoint(finished.last))
    assert found is not None
    assert not found.why_not


def test_a_run_summed_up_again_writes_the_same_certificate(here: Path) -> None:
    finished = FinishedRun(here, run(digits_config(epochs=1)))
    before = {name: content for name, content in tree(finished.folder).items() if name.startswith("certificate")}
    assert len(before) == 4
    for name in before:
        (finished.folder / name).unlink()
    run(digits_config(epochs=1), finished.last)
    after = {name: content for name, content in tree(finished.folder).items() if name.startswith("certificate")}
    assert after == before


def test_evaluate_says_where_a_certificate_is_not_this_networks(short_run: FinishedRun, tmp_path: Path) -> None:
    best, last = (load_checkpoint(path) for path in (short_run.best, short_run.last))
    of_best = certificate_beside(short_run.best, best)
    assert of_best is not None
    assert (of_best.why_not, of_best.to_dict()["matches"]) == ("", True)
    other = load(short_run.last)
    other["model"]["layers.0.bias"][0] += 1
    write_checkpoint(tmp_path / "other.pt", {name: other[name] for name in other if name != "content_sha256"})
    changed = load_checkpoint(tmp_path / "other.pt")
    assert certificate_beside(tmp_path / "other.pt", changed) is None

    # One that lies beside the checkpoint; then one that was altered; then another decoder of the same weights.
    certify_checkpoint(CertifyArguments(out=str(tmp_path)), str(short_run.last))
    found = certificate_beside(tmp_path / "other.pt", changed)
    assert found is not None
    assert f"does not match: it is of weights with SHA-256 {weights_hash(last.model)[:12]}…" in str(found)
    found = certificate_beside(tmp_path / "last.pt", last)
    assert found is not None
    assert not found.why_not
    last.model.activation = "tanh"
    found = certificate_beside(tmp_path / "last.pt", last)
    assert found is not None
    assert found.why_not == "its activation is relu, and this one's tanh"
    path = tmp_path / "certificate.json"
    path.write_text(path.read_text(encoding="utf-8").replace("misreads at most", "misreads at least"), encoding="utf-8")
    found = certificate_beside(tmp_path / "last.pt", last)
    assert found is not None
    assert found.why_not.startswith("it does not hold, statement[0]: expected ")
    assert found.to_dict()["statement"] == []


def lowered(document: dict[str, Any]) -> None:
    """No errors, with everything that follows from it."""
    document["counts"]["errors"] = document["history"]["recorded"][0]["errors"] = 0
    for claim in document["claims"]:
        claim["risk"] = risk_text(upper_risk(claim["bound"], 0, 360, claim["share"]))


def without_record(document: dict[str, Any]) -> None:
    document["history"]["recorded"] = []


def on_other_labels(document: dict[str, Any]) -> None:
    document["data"] |= {"duplicates": 0, "occurring": 10}
    document["data"]["labels"]["sha256"], document["version"] = "0" * 64, 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lowered, "it counts 0 errors, and counted again {errors} examples are wrong or too near to call"),
        (without_record, "it records 0 looks at the test split, and the checkpoint 1, or others"),
        (on_other_labels, "it is about other examples than the test split of digits here"),
    ],
)
def test_evaluate_counts_again(change: Any, why: str, short_run: FinishedRun, tmp_path: Path) -> None:
    """A certificate whose numbers all follow from each other, but not from the network and its test split."""
    best = load_checkpoint(short_run.best)
    certify_checkpoint(CertifyArguments(out=str(tmp_path)), str(short_run.best))
    path = tmp_path / "certificate.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    errors = document["counts"]["errors"]
    change(document)
    path.write_bytes(sealed(document))
    found = certificate_beside(tmp_path / "best.pt", best)
    assert found is not None
    assert found.why_not == why.format(errors=errors)
    assert str(found) == f"certificate: {path} does not match: {found.why_not}"


def test_the_hash_is_of_what_the_network_multiplies_by() -> None:
    first, second = MLP((4, 3, 2), seed=1), MLP((4, 3, 2), seed=2)
    assert weights_hash(first) != weights_hash(second)
    second.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(second)
