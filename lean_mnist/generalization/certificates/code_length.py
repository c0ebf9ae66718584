"""Code-length certificates: what the errors of a network of few bits prove, counted on what it was learned from.

Of every network that can be written in B bits each gets the share ``δ 2^−B`` of the failure probability (a union over
a finite space, MLCERT's bound), or of the words of a prefix code each ``δ 2^−length`` (Occam's razor). Every sentence
in the certificate is written by ``checker.build_code``; the count is by :class:`~.spaces.IntegerNetwork`, the lengths
by :mod:`.spaces.encoding`, which the checker does by other means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import checked_delta, upper_risk
from lean_mnist.generalization.certificates.document import TrainingCertificate, described, training_data
from lean_mnist.generalization.confidence import code_length as share_of_length
from lean_mnist.generalization.confidence import union
from lean_mnist.generalization.exact import Exact
from lean_mnist.generalization.spaces import (
    IntegerNetwork,
    QuantizedNetwork,
    code_length,
    encode,
)

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset

_WEIGHTS = "certificate.codes"


def certify_network(
    network: QuantizedNetwork,
    dataset: Dataset,
    *,
    code: str = "fixed",
    candidates: int = 1,
    deltas: Sequence[Exact] = ("0.035", "1e-9"),
    bounds: Sequence[str] = ("clopper-pearson",),
) -> TrainingCertificate:
    """The certificate of ``network`` by the training split of ``dataset``, which may have taught it in any way.

    Args: ``code`` ``fixed`` (as many bits as the space has) or ``enumerative``; ``candidates`` spaces and codes that
    this one was chosen among with regard to the examples. Raises ``CertificateError``, ``ArgumentError`` or
    ``BoundError``.
    """
    space = network.space
    if code not in checker.CODES:
        raise CertificateError(f"--code: expected one of {', '.join(checker.CODES)}, found {code!r}")
    for bound in bounds:
        if bound not in checker.THEOREMS:
            raise CertificateError(f"--bound: expected one of {', '.join(checker.THEOREMS)}, found {bound!r}")
    if candidates < 1:
        raise CertificateError(f"--candidates: expected at least 1, found {candidates}")
    if code == "fixed":
        length, shared = space.size_in_bits, union
    else:
        length, shared = code_length(network), share_of_length
    images, labels = dataset.train.images.cpu().numpy(), dataset.train.labels.cpu().numpy()
    examples = len(labels)
    errors = examples - IntegerNetwork(network, dataset.maximum).correct(images, labels)
    data, beside = training_data(dataset)
    raw = encode(network)
    claims = [
        {
            "bound": bound,
            "delta": str(checked_delta(delta)),
            "risk": checker.decimal(
                upper_risk(bound, errors, examples, shared(checked_delta(delta) / candidates, length))
            ),
        }
        for bound in bounds
        for delta in deltas
    ]
    facts = {
        "space": space.to_dict(),
        "code": code,
        "candidates": candidates,
        "length": length,
        "weights": described(_WEIGHTS, raw),
        "data": data,
        "errors": errors,
        "claims": claims,
    }
    return TrainingCertificate(checker.build_code(facts), {_WEIGHTS: raw, **beside})
