"""PyTorch's face of the Gaussian and of the PAC-Bayes objectives, by the public check of any Function."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lean_mnist.chainrule.pac_bayes import OBJECTIVES
from lean_mnist.crosscheck import check_function
from lean_mnist.nn import gaussian


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_sample() -> None:
    mean, log_scale, noise = tensors((3, 4), (3, 4), (3, 4))
    inputs = [mean.requires_grad_(), log_scale.requires_grad_(), noise]
    check_function(gaussian.sample, lambda m, s, e: m + s.exp() * e, inputs, seed=1, probes=1).raise_if_failed()


def test_divergence() -> None:
    mean, log_scale, prior_mean, prior = tensors((3, 4), (3, 4), (3, 4), ())
    inputs = [mean.requires_grad_(), log_scale.requires_grad_(), prior_mean, prior]

    def reference(m, s, n, k):
        return kl_divergence(Normal(m, s.exp()), Normal(n, k.exp())).sum()

    check_function(gaussian.divergence, reference, inputs, seed=2, probes=1).raise_if_failed()


REFERENCES = {
    "quadratic": lambda r, c: r + 2 * c + 2 * torch.sqrt(c * (r + c)),
    "classic": lambda r, c: r + torch.sqrt(c),
    "lambda": lambda r, c: _thiemann(r, c, 2 / (torch.sqrt(r / c + 1) + 1)),
}


def _thiemann(r, c, v):
    return r / (1 - v / 2) + 2 * c / (v * (1 - v / 2))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name) -> None:
    risk, divergence = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.03, 20.0))
    function = lambda r, k: gaussian.objective(name, r, k, 500, 7.0)  # noqa: E731
    reference = lambda r, k: REFERENCES[name](r, (k + 7.0) / 1000)  # noqa: E731
    check_function(function, reference, [risk, divergence], seed=3, probes=1).raise_if_failed()


def test_a_wrong_factor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: a variance's derivative without its 2."""
    monkeypatch.setattr(gaussian.gaussian, "divergence_backward", lambda tape, g: (tape.pull * g, tape.ratio * g / 2))
    mean, log_scale, prior_mean, prior = tensors((2, 2), (2, 2), (2, 2), ())
    inputs = [mean, log_scale.requires_grad_(), prior_mean, prior]
    assert not check_function(gaussian.divergence, None, inputs, seed=4, probes=1).ok
