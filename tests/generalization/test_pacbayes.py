"""PAC-Bayes training: audited steps, what it lowers, draws of pairs, divergences rounded up, the command."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from lean_mnist import pacbayes as command
from lean_mnist.chainrule import gaussian
from lean_mnist.chainrule.pac_bayes import OBJECTIVES
from lean_mnist.data.batches import Batches
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import BoundError, CertificateError, ConfigError, GradientMismatch, HealthError
from lean_mnist.generalization import checker
from lean_mnist.generalization.pacbayes import draws
from lean_mnist.generalization.pacbayes.certificate import layers_of
from lean_mnist.generalization.pacbayes.divergence import divergence_above
from lean_mnist.generalization.pacbayes.network import GaussianMLP
from lean_mnist.generalization.pacbayes.parts import cut
from lean_mnist.generalization.pacbayes.run import run
from lean_mnist.generalization.pacbayes.training import Recipe, train
from lean_mnist.pacbayes import PacBayesConfig
from tests.support.certificate_cases import random_data, rejection

UNIT = Normalization("unit", 0.0, 255.0)


def moved(seed: int, scale: float = 0.1) -> GaussianMLP:
    """A network 20-6-3 that has left its prior."""
    network = GaussianMLP((20, 6, 3), scale, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for mean, log_scale in zip(network.means, network.log_scales, strict=True):
            mean.add_(torch.randn(mean.shape, generator=generator) / 10)
            log_scale.add_(torch.randn(mean.shape, generator=generator) / 2)
    return network


def batches(seed: int) -> Batches:
    return Batches(random_data(seed).train, UNIT, 16, seed)


@pytest.mark.parametrize("objective", ["risk", *OBJECTIVES])
def test_every_step_is_audited_and_passes(objective: str) -> None:
    network = moved(1)
    scales = [log_scale.detach().clone() for log_scale in network.log_scales]
    found = train(network, batches(1), Recipe(objective, 2, 0.1, check_every=1, p_min=0.1))
    assert found.audits == 6
    assert found.largest is not None
    assert 0 < found.largest.share < 1
    same = [torch.equal(before, after) for before, after in zip(scales, network.log_scales, strict=True)]
    assert all(same) if objective == "risk" else not any(same)  # by the risk alone only the means are trained


def test_training_lowers_the_bound_and_repeats_itself() -> None:
    """From a posterior that has left its prior for nothing."""
    one, other = moved(2), moved(2)
    epochs = [train(network, batches(2), Recipe("quadratic", 8, 0.1)).epochs for network in (one, other)]
    assert epochs[0] == epochs[1]
    assert epochs[0][-1].objective < 0.8 * epochs[0][0].objective
    assert epochs[0][-1].divergence < 0.5 * epochs[0][0].divergence


def wrong_sample(tape: gaussian.SampleTape, d_w: Any) -> Any:
    return d_w, d_w * tape.deviation * 1.001


def wrong_divergence(tape: gaussian.DivergenceTape, d_divergence: Any) -> Any:
    return tape.pull * d_divergence, tape.ratio * d_divergence


@pytest.mark.parametrize(
    ("name", "wrong", "where"),
    [("sample_backward", wrong_sample, "log_scale.layers."), ("divergence_backward", wrong_divergence, "log_scale.")],
)
def test_a_wrong_gradient_never_reaches_the_weights(
    name: str, wrong: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian, name, wrong)
    network = moved(3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    with pytest.raises(GradientMismatch) as caught:
        train(network, batches(3), Recipe("quadratic", 1, 0.1))
    assert str(caught.value).startswith(f"step 1: {where}")
    assert all(map(torch.equal, before, network.parameters()))


def test_an_objective_that_is_no_number_stops_it() -> None:
    network = moved(3)
    with torch.no_grad():
        network.log_scales[0].fill_(200.0)
    with pytest.raises(HealthError, match=r"step 1: objective (nan|inf), gradients up to"):
        train(network, batches(3), Recipe("quadratic", 1, 0.1))


def test_pairs_are_drawn_as_whole_networks_would_be() -> None:
    """Errors of pairs, layer by layer, and of 4,000 networks whose weights were all drawn: within 5 deviations."""
    seed, number = 11, 4000
    print(f"seed {seed}")
    network, split = moved(4, 0.2), random_data(4).train
    images, labels = split.images.numpy(), split.labels.numpy()
    pairs = draws.draw_outcomes(layers_of(network), images, labels, 255, b"key", 4 * number).mean()
    generator = torch.Generator().manual_seed(seed)
    x, wrong = UNIT.apply(split.images), 0
    means = [mean.detach() for mean in network.means]
    chosen = torch.randint(len(x), (number,), generator=generator)
    w1, b1, w2, b2 = (
        mean + log_scale.detach().exp() * torch.randn((number, *mean.shape), generator=generator)
        for mean, log_scale in zip(means, network.log_scales, strict=True)
    )
    h = torch.relu(torch.einsum("nhd,nd->nh", w1, x[chosen]) + b1)
    wrong = int(((torch.einsum("nch,nh->nc", w2, h) + b2).argmax(1) != split.labels[chosen]).sum())
    assert abs(pairs - wrong / number) < 5 * math.sqrt(0.25 / number * 1.25)


def test_random_numbers_are_normal_and_the_checkers() -> None:
    examples, noise = draws.random_numbers(b"key", range(3, 403), 10, 25)
    for row, number in enumerate(range(3, 23)):
        word, same = checker.random_numbers(b"key", number, 25)
        assert word * 10 >> 64 == examples[row]
        assert np.allclose(noise[row], same, rtol=1e-13, atol=1e-13)
    assert sorted(set(examples.tolist())) == list(range(10))
    # Kolmogorov and Smirnov at a thousandth, for 10,000 numbers
    ordered = np.sort(noise.ravel())
    expected = Normal(0.0, 1.0).cdf(torch.from_numpy(ordered)).numpy()
    assert np.abs(expected - np.arange(1, len(ordered) + 1) / len(ordered)).max() < 1.95 / math.sqrt(len(ordered))


def test_divergence_is_rounded_up_at_the_sixth_digit() -> None:
    """Against sums in long double, and exactly 0 where posterior and prior are one."""
    random = np.random.default_rng(5)
    for count in (1, 7, 2500):
        scales = np.exp(random.normal(-3, 1, count)).astype(np.float32)
        means, priors = random.normal(size=(2, count)).astype(np.float32)
        found = divergence_above(means, scales, priors, Fraction(1, 20))
        s, shift = scales.astype(np.longdouble) * 20, (means.astype(np.longdouble) - priors) * 20
        exact = ((s * s - 1 + shift * shift) / 2 - np.log(s)).sum()
        assert found.denominator <= 10**6
        assert 0 <= float(found) - float(exact) < 1.001e-6
    same = np.full(1200, 1 / 32, np.float32)
    assert divergence_above(same, same, same, Fraction(1, 32)) == 0
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(CertificateError, match="scale: holds infinities"):
            divergence_above(same[:1], np.array([wrong], np.float32), same[:1], Fraction(1))


def test_parts_are_those_of_the_checker() -> None:
    split = random_data(6).train
    first, second = cut(split, 15, 7)
    chosen = checker.bound_part({"examples": 40, "part": {"prior_examples": 15, "seed": 7}})
    assert torch.equal(second.images, split.images[chosen])
    assert torch.equal(first.labels, split.labels[[index for index in range(40) if index not in chosen]])
    assert len(cut(split, 0, 7)[1]) == 40
    for size in (-1, 40):
        with pytest.raises(ConfigError, match="prior-examples: expected from 0 to 39, found"):
            cut(split, size, 7)


@pytest.mark.parametrize("prior", ["learnt", "data-free"])
def test_the_run_writes_a_certificate_that_holds(prior: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lean_mnist.generalization.pacbayes.run.ESTIMATE_DRAWS", 500)
    scales = ("0.1", "1/4")
    config = PacBayesConfig(
        prior=prior, dataset="digits", hidden=(8,), prior_scale=scales, prior_epochs=1, epochs=2, draws=300,
        augment=False, run_name="one", runs_dir=str(tmp_path), seed=3,
    )  # fmt: skip
    said: list[str] = []
    summary = run(config, said.append)
    assert len(said) == (8 if prior == "learnt" else 6)
    values = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert values == summary.values
    assert values["prior_scale"] in scales
    assert values["examples"] == (719 if prior == "learnt" else 1437)
    assert values["candidates"] == (10 if prior == "learnt" else 100)
    assert rejection(values["certificate"]) == ""
    document = json.loads(Path(values["certificate"]).read_text())
    weights = (tmp_path / "one" / "certificate.mean").read_bytes()
    assert document["files"]["mean"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert "confidence 1 - 7/200" in str(summary)
    with pytest.raises(ConfigError, match="exists already"):
        run(config, said.append)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("lean_mnist.generalization.pacbayes.run.ESTIMATE_DRAWS", 500)
    options = "--prior data-free --dataset digits --hidden 4 --epochs 1 --draws 200 --delta 1/2 --run-name two --json"
    monkeypatch.setattr("sys.argv", ["pacbayes", *options.split(), "--quiet", "--runs-dir", str(tmp_path)])
    command.main()
    printed = capsys.readouterr()
    assert printed.err == ""
    values = json.loads(printed.out)
    assert values["sizes"] == [64, 4, 10]
    assert [claim["delta"] for claim in values["claims"]] == ["1/2"]
    assert (tmp_path / "two" / "certificate.json").is_file()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prior_scale": ("0",)}, ConfigError, "prior-scale: expected one or more numbers above 0, found 0"),
        ({"prior_scale": ("x",)}, BoundError, "prior-scale: expected a number such as"),
        ({"prior_scale": ("0.1", "0.2"), "candidates": 1}, ConfigError, "candidates: expected at least 2"),
        ({"draws": 0}, ConfigError, "draws: expected at least 1, found 0"),
        ({"epochs": 0}, ConfigError, "epochs: expected at least 1, found 0"),
        ({"p_min": 1.0}, ConfigError, "p-min: expected a probability between 0 and 1, found 1.0"),
        ({"delta": ("0",)}, BoundError, "delta: expected a probability strictly between 0 and 1, found 0"),
        ({"prior": "data-free", "prior_examples": 5}, ConfigError, "prior-examples: 5, but a data-free prior"),
        ({"prior_examples": 1437, "dataset": "digits"}, ConfigError, "prior-examples: expected from 1 to 1436"),
        ({"run_name": "../x", "dataset": "digits"}, ConfigError, "run-name: '../x', expected the name of a folder"),
    ],
)
def test_impossible_configurations(options: dict[str, Any], error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        run(PacBayesConfig(**{"runs_dir": str(tmp_path), **options}), print)
    assert str(caught.value).startswith(message)
