"""Forged certificates: what somebody writes who has read the checker and has an accuracy to sell."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lean_mnist.data.datasets import Dataset, Split, load_digits
from lean_mnist.data.normalization import Normalization
from lean_mnist.generalization.bounds import pac_bayes_risk, upper_risk
from lean_mnist.generalization.certificates.document import Certificate, ClaimOptions, file_entry, risk_text
from lean_mnist.generalization.certificates.networks import certify
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.nn import MLP
from tests.support.certificate_cases import sealed

UNIT = Normalization("unit", 0.0, 16.0)
FINAL = {"step": 9, "purpose": "final", "errors": 10}
Change = Callable[[dict[str, Any]], Any]


def nearest_mean(classes: int = 10) -> MLP:
    """A network that compares an image of ``digits`` with the mean image of each class."""
    train = load_digits().train
    x, labels = train.images.flatten(1).float() / 16, train.labels
    model = MLP((64, classes))
    ((weight, bias),) = model.weights_and_biases()
    assert bias is not None
    means = torch.stack([x[labels == label % 10].mean(0) for label in range(classes)])
    with torch.no_grad():
        weight.copy_(means)
        bias.copy_(-means.square().sum(1) / 2 - (torch.arange(classes) >= 10) * 99.0)
    return model


def of_digits(model: MLP | None = None, data: Dataset | None = None, **options: Any) -> Certificate:
    """A certificate of the network ``model`` by the test split of ``data``."""
    recorded = options.pop("recorded", [FINAL])
    return certify(
        model or nearest_mean(),
        UNIT,
        data or load_digits(),
        SplitHistory(max(1, len(recorded))),
        ClaimOptions(**{"precision": "float32", **options}),
        recorded=recorded,
    )


def with_test(images: torch.Tensor, labels: torch.Tensor, name: str = "digits") -> Dataset:
    """The digits with another test split."""
    return replace(load_digits(), name=name, test=Split(images.contiguous(), labels.contiguous()))


def answers(images: torch.Tensor, model: MLP | None = None) -> torch.Tensor:
    """Labels that the network gives them."""
    with torch.no_grad():
        return (model or nearest_mean())(images.flatten(1).float() / 16).argmax(1)


def own_answers() -> Certificate:
    """The official images, labelled by the network itself."""
    images = load_digits().test.images
    return of_digits(data=with_test(images, answers(images)), recorded=[])


def rightly_read_ones() -> Certificate:
    """Only the examples that the network reads rightly."""
    test = load_digits().test
    right = answers(test.images) == test.labels
    return of_digits(data=with_test(test.images[right], test.labels[right]), recorded=[])


def one_image_often() -> Certificate:
    """One image that is read rightly, 20,000 times."""
    test = load_digits().test
    first = int((answers(test.images) == test.labels).nonzero()[0])
    images, labels = test.images[[first]].expand(20_000, 8, 8), test.labels[[first]].expand(20_000)
    return of_digits(data=with_test(images, labels), recorded=[])


def one_class() -> Certificate:
    """A network that knows one class, and images of that class alone."""
    test = load_digits().test
    zeros = test.labels == 0
    data = with_test(test.images[zeros], test.labels[zeros])
    return of_digits(MLP((64, 1)), replace(data, train=data.test, classes=1, class_names=("0",)), recorded=[])


def another_order() -> Certificate:
    """The official examples backwards."""
    test = load_digits().test
    return of_digits(data=with_test(test.images.flip(0), test.labels.flip(0)), recorded=[])


def another_shape() -> Certificate:
    """The official pixels as images of 4 × 16."""
    test = load_digits().test
    data = with_test(test.images.reshape(-1, 4, 16), test.labels)
    return of_digits(data=replace(data, train=data.test), recorded=[])


def one_pixel_else() -> Certificate:
    """One pixel of the last image is another one."""
    test = load_digits().test
    images = test.images.clone()
    images[-1, 0, 0] ^= 1
    return of_digits(data=with_test(images, test.labels), recorded=[])


def the_first_half() -> Certificate:
    """Half of the official test split."""
    test = load_digits().test
    return of_digits(data=with_test(test.images[:180], test.labels[:180]), recorded=[])


def with_training_examples() -> Certificate:
    """The official test split, and after it what the network was made from."""
    test, train = load_digits().test, load_digits().train
    images, labels = torch.cat([test.images, train.images]), torch.cat([test.labels, train.labels])
    return of_digits(data=with_test(images, labels), recorded=[])


def eleven_classes() -> Certificate:
    """A network of one class more, which it never answers, on the official files."""
    return of_digits(nearest_mean(11), recorded=[])


def shifted_labels() -> Certificate:
    """The official images; every label is one more, and so is every answer."""
    test, model = load_digits().test, nearest_mean()
    ((weight, bias),) = model.weights_and_biases()
    assert bias is not None
    with torch.no_grad():
        weight.copy_(weight.roll(1, 0))
        bias.copy_(bias.roll(1, 0))
    return of_digits(model, with_test(test.images, (test.labels + 1) % 10), recorded=[])


# Of each, how many images are equal to an earlier one, how many classes occur, and how many the network knows.
OTHER_DATA: dict[Callable[[], Certificate], tuple[int, int, int]] = {
    own_answers: (0, 10, 10),
    rightly_read_ones: (0, 10, 10),
    one_image_often: (19_999, 1, 10),
    one_class: (0, 1, 1),
    another_order: (0, 10, 10),
    another_shape: (0, 10, 10),
    one_pixel_else: (0, 10, 10),
    the_first_half: (0, 10, 10),
    with_training_examples: (0, 10, 10),
    eleven_classes: (0, 10, 11),
    shifted_labels: (0, 10, 10),
}


def overflowing(certificate: Certificate, folder: Path, depth: int = 20) -> Path:
    """A PAC-Bayes certificate without errors, of a Gaussian whose activations overflow: of means of 2^59."""
    document = json.loads(json.dumps(certificate.document))
    inputs = document["decoder"]["sizes"][0]
    sizes = [inputs, *[3] * depth]
    parameters, draws = sum(k * (n + 1) for n, k in pairwise(sizes)), document["counts"]["draws"]
    means, scales = (np.full(parameters, value, "<f4").tobytes() for value in (2.0**59, 0.125))
    outcomes = bytes(-(-draws // 8))
    files = {"mean": means, "scale": scales, "prior_mean": means, "outcomes": outcomes}
    certificate.write(folder)
    for name, content in files.items():
        document["files"][name] = file_entry(f"certificate.{name}", content)
        (folder / f"certificate.{name}").write_bytes(content)
    document["decoder"]["sizes"], document["divergence"] = sizes, "0.000000"
    del document["holdout"]  # as in certificates of earlier releases
    document["prior"]["scale"], document["counts"]["errors"] = "1/8", 0
    for claim in document["claims"]:
        of_draws = Fraction(claim["delta"]) * Fraction(2, 7)
        share = (Fraction(claim["delta"]) - of_draws) / document["prior"]["candidates"]
        empirical = upper_risk("clopper-pearson", 0, draws, of_draws)
        claim["empirical_risk"] = risk_text(empirical)
        claim["risk"] = risk_text(pac_bayes_risk(empirical, document["counts"]["examples"], Fraction(0), share))
    (folder / "certificate.json").write_bytes(sealed(document))
    return folder / "certificate.json"
