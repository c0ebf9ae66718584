"""Records to look at, of a network and its evaluation on the test split: pictures, curves, the embedding."""

from collections.abc import Iterator

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.nn import MLP
from lean_mnist.reading.text import printable
from lean_mnist.rendering.pixels import in_grey
from lean_mnist.training.evaluation import images
from lean_mnist.training.evaluation.metrics import Evaluation, last_hidden, precision_recall
from lean_mnist.training.sinks.records import Embedding, Image, Points, PrecisionRecall, Record

_MOST_CURVES = 50
_MOST_POINTS, _MOST_NUMBERS, _LEAST_POINTS = 1000, 256_000, 10


def final_drawings(
    step: int, model: MLP, normalization: Normalization, dataset: Dataset, found: Evaluation
) -> Iterator[Record]:
    """Drawings of ``found``, the evaluation of ``model`` on the test split, with probabilities."""
    test, maximum = dataset.test, dataset.maximum
    drawn = {
        "first_layer_weights": images.first_layer_weights(model, dataset.image_shape),
        "confusion": images.confusion_matrix(found),
        "misread": images.misread_digits(test, found, maximum),
        "least_certain": images.least_certain_digits(test, found, maximum),
    }
    for name, picture in drawn.items():
        if picture is not None:
            yield Image(step, f"picture/{name}", picture)
    assert found.probabilities is not None
    for number, of_class in enumerate(found.probabilities.T[:_MOST_CURVES]):
        curve = precision_recall(of_class, test.labels.cpu() == number)
        yield PrecisionRecall(step, f"precision_recall/{number}", curve)
    count = min(_MOST_POINTS, _MOST_NUMBERS // model.sizes[-2], len(test))
    if count >= _LEAST_POINTS:
        vectors = last_hidden(model, test.images[:count], normalization).numpy()
        names = [printable(name, 40) for name in dataset.class_names]
        true, called = ([names[k] for k in of[:count].tolist()] for of in (test.labels, found.predictions))
        labels = {
            "label": [a if a == b else f"{a} called {b}" for a, b in zip(true, called, strict=True)],
            "true": true,
            "called": called,
            "confidence": [f"{confidence:.4f}" for confidence in found.confidences[:count].tolist()],
        }
        sprites = in_grey(test.images[:count].cpu().numpy(), maximum, inverted=True)
        yield Embedding(step, "last_hidden_layer", Points(vectors, sprites, labels))
