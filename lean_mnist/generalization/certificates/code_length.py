"""Code-length certificates: a bound on the risk of a quantised network from the examples it was learned from.

Every network of B bits gets the share ``δ 2^−B`` (a union over a finite space, MLCERT's bound), or the one with a word
of a prefix code ``δ 2^−length`` (Occam's razor). Errors and lengths are counted by other means than the checker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import (
    DEFAULT_BOUNDS,
    DEFAULT_DELTAS,
    Certificate,
    counted_claims,
    file_entry,
    require_known_bounds,
    split_data,
    with_hash,
)
from lean_mnist.generalization.confidence import union
from lean_mnist.generalization.exact import Exact
from lean_mnist.generalization.spaces import IntegerNetwork, QuantizedNetwork, code_length, encode

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset

_WEIGHTS = "certificate.codes"


def certify_network(
    network: QuantizedNetwork,
    dataset: Dataset,
    *,
    code: str = "fixed",
    candidates: int = 1,
    deltas: Sequence[Exact] = DEFAULT_DELTAS,
    bounds: Sequence[str] = DEFAULT_BOUNDS,
) -> Certificate:
    """Certify ``network`` by the training split of ``dataset``, which may have taught it in any way.

    ``code``: ``fixed`` (as many bits as the space has) or ``enumerative``. ``candidates``: spaces and codes that this
    one was chosen among with regard to the examples. Each of ``bounds`` makes a claim at each of ``deltas``. Raises
    ``CertificateError``, ``ArgumentError`` or ``BoundError`` for names, numbers or a network that cannot be.
    """
    space = network.space
    if code not in checker.CODES:
        raise CertificateError(f"--code: expected one of {', '.join(checker.CODES)}, found {code!r}")
    require_known_bounds(bounds)
    if candidates < 1:
        raise CertificateError(f"--candidates: expected at least 1, found {candidates}")
    length = space.size_in_bits if code == "fixed" else code_length(network)
    images, labels = dataset.train.images.cpu().numpy(), dataset.train.labels.cpu().numpy()
    examples, right = len(labels), IntegerNetwork(network, dataset.maximum).correct(images, labels)
    errors, raw = examples - right, encode(network)
    data, beside = split_data(dataset, "train")
    claims = counted_claims(bounds, deltas, lambda delta: union(delta / candidates, length), errors, examples)
    document = {
        "schema": checker.CODE,
        "version": checker.VERSION,
        "statement": [claim.sentence(space.sizes, dataset.name) for claim in claims],
        "claims": [claim.fields() for claim in claims],
        "share": checker.CODE_SHARE,
        "assumptions": list(checker.CODE_ASSUMPTIONS),
        "counts": {"examples": examples, "errors": errors, "correct": right},
        "code": {
            "name": code,
            "specification": checker.CODE_SPECIFICATIONS[code],
            "length": length,
            "candidates": candidates,
            "theorem": checker.CODE_THEOREMS[code],
        },
        "decoder": with_hash({"specification": checker.CODE_DECODER, **space.to_dict()}),
        "weights": file_entry(_WEIGHTS, raw),
        "data": {**data, "classes": space.sizes[-1]},
    }
    return Certificate(with_hash(document, "content_sha256"), {_WEIGHTS: raw, **beside})
