"""PAC-Bayes: steps and their audit, draws of pairs, divergences rounded up, the parts of a training split."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from lean_mnist.chainrule import gaussian
from lean_mnist.chainrule.pac_bayes import OBJECTIVES, confidence_cost
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.splits import cut
from lean_mnist.errors import ArgumentError, CertificateError, ConfigError
from lean_mnist.generalization import checker
from lean_mnist.generalization.pacbayes import certificate, posterior
from lean_mnist.generalization.pacbayes.audit import audit_posterior
from lean_mnist.generalization.pacbayes.certificate import divergence_above, layers_of
from lean_mnist.generalization.pacbayes.posterior import GaussianMLP, Goal, PosteriorStep
from tests.support.certificate_cases import random_data

UNIT = Normalization("unit", 0.0, 255.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(seed: int, scale: float = 0.1) -> GaussianMLP:
    """A network 20-6-3 that has left its prior."""
    network = GaussianMLP((20, 6, 3), scale, seed=seed)
    random = generator(seed)
    with torch.no_grad():
        for mean, log_scale in zip(network.means, network.log_scales, strict=True):
            mean.add_(torch.randn(mean.shape, generator=random) / 10)
            log_scale.add_(torch.randn(mean.shape, generator=random) / 2)
    return network


def computed(seed: int, goal: Goal) -> PosteriorStep:
    """One step of a network that has left its prior, on 16 random examples, not yet audited."""
    split = random_data(seed).train
    step = PosteriorStep(moved(seed))
    step(goal, UNIT.apply(split.images[:16]), split.labels[:16], generator(seed))
    return step


def goal(objective: str, ceiling: float = 12.0) -> Goal:
    if objective == "risk":
        return Goal()
    return Goal(objective, ceiling, 40, confidence_cost(40, 0.025), 0.5)


@pytest.mark.parametrize("objective", ["risk", *OBJECTIVES])
@pytest.mark.parametrize("ceiling", [12.0, 1.1, 0.01])
def test_a_step_passes_its_audit(objective: str, ceiling: float) -> None:
    """With no, some and all examples at the ceiling; by the risk alone only the means are trained."""
    step = computed(1, goal(objective, ceiling))
    found = audit_posterior(step)
    assert [str(divergence) for divergence in found if not divergence.passed] == []
    assert 0 < max(divergence.share for divergence in found) < 1
    names = [name for name, _ in step.network.posterior.named_parameters()]
    assert [divergence.name for divergence in found] == ["objective", "losses", *names]
    assert len(names) == 8
    moves = [bool(log_scale.grad is not None and log_scale.grad.any()) for log_scale in step.network.log_scales]
    assert moves == [objective != "risk"] * 4
    expected = {12.0: 16, 0.01: 0}.get(ceiling)
    below = int(step.last.below.sum())
    assert objective == "risk" or (below == expected if expected is not None else 0 < below < 16)


def wrong_sample(deviation: Any, d_w: Any) -> Any:
    return d_w, d_w * deviation * 1.001


def wrong_divergence(tape: gaussian.DivergenceTape, d_divergence: Any) -> Any:
    return tape.pull * d_divergence, tape.ratio * d_divergence


def wrong_slope(slope: Any, d_risk: Any) -> Any:
    return d_risk


PLANTED = {
    "sample_backward": (gaussian, wrong_sample, "log_scale.layers."),
    "divergence_backward": (gaussian, wrong_divergence, "log_scale.layers."),
    "bounded_risk_backward": (posterior, wrong_slope, "mean.layers."),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_gradient_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, wrong, where = PLANTED[name]
    monkeypatch.setattr(module, name, wrong)
    failed = [
        divergence.name for divergence in audit_posterior(computed(3, goal("quadratic"))) if not divergence.passed
    ]
    assert failed
    assert failed[0].startswith(where)


def test_an_example_on_the_wrong_side_of_the_ceiling_is_found() -> None:
    step = computed(4, goal("quadratic", 1.1))
    step.last.losses[int(step.last.below.nonzero()[0])] = 1.1
    assert [divergence.name for divergence in audit_posterior(step) if not divergence.passed] == ["losses"]


def test_a_loss_that_is_no_number_is_handed_on() -> None:
    network = moved(3)
    with torch.no_grad():
        network.log_scales[0].fill_(200.0)
    at = PosteriorStep(network)(goal("quadratic"), torch.rand(4, 20), torch.zeros(4, dtype=torch.int64), generator(0))
    assert not torch.isfinite(at.value)


def test_a_posterior_starts_as_its_prior() -> None:
    network = moved(5)
    assert network.divergence() > 1
    network.start_from_prior()
    assert network.divergence() == 0
    with pytest.raises(ArgumentError, match="prior_scale: expected a finite number above 0, found 0"):
        GaussianMLP((4, 2), 0.0)


def test_pairs_are_drawn_as_whole_networks_would_be() -> None:
    """Errors of pairs, layer by layer, and of 4,000 networks whose weights were all drawn: within 5 deviations."""
    seed, number = 11, 4000
    print(f"seed {seed}")
    network, split = moved(4, 0.2), random_data(4).train
    images, labels = split.images.numpy(), split.labels.numpy()
    pairs = certificate.draw_outcomes(layers_of(network), images, labels, 255, b"key", 4 * number).mean()
    random = generator(seed)
    x, wrong = UNIT.apply(split.images), 0
    means = [mean.detach() for mean in network.means]
    chosen = torch.randint(len(x), (number,), generator=random)
    w1, b1, w2, b2 = (
        mean + log_scale.detach().exp() * torch.randn((number, *mean.shape), generator=random)
        for mean, log_scale in zip(means, network.log_scales, strict=True)
    )
    h = torch.relu(torch.einsum("nhd,nd->nh", w1, x[chosen]) + b1)
    wrong = int(((torch.einsum("nch,nh->nc", w2, h) + b2).argmax(1) != split.labels[chosen]).sum())
    assert abs(pairs - wrong / number) < 5 * math.sqrt(0.25 / number * 1.25)


def test_random_numbers_are_normal_and_the_checkers() -> None:
    examples, noise = certificate.random_numbers(b"key", range(3, 403), 10, 25)
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
