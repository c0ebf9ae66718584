"""``python -m lean_mnist.pacbayes``: its stages through the trainer, its gates, checkpoints, resuming, certificate."""

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lean_mnist import evaluate, pacbayes
from lean_mnist.data.datasets import load_dataset
from lean_mnist.errors import BoundError, CheckpointError, ConfigError, GradientMismatch, HealthError
from lean_mnist.mutants import mutant_named, planted
from lean_mnist.pacbayes import run
from lean_mnist.training.checkpoints import read_checkpoint, write_checkpoint
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.objectives.pac_bayes import PacBayes
from tests.generalization.test_pacbayes import wrong_divergence, wrong_sample
from tests.support.certificate_cases import rejection
from tests.support.planting import Plant
from tests.support.training_cases import (
    MEASURED_FIELDS,
    call,
    identical,
    interrupted_at,
    load,
    named,
    records_in,
    without,
)

# Of 1,437 digits, 718 for the prior: 6 batches of 128; 719 for the bound: 3 of 250.
OPTIONS: dict[str, Any] = {
    "dataset": "digits", "hidden": (8,), "prior_scale": ("0.1", "1/4"), "prior_epochs": 1, "epochs": 2, "draws": 300,
    "augment": False, "seed": 3, "run_name": "one", "quiet": True, "log_every": 2,
}  # fmt: skip


class Finished(NamedTuple):
    """A run in ``root/runs/one`` and ``root/checkpoints/one``."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "one"

    @property
    def summary(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return values

    def checkpoint(self, which: str) -> dict[str, Any]:
        return load(self.root / "checkpoints" / "one" / f"{which}.pt")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.training.objectives.pac_bayes_result.ESTIMATE_DRAWS", 500)


@pytest.fixture(scope="module", params=["learnt", "data-free"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("pac-bayes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("lean_mnist.training.objectives.pac_bayes_result.ESTIMATE_DRAWS", 500)
        result = run(PacBayesConfig(prior=request.param, **OPTIONS))
    assert "confidence 1 - 7/200" in str(result)
    return Finished(root)


def test_the_certificate_holds(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    values, learnt = finished.summary, finished.summary["prior"] == "learnt"
    assert values["prior_scale"] in OPTIONS["prior_scale"]
    assert values["examples"] == (719 if learnt else 1437)
    assert values["candidates"] == (4 if learnt else 30)
    assert [len(epochs) for epochs in values["epochs"]] == ([1, 2] if learnt else [2])
    assert set(values["seconds"]) == {"posterior", "certificate", "other priors", *(["prior"] if learnt else [])}
    monkeypatch.chdir(finished.root)
    assert rejection(values["certificate"]) == ""
    document = json.loads(Path(values["certificate"]).read_text())
    assert values["adaptive"] is document["prior"]["adaptive"] is True
    assert Fraction(values["total_delta"]) == (2 if learnt else 1) * (Fraction("0.035") + Fraction("1e-9"))
    if learnt:  # counted at the end of each prior's training, and in the end those of the chosen one's mean network
        records = records_in(finished.folder)
        counted = named(records, "holdout/errors")
        assert len(counted) == 2
        assert document["holdout"]["errors"] == values["holdout"]["errors"]
        assert values["holdout"]["errors"] in counted
        assert len(named(records, "certificate/holdout_risk_7_in_200")) == 1
    assert (values["holdout"] is not None) is ("holdout" in document) is learnt
    raw = (finished.folder / "certificate.mean").read_bytes()
    assert document["files"]["mean"]["sha256"] == hashlib.sha256(raw).hexdigest()


def test_it_leaves_what_every_run_leaves(finished: Finished) -> None:
    learnt, best = finished.summary["prior"] == "learnt", finished.checkpoint("best")
    means = [value for name, value in best["model"].items() if name.startswith("posterior.mean.")]
    assert (finished.folder / "certificate.mean").read_bytes() == b"".join(m.numpy().tobytes() for m in means)
    assert best["config"] == finished.checkpoint("last")["config"]
    assert best["config"] == json.loads((finished.folder / "config.json").read_text())
    assert best["config"]["hidden"] == [8]
    assert list(finished.folder.glob("events.out.tfevents.*"))
    records, steps = records_in(finished.folder), 2 * (6 + 6) if learnt else 2 * 12
    assert finished.summary["steps"] == steps
    assert named(records, "train/loss") == pytest.approx(named(records, "train/loss"))
    assert len(named(records, "train/loss")) == 1 + steps // 2
    assert len(named(records, "posterior/kl")) == 4
    assert len(named(records, "prior/risk")) == (2 if learnt else 0)
    assert max(named(records, "train/learning_rate")) <= 0.5
    checks = finished.summary["checks"]
    # The first step of each of the trainings: the drawn network's step, and what leads from it to the posterior.
    assert checks["comparisons"] == 2 * (4 if learnt else 2)
    assert (checks["verdict"], checks["gradchecks"]) == ("passed", 1)


def test_a_position_that_is_none_of_the_run_is_refused(here: Path) -> None:
    """After the first of two posteriors, each list in turn with an entry too few."""
    last = here / "checkpoints" / "one" / "last.pt"
    interrupted_at(14, lambda: run(PacBayesConfig(**OPTIONS)))
    for name, expected in (("epochs", 4), ("seconds", 4), ("candidates", 1)):
        content = load(last)
        del content["content_sha256"], content["training"]["position"][name][0]
        write_checkpoint(here / "last.pt", content)
        objective = PacBayes(PacBayesConfig(**OPTIONS), load_dataset("digits", "data"))
        with pytest.raises(CheckpointError, match=rf"last.pt: training.position.{name}: expected {expected} of them"):
            objective.restore(read_checkpoint(here / "last.pt"), here / "last.pt")


@pytest.mark.parametrize("step", [3, 6, 7, 12, 14, 21])
def test_an_interrupted_run_goes_on_bit_for_bit(step: int, finished: Finished, here: Path) -> None:
    """In every stage, and where one ends."""
    options = PacBayesConfig(prior=finished.summary["prior"], **OPTIONS)
    interrupted_at(step, lambda: run(options))
    run(options, here / "checkpoints" / "one" / "last.pt")
    again = Finished(here)
    for which in ("best", "last"):
        assert identical(again.checkpoint(which)["model"], finished.checkpoint(which)["model"])
    assert without(again.summary, *MEASURED_FIELDS) == without(finished.summary, *MEASURED_FIELDS)
    certificate = (finished.folder / "certificate.json").read_bytes()
    assert (again.folder / "certificate.json").read_bytes() == certificate
    names = ("train/loss", "divergence/largest", "posterior/objective", "gradient_norm/all")
    both = [[named(records_in(one.folder), name) for name in names] for one in (again, finished)]
    assert both[0] == both[1]


def test_training_lowers_the_bound(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**OPTIONS, "prior_scale": ("1/4",), "epochs": 30, "check": "full", "draws": 2000, "quiet": False}
    values = run(PacBayesConfig(prior="data-free", **options)).to_dict()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30
    assert all(name in lines[-1] for name in ("digits  epoch 30/30  loss ", "  objective ", "  risk ", "  kl "))
    (epochs,) = values["epochs"]
    assert epochs[-1]["objective"] < 0.8 * epochs[0]["objective"]
    assert epochs[0]["divergence"] < epochs[-1]["divergence"]
    assert values["checks"]["screens"] == values["steps"] == 30 * 6
    assert values["test_risk"] < 0.85  # guessing: 0.9


@pytest.mark.parametrize(
    ("name", "wrong"), [("sample_backward", wrong_sample), ("divergence_backward", wrong_divergence)]
)
def test_a_wrong_gradient_never_reaches_the_weights(
    name: str,
    wrong: Callable[..., Any],
    here: Path,
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(f"chainrule.gaussian.{name}", wrong)
    options = "--prior data-free --dataset digits --hidden 8 --epochs 1 --run-name one --quiet"
    found = call(pacbayes.main, options.split(), monkeypatch, capsys)
    assert found.status == 3
    message = "error: gradient check failed at step 1: log_scale.layers."
    assert found.err.startswith(message)
    assert "the step was not applied" in found.err
    content = load(here / "checkpoints" / "one" / "last.pt")["model"]
    assert torch.equal(content["posterior.mean.layers.0.weight"], content["prior.layers.0.weight"])
    assert not (here / "runs" / "one" / "failures").exists(), "the drawn network's step was right"


@pytest.mark.parametrize("check", ["audit", "screen"])
def test_a_bug_in_the_drawn_networks_step_is_found(check: Any, here: Path) -> None:
    with (
        planted(mutant_named("weight-scale-1.01")),
        pytest.raises(GradientMismatch, match="gradient check failed at step 1: "),
    ):
        run(PacBayesConfig(check=check, **OPTIONS))
    (bundle,) = (here / "runs" / "one" / "failures").iterdir()
    assert bundle.name == "step-1.pt"


def test_a_step_that_is_computed_twice_counts_once(
    finished: Finished, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = PacBayes._gradients, []

    def spoilt_once(objective: PacBayes, batches: Any) -> Any:
        result = compute(objective, batches)
        calls.append(1)
        if len(calls) == 3:
            objective.parameters.gradient[0] = torch.nan
        return result

    monkeypatch.setattr(PacBayes, "_gradients", spoilt_once)
    prior: Any = finished.summary["prior"]
    found = run(PacBayesConfig(prior=prior, **OPTIONS)).to_dict()
    assert found["checks"]["transient"] == 1
    assert found["epochs"] == finished.summary["epochs"]


def test_a_run_that_diverges_is_stopped(here: Path) -> None:
    with pytest.raises(HealthError, match=r"step \d+: the (loss|gradient of (mean|log_scale)\.\S+) is"):
        run(PacBayesConfig(**{**OPTIONS, "prior_lr": 1e30}))


def test_the_command(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--prior data-free --dataset digits --hidden 4 --epochs 1 --draws 200 --delta 1/3 --run-name two --json"
    found = call(pacbayes.main, [*options.split(), "--quiet"], monkeypatch, capsys)
    assert (found.status, found.err) == (0, "")
    values = json.loads(found.out)
    assert values["sizes"] == [64, 4, 10]
    assert [claim["delta"] for claim in values["claims"]] == ["1/3"]
    # A run that has ended is summed up again; a repetition is a new run with the same result.
    again = call(pacbayes.main, ["--resume", "two"], monkeypatch, capsys)
    assert without(json.loads(again.out), "seconds") == without(values, "seconds")
    repeated = call(pacbayes.main, ["--config", "runs/two/config.json", "--run-name", "three"], monkeypatch, capsys)
    assert without(json.loads(repeated.out), "seconds", "certificate") == without(values, "seconds", "certificate")
    refused = call(evaluate.main, ["checkpoints/two/best.pt"], monkeypatch, capsys)
    assert refused.status == 2
    assert "expected one network, found a Gaussian over networks" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--prior guessed", "--prior: expected one of learnt, data-free, found 'guessed'"),
        ("--priorscale 0.1", "--priorscale: no such option (did you mean '--prior-scale'?)"),
        ("--resume nothing", "--resume nothing: expected a run with checkpoints/nothing/last.pt, found none"),
        ("--resume --config x", "--config and --resume: each names what a run starts from"),
        ("--dataset kmnist --data-dir nowhere", "Data set 'kmnist' not found: looked for"),
        ("--dataset digits --run-name ../x", "--run-name: expected the name of one folder, found '../x'"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = call(pacbayes.main, arguments.split(), monkeypatch, capsys)
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"error: {message}")
    assert found.err.count("\n") == 1


def test_what_may_not_change_on_resuming(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.root)
    found = call(pacbayes.main, ["--resume", "one", "--seed", "4"], monkeypatch, capsys)
    assert found.status == 2
    assert found.err.startswith("error: --seed: this run was started with 3, found 4")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(
            ({"prior_scale": ("0.1", scale)}, ConfigError, "prior-scale: expected one or more numbers above 10^-30 and")
            for scale in ("0", "1e-30", "1e6", "1e400")
        ),
        ({"draws": 10**9 + 1}, ConfigError, "--draws: expected at most 10^9, found 1000000001"),
        ({"prior_scale": ("x",)}, BoundError, "prior-scale: expected a number such as"),
        ({"prior_scale": ("0.1", "0.2"), "candidates": 1}, ConfigError, "candidates: expected at least 2"),
        ({"draws": 0}, ConfigError, "--draws: expected at least 1, found 0"),
        ({"epochs": 0}, ConfigError, "--epochs: expected at least 1, found 0"),
        ({"p_min": 1.0}, ConfigError, "--p-min: expected a probability between 0 and 1, found 1.0"),
        ({"delta": ("0",)}, BoundError, "delta: expected a probability strictly between 0 and 1, found 0"),
        ({"prior": "data-free", "prior_examples": 5}, ConfigError, "prior-examples: 5, but a data-free prior"),
        ({"prior_examples": 1437, "dataset": "digits"}, ConfigError, "prior-examples: expected from 1 to 1436"),
    ],
)
def test_impossible_configurations(options: dict[str, Any], error: type[Exception], message: str, here: Path) -> None:
    with pytest.raises(error) as caught:
        run(PacBayesConfig(**options))
    assert str(caught.value).startswith(message)
