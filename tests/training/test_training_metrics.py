"""Counts, and what is derived from them."""

import json

import pytest
import torch
from scipy.stats import binomtest

from lean_mnist.data.datasets import Split, load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import HealthError
from lean_mnist.nn import MLP
from lean_mnist.training.evaluation import metrics
from lean_mnist.training.evaluation.metrics import clopper_pearson, evaluate

AS_THEY_ARE = Normalization("unit", 0.0, 1.0)


def echo(classes: int = 4) -> MLP:
    """A network whose logits are its inputs."""
    model = MLP((classes, classes))
    with torch.no_grad():
        model.weights_and_biases()[0][0].copy_(torch.eye(classes))
    return model


def split(logits: list[list[int]], labels: list[int]) -> Split:
    return Split(torch.tensor(logits, dtype=torch.uint8).view(len(logits), 2, 2), torch.tensor(labels))


EXAMPLES = split([[9, 0, 0, 0], [0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 0, 9], [0, 0, 0, 9]], [0, 0, 1, 3, 1])


def test_confusion_counts_the_examples_of_a_row_called_by_a_column() -> None:
    found = evaluate(echo(), EXAMPLES, AS_THEY_ARE)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert found.predictions.tolist() == [0, 1, 1, 3, 3]
    assert (found.examples, found.correct, found.errors, found.accuracy) == (5, 3, 2, 0.6)


def test_a_class_without_examples_has_no_accuracy() -> None:
    found = evaluate(echo(), EXAMPLES, AS_THEY_ARE)
    assert found.class_accuracy == [0.5, 0.5, None, 1.0]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["class_accuracy"] == [0.5, 0.5, None, 1.0]


def test_ties_go_to_the_smallest_class() -> None:
    found = evaluate(echo(), split([[5, 5, 5, 5], [0, 7, 7, 0], [0, 0, 3, 3]], [0, 2, 3]), AS_THEY_ARE)
    assert found.predictions.tolist() == [0, 1, 2]
    assert found.correct == 1


def test_the_loss_is_the_mean_cross_entropy_whatever_the_network_was_trained_on() -> None:
    logits = EXAMPLES.images.flatten(1).double()
    expected = float(torch.nn.functional.cross_entropy(logits, EXAMPLES.labels))
    plain = evaluate(echo(), EXAMPLES, AS_THEY_ARE)
    assert plain.loss == pytest.approx(expected, rel=1e-12)
    model = MLP((4, 4), label_smoothing=0.3, logit_penalty=2.0)
    model.load_state_dict(echo().state_dict())
    assert evaluate(model, EXAMPLES, AS_THEY_ARE).loss == plain.loss


@pytest.mark.parametrize("chunk", [1, 7, 359, 360, 361])
def test_the_result_does_not_depend_on_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, model = load_digits(), MLP((64, 10), seed=3)
    normalization = Normalization.fit("unit", digits.train.images, digits.maximum)
    whole = evaluate(model, digits.test, normalization)
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    found = evaluate(model, digits.test, normalization)
    assert found.confusion.equal(whole.confusion)
    assert found.predictions.equal(whole.predictions)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_outputs_that_are_not_finite_are_no_predictions() -> None:
    model = echo()
    with torch.no_grad():
        model.weights_and_biases()[0][0][2, 2] = float("inf")
    with pytest.raises(HealthError, match="outputs are not finite on examples 0 to 4"):
        evaluate(model, EXAMPLES, AS_THEY_ARE)


TRIALS = [(0, 1), (1, 1), (0, 10), (10, 10), (1, 10), (5, 10), (9, 10), (349, 360), (9_830, 10_000), (10_000, 10_000)]


@pytest.mark.parametrize(("successes", "trials"), TRIALS)
@pytest.mark.parametrize("confidence", [0.95, 0.99, 0.5])
def test_the_interval_is_scipys_exact_one(successes: int, trials: int, confidence: float) -> None:
    theirs = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    low, high = clopper_pearson(successes, trials, confidence)
    assert low == pytest.approx(theirs.low, rel=1e-9)
    assert high == pytest.approx(theirs.high, rel=1e-9)
    assert 0 <= low <= successes / trials <= high <= 1


def test_the_interval_is_one_sided_only_where_it_has_to_be() -> None:
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(10, 10)[1] == 1.0
    assert clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025 ** (1 / 10), rel=1e-12)
    assert clopper_pearson(10, 10)[0] == pytest.approx(0.025 ** (1 / 10), rel=1e-12)
