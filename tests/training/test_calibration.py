"""Calibration error, risk by coverage, and their pictures, against counts made one by one."""

import numpy as np
import pytest
import torch

from lean_mnist.data.datasets import Split
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn import MLP
from lean_mnist.training.evaluation.metrics import Evaluation, calibration, evaluate, risk_by_coverage
from lean_mnist.training.evaluation.pictures import reliability_diagram, risk_coverage_curve


def made_up(seed: int, examples: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences, some of them equal and some at the ends, and which predictions are right."""
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    confidences = torch.randint(0, 61, (examples,), generator=generator).double() / 60
    return confidences, torch.rand(examples, generator=generator) < confidences**2


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_counted_bin_by_bin(bins: int) -> None:
    confidences, right = made_up(bins)
    error = 0.0
    for index in range(bins):
        own = [
            (c, r) for c, r in zip(confidences.tolist(), right.tolist(), strict=True)
            if index / bins < c <= (index + 1) / bins + 1e-12 or (c == 0 and index == 0)
        ]  # fmt: skip
        if own:
            error += abs(sum(r for _, r in own) - sum(c for c, _ in own)) / len(right)
    found = calibration(confidences, right, bins)
    assert found.error == pytest.approx(error, rel=1e-9)
    assert (int(found.examples.sum()), int(found.correct.sum())) == (300, int(right.sum()))


def test_one_that_knows_itself_has_no_error() -> None:
    confidences = torch.tensor([0.75] * 4 + [0.5] * 2, dtype=torch.float64)
    right = torch.tensor([True, True, True, False, True, False])
    assert calibration(confidences, right).error == 0
    assert calibration(torch.ones(6, dtype=torch.float64), right).error == pytest.approx(2 / 6)


def test_risk_by_coverage_is_counted_one_by_one() -> None:
    confidences, right = made_up(3)
    coverage, risk = risk_by_coverage(confidences, right)
    ordered = confidences.sort(descending=True).values
    for n in (1, 2, 17, 150, 299, 300):
        answered = confidences >= ordered[n - 1]
        assert float(coverage[n - 1]) == n / 300
        assert float(risk[n - 1]) == pytest.approx(float((~right[answered]).double().mean()), rel=1e-12)
    assert float(risk[-1]) == pytest.approx(1 - float(right.double().mean()))


def test_the_order_of_the_examples_does_not_matter() -> None:
    confidences, right = made_up(4)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(4))
    for own, other in zip(
        risk_by_coverage(confidences, right), risk_by_coverage(confidences[order], right[order]), strict=True
    ):
        assert torch.equal(own, other)


def test_confidences_are_softmax_probabilities() -> None:
    generator = torch.Generator().manual_seed(5)
    split = Split(
        torch.randint(0, 256, (50, 2, 3), generator=generator, dtype=torch.uint8),
        torch.randint(0, 4, (50,), generator=generator),
    )
    model, normalization = MLP((6, 5, 4), seed=5), Normalization("unit", 0.0, 255.0)
    found = evaluate(model, split, normalization)
    logits = model(normalization.apply(split.images)).detach().double()
    assert torch.allclose(found.confidences, torch.softmax(logits, 1).amax(1), rtol=1e-12)
    assert torch.equal(found.right, logits.argmax(1) == split.labels)
    assert found.correct == int(found.right.sum())


@pytest.mark.parametrize("right", [0, 1, 5])
def test_pictures_of_few_or_no_errors(right: int) -> None:
    """Drawn whatever the counts, and different ones where these differ."""
    confusion = torch.tensor([[right, 5 - right], [0, 0]])
    confidences = torch.linspace(0.3, 1, 5, dtype=torch.float64)
    found = Evaluation(0.0, confusion, torch.zeros(5), confidences, torch.arange(5) < right)
    other = Evaluation(0.0, confusion, torch.zeros(5), confidences, torch.arange(5) >= right)
    for draw in (reliability_diagram, risk_coverage_curve):
        picture = draw(found)
        assert picture.dtype == np.uint8
        assert picture.shape == (480, 720, 3)
        assert picture.min() < 50 < 250 < picture.max()
        assert not np.array_equal(picture, draw(other))
