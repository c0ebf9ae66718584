"""Holdout certificates: a bound on a network's risk from a test split used neither to train nor to select.

What a certificate says and does not say: ``docs/certificates.md``. The count and the bounds are computed by other means
than the checker's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.counting import count_errors
from lean_mnist.generalization.certificates.document import (
    Certificate,
    ClaimOptions,
    counted_claims,
    require_known_bounds,
    sha256,
    split_data,
    with_hash,
)
from lean_mnist.generalization.confidence import SplitHistory

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset
    from lean_mnist.data.normalization import Normalization
    from lean_mnist.nn import MLP

DEFAULT_OPTIONS = ClaimOptions()
_WEIGHTS = "certificate.weights"
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
    and ``selected_by`` is ``checker.SELECTED_BY`` or ``SELECTED_ELSEWHERE``. Raises ``CertificateError`` for a split
    that is no holdout, weights or labels that cannot be, or an unknown bound; ``BoundError`` for a δ that is none.
    """
    history.require_holdout()
    if history.split != "test":
        raise CertificateError(f"split: expected test, found {history.split}; only the test split teaches nothing")
    require_known_bounds(options.bounds)
    layers = [
        (weight.detach().cpu().double().numpy(), None if bias is None else bias.detach().cpu().double().numpy())
        for weight, bias in model.weights_and_biases()
    ]
    images, labels = dataset.test.images.cpu().numpy(), dataset.test.labels.cpu().numpy()
    scaling = (normalization.kind, normalization.mean, normalization.scale)
    unit = checker.UNITS[precision_for(model) if options.precision == "auto" else options.precision]
    errors = count_errors(layers, model.activation, scaling, images, labels, float(Fraction(unit)))
    examples, sizes, evaluations = len(labels), model.sizes, history.evaluations
    share = functools.partial(history.share, examples=examples)
    claims = counted_claims(options.bounds, options.deltas, share, errors, examples)
    raw, dtype = _raw_weights(model)
    tensors = [{"name": name, "shape": list(tensor.shape)} for name, tensor in model.named_parameters()]
    data, beside = split_data(dataset, "test")
    document = {
        "schema": checker.HOLDOUT,
        "version": checker.VERSION,
        "statement": [claim.sentence(sizes, dataset.name) for claim in claims],
        "claims": [claim.fields(share=str(claim.share)) for claim in claims],
        "assumptions": [
            *checker.ASSUMPTIONS,
            *([] if model.activation in _PIECEWISE_LINEAR else [checker.SMOOTH]),
            checker.ADAPTIVE if history.adaptive else checker.NOT_ADAPTIVE,
        ],
        "counts": {"examples": examples, "errors": errors, "correct": examples - errors},
        "space": {"chosen_among": f"the networks of {evaluations} look(s) at this split", "bits": 0},
        "history": {
            "looks": evaluations,
            "adaptive": history.adaptive,
            "recorded": [{name: entry[name] for name in ("step", "purpose", "errors")} for entry in recorded],
            "learned_from": history.learned,
            "selected": history.selected or "nothing",
            "selected_by": selected_by,
        },
        "decoder": with_hash(
            {"specification": checker.DECODER, **decoder_of(model, normalization), "unit": unit},
        ),
        "weights": {
            "file": _WEIGHTS,
            "dtype": dtype,
            "sha256": sha256(raw),
            "tensors": tensors,
            "parameters": sum(tensor.numel() for tensor in model.parameters()),
        },
        "data": {**data, "classes": sizes[-1]},
    }
    return Certificate(with_hash(document, "content_sha256"), {_WEIGHTS: raw, **beside})


def precision_for(model: MLP) -> str:
    """``float32`` for at most one hidden layer of at most 512 units, else ``float64``.

    What rounding may do in the worst order of sums grows with width and depth, until in float32 every example is too
    near to call. The form of the network decides, and nothing of the data.
    """
    hidden = model.sizes[1:-1]
    return "float32" if len(hidden) <= 1 and max(hidden, default=0) <= 512 else "float64"


def decoder_of(model: MLP, normalization: Normalization) -> dict[str, Any]:
    """The decoder besides its weights: sizes, activation, biases or none, and the normalisation, exactly."""
    return {
        "sizes": list(model.sizes),
        "activation": model.activation,
        "bias": model.weights_and_biases()[0][1] is not None,
        "normalization": {
            "kind": normalization.kind,
            "mean": str(Fraction(normalization.mean)),
            "scale": str(Fraction(normalization.scale)),
        },
    }


def weights_hash(model: MLP) -> str:
    """SHA-256 (hexadecimal) of the raw weights, as a certificate has it."""
    return sha256(_raw_weights(model)[0])


def _raw_weights(model: MLP) -> tuple[bytes, str]:
    """Every tensor in the order of ``model.parameters()``, row by row, little-endian, and the name of their dtype."""
    import torch

    tensors = [tensor.detach().cpu().contiguous() for tensor in model.parameters()]
    if tensors[0].dtype == torch.bfloat16:  # which the standard library cannot read; float32 holds it exactly
        tensors = [tensor.float() for tensor in tensors]
    name = str(tensors[0].dtype).removeprefix("torch.")
    arrays = [tensor.numpy() for tensor in tensors]
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays), name
