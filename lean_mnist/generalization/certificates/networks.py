"""Certificates of networks: a bound on the risk from a test split used neither to train nor to select, or from the
examples that a quantised network was learned from (``docs/certificates.md``).

Counts, lengths and bounds are computed by other means than the checker's.
"""

import functools
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.counting import count_errors
from lean_mnist.generalization.certificates.document import (
    Certificate,
    ClaimOptions,
    counted_claims,
    file_entry,
    network_name,
    sha256,
    split_data,
    with_hash,
)
from lean_mnist.generalization.confidence import SplitHistory, candidate_courses, union
from lean_mnist.generalization.spaces.encoding import code_length, encode
from lean_mnist.generalization.spaces.integers import IntegerNetwork
from lean_mnist.generalization.spaces.network import QuantizedNetwork
from lean_mnist.nn import MLP

DEFAULT_OPTIONS = ClaimOptions()
_WEIGHTS, _CODES = "certificate.weights", "certificate.codes"
_MOST_FOLLOWED = 600_000  # weights
_PIECEWISE_LINEAR = ("relu", "leaky-relu", "identity")  # which ask no function of a library, that may err


def certify(
    model: MLP,
    normalization: Normalization,
    dataset: Dataset,
    history: SplitHistory,
    options: ClaimOptions = DEFAULT_OPTIONS,
    *,
    recorded: Sequence[dict[str, Any]] = (),
    selected_by: str = checker.SELECTED_BY,
) -> Certificate:
    """Certify ``model`` by the test split of ``dataset``, which must have taught and chosen nothing.

    ``history`` of that split says what share of δ each claim gets; ``recorded`` are the evaluations that the run noted,
    and ``selected_by`` is ``checker.SELECTED_BY`` or ``SELECTED_ELSEWHERE``. Raises ``CertificateError`` for weights or
    labels that cannot be, or an unknown bound; ``BoundError`` for a δ that is none.
    """
    if normalization.clip is not None:
        raise CertificateError(
            "normalization: clips features, which no certificate knows of; expected no --clip-pixels"
        )
    unit = checker.UNITS[precision_for(model) if options.precision == "auto" else options.precision]
    errors, arithmetic = test_errors(model, normalization, dataset, unit, by_norms=False), checker.ARITHMETICS[unit]
    examples, sizes, evaluations = len(dataset.test), model.sizes, history.evaluations
    data, share = split_data(dataset, "test", sizes[-1]), functools.partial(history.share, examples=examples)
    network = f"{network_name(sizes)} network, run in {arithmetic},"
    claims, statement = counted_claims(options, share, errors, data, network)
    raw, dtype = _raw_weights(model)
    tensors = [{"name": name, "shape": list(tensor.shape)} for name, tensor in model.named_parameters()]
    developers = {"preset": history.developers.preset, "looks": history.developers.looks}
    document = {
        "schema": checker.HOLDOUT,
        "version": data.version,
        "statement": statement,
        "claims": claims,
        "assumptions": [
            checker.IID,
            checker.CLUSTERS,
            *checker.ASSUMPTIONS[1:],
            *([] if model.activation in _PIECEWISE_LINEAR else [checker.SMOOTH]),
            checker.ADAPTIVE if history.adaptive else checker.NOT_ADAPTIVE,
            *([checker.DEVELOPERS.format(**developers)] if developers["looks"] else []),
            *data.assumptions,
        ],
        "counts": {"examples": examples, "errors": errors, "correct": examples - errors},
        "space": {"chosen_among": f"the networks of {evaluations} look(s) at this split", "bits": 0},
        "history": {
            "looks": evaluations,
            "adaptive": history.adaptive,
            "recorded": [{name: entry[name] for name in ("step", "purpose", "errors")} for entry in recorded],
            "developers": developers,
            "learned_from": False,
            "selected": "nothing",
            "selected_by": selected_by,
        },
        "arithmetic": arithmetic,
        "decoder": with_hash({"specification": checker.DECODER, **decoder_of(model, normalization), "unit": unit}),
        "weights": {
            "file": _WEIGHTS,
            "dtype": dtype,
            "sha256": sha256(raw),
            "tensors": tensors,
            "parameters": sum(tensor.numel() for tensor in model.parameters()),
        },
        "data": data.fields,
    }
    return Certificate(with_hash(document, "content_sha256"), {_WEIGHTS: raw, **data.beside})


def test_errors(model: MLP, normalization: Normalization, dataset: Dataset, unit: str, by_norms: bool) -> int:
    """The number of test examples read wrong, or too near to call where operations are as good as ``unit``; with
    ``by_norms`` as certificates of earlier releases counted."""
    layers = [
        (weight.detach().cpu().double().numpy(), None if bias is None else bias.detach().cpu().double().numpy())
        for weight, bias in model.weights_and_biases()
    ]
    images, labels = dataset.test.images.cpu().numpy(), dataset.test.labels.cpu().numpy()
    scaling = (normalization.kind, normalization.mean, normalization.scale)
    return count_errors(layers, model.activation, scaling, images, labels, float(Fraction(unit)), by_norms=by_norms)


def precision_for(model: MLP) -> str:
    """``float32`` for a piecewise linear network of at most 600,000 weights, and for any other of one hidden layer of
    at most 512 units; else ``float64``.

    Through units of certain slope rounding is followed to the logits, at a price for the checker that grows with the
    weights; elsewhere its bound grows with depth until in float32 every example is too near to call. The form of the
    network decides, and nothing of the data.
    """
    hidden, weights = model.sizes[1:-1], sum(n * k for n, k in itertools.pairwise(model.sizes))
    followed = model.activation in _PIECEWISE_LINEAR and weights <= _MOST_FOLLOWED
    return "float32" if followed or (len(hidden) <= 1 and max(hidden, default=0) <= 512) else "float64"


def decoder_of(model: MLP, normalization: Normalization) -> dict[str, Any]:
    """The decoder besides its weights: sizes, activation, biases or none, and the normalisation, exactly."""
    return {
        "sizes": list(model.sizes),
        "activation": model.activation,
        "bias": model.weights_and_biases()[0][1] is not None,
        "normalization": {
            # The same map of pixels, of which the mean and the scale are stated.
            "kind": "standard" if normalization.kind == "centered" else normalization.kind,
            "mean": str(Fraction(normalization.mean)),
            "scale": str(Fraction(normalization.scale)),
        },
    }


def weights_hash(model: MLP) -> str:
    """SHA-256 (hexadecimal) of the raw weights, as a certificate has it."""
    return sha256(_raw_weights(model)[0])


def _raw_weights(model: MLP) -> tuple[bytes, str]:
    """Every tensor in the order of ``model.parameters()``, row by row, little-endian, and the name of their dtype."""
    tensors = [tensor.detach().cpu().contiguous() for tensor in model.parameters()]
    if tensors[0].dtype == torch.bfloat16:  # which the standard library cannot read; float32 holds it exactly
        tensors = [tensor.float() for tensor in tensors]
    name = str(tensors[0].dtype).removeprefix("torch.")
    arrays = [tensor.numpy() for tensor in tensors]
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays), name


def certify_network(
    network: QuantizedNetwork,
    dataset: Dataset,
    options: ClaimOptions = DEFAULT_OPTIONS,
    *,
    code: str = "fixed",
    candidates: int = 1,
) -> Certificate:
    """Certify ``network`` by the training split of ``dataset``, which may have taught it in any way.

    ``code``: ``fixed`` (as many bits as the space has) or ``enumerative``. ``candidates``: spaces and codes that this
    one was chosen among with regard to the examples. Of the ``options`` ``looks`` and ``precision`` are of certificates
    by a test split. Raises ``CertificateError``, ``ArgumentError`` or ``BoundError`` for names, numbers or a network
    that cannot be.
    """
    space, adaptive = network.space, options.adaptive
    if code not in checker.CODES:
        raise CertificateError(f"--code: expected one of {', '.join(checker.CODES)}, found {code!r}")
    courses = candidate_courses(candidates, adaptive)
    length = space.size_in_bits if code == "fixed" else code_length(network)
    images, labels = dataset.train.images.cpu().numpy(), dataset.train.labels.cpu().numpy()
    examples, right = len(labels), IntegerNetwork(network, dataset.maximum).correct(images, labels)
    errors, raw = examples - right, encode(network)
    data = split_data(dataset, "train", space.sizes[-1])
    of_network = f"{network_name(space.sizes)} network"
    claims, statement = counted_claims(options, lambda delta: union(delta / courses, length), errors, data, of_network)
    document = {
        "schema": checker.CODE,
        "version": data.version,
        "statement": statement,
        "claims": claims,
        "share": checker.CODE_SHARES[adaptive],
        "assumptions": [*checker.CODE_ASSUMPTIONS, checker.CANDIDATES[adaptive], *data.assumptions],
        "counts": {"examples": examples, "errors": errors, "correct": right},
        "code": {
            "name": code,
            "specification": checker.CODE_SPECIFICATIONS[code],
            "length": length,
            "candidates": candidates,
            "adaptive": adaptive,
            "theorem": checker.CODE_THEOREMS[code],
        },
        "decoder": with_hash({"specification": checker.CODE_DECODER, **space.to_dict()}),
        "weights": file_entry(_CODES, raw),
        "data": data.fields,
    }
    return Certificate(with_hash(document, "content_sha256"), {_CODES: raw, **data.beside})
