"""Clusters of errors: found where they are planted, and not where the order is random."""

import numpy as np
import torch

from lean_mnist.training.evaluation.independence import PERMUTATIONS, independence


def test_clusters_are_found() -> None:
    """Writers of a hundred images each, of whom every fifth is misread one time in ten, and nobody else."""
    random = np.random.default_rng(4)
    rates = np.where(np.arange(100) % 5 == 0, 0.1, 0.0).repeat(100)
    found = independence(torch.from_numpy(random.random(10_000) >= rates))
    assert found is not None
    assert found.p_value == 1 / (1 + PERMUTATIONS)
    assert found.variance_ratio > 5
    assert 10_000 / 20 < found.effective_examples < 10_000 / 5
    assert abs(found.effective_examples * found.variance_ratio / 10_000 - 1) < 0.15
    errors = sum(found.halves)
    assert found.effective_risk > 1.3 * errors / 10_000
    assert f"{found.halves[0]} in the first half, {found.halves[1]} in the second" in str(found)
    assert "a measurement, not a certificate" in str(found)


def test_a_random_order_passes_as_often_as_it_should() -> None:
    random, below = np.random.default_rng(5), 0
    for seed in range(60):
        found = independence(torch.from_numpy(random.random(2_000) >= 0.05), seed)
        assert found is not None
        assert found.effective_examples <= 2_000
        below += found.p_value <= 0.1
    assert below <= 15  # 6 on average


def test_where_there_is_nothing_to_measure() -> None:
    for right in (torch.ones(1000), torch.zeros(1000), torch.tensor([0.0, 1.0] * 9), torch.ones(0)):
        assert independence(right.bool()) is None
    found = independence(torch.arange(360) % 7 > 0)
    assert found is not None
    assert (found.block, found.blocks) == (36, 10)
    assert found.effective_examples == 360  # errors spread more evenly than by chance say no more than m
