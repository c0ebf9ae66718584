"""Making a certificate: count, bound, and write the document with the raw files that its checker reads.

What a certificate says and does not say: ``docs/certificates.md``. Every sentence and derived number in it is written
by ``checker.build``, so that the checker can write it again; the count and the bounds are computed here by other means
than the checker's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lean_mnist.data.layout import LAYOUTS
from lean_mnist.errors import CertificateError
from lean_mnist.files import write_atomically
from lean_mnist.generalization import checker
from lean_mnist.generalization.bounds import DIGITS, checked_delta, upper_risk
from lean_mnist.generalization.certificates.counting import count_errors
from lean_mnist.generalization.confidence import SplitHistory
from lean_mnist.generalization.exact import Exact

if TYPE_CHECKING:
    from lean_mnist.data.datasets import Dataset
    from lean_mnist.data.normalization import Normalization
    from lean_mnist.nn import MLP

DEFAULT_DELTAS = ("0.035", "1e-9")
DEFAULT_BOUNDS = ("clopper-pearson",)
FILE = "certificate.json"
_WEIGHTS, _IMAGES, _LABELS = "certificate.weights", "certificate.images.idx", "certificate.labels.idx"
# The data sets whose test split is, byte for byte, two files of torchvision's layout. Others are written beside.
_IN_LAYOUT = ("mnist", "fashion-mnist", "kmnist")


@dataclass(frozen=True)
class Certificate:
    """A certificate and the raw files that stand beside it: ``document`` as JSON has it, ``files`` by name."""

    document: dict[str, Any]
    files: dict[str, bytes]

    @property
    def errors(self) -> int:
        """Errors and examples too near to call, together."""
        return int(self.document["counts"]["errors"])

    @property
    def risks(self) -> dict[tuple[str, Fraction], Fraction]:
        """The certified risk by (bound, δ); 1 where a bound says nothing."""
        claims = self.document["claims"]
        return {(claim["bound"], Fraction(claim["delta"])): Fraction(claim["risk"]) for claim in claims}

    def to_json(self) -> str:
        return checker.canonical(self.document).decode()

    def write(self, folder: Path) -> Path:
        """Write the document and its files into ``folder`` and return the document's path."""
        for name, content in self.files.items():
            write_atomically(folder / name, content)
        write_atomically(folder / FILE, self.to_json().encode())
        return folder / FILE

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says of it: plain values."""
        names = ("bound", "delta", "risk", "accuracy", "vacuous")
        counts, history = self.document["counts"], self.document["history"]
        return {
            "statement": list(self.document["statement"]),
            "errors": counts["errors"],
            "examples": counts["examples"],
            "looks": history["looks"],
            "claims": [{name: claim[name] for name in names} for claim in self.document["claims"]],
            "weights_sha256": self.document["weights"]["sha256"],
        }

    def line(self) -> str:
        """The certified risks in one line, for people: each is rounded up."""
        by_bound: dict[str, list[str]] = {}
        for (bound, delta), risk in self.risks.items():
            said = "nothing (vacuous)" if risk >= 1 else f"risk at most {checker.percent(risk, True)}"
            by_bound.setdefault(bound, []).append(f"{said} at δ = {float(delta):g}")
        return "; ".join(f"{', '.join(risks)} ({bound})" for bound, risks in by_bound.items())

    def text(self) -> str:
        """A few lines for people."""
        counts, looks = self.document["counts"], self.document["history"]["looks"]
        paid = "looked at once" if looks == 1 else f"looked at {looks} times, which was paid for"
        lines = [
            f"{counts['errors']} of {counts['examples']:,} test examples are wrong or too near to call; "
            f"the test split was {paid}",
            *(f"  {line}" for line in self.document["statement"]),
        ]
        return "\n".join(lines)


def certify(
    model: MLP,
    normalization: Normalization,
    dataset: Dataset,
    history: SplitHistory,
    *,
    recorded: Sequence[dict[str, Any]] = (),
    deltas: Sequence[Exact] = DEFAULT_DELTAS,
    bounds: Sequence[str] = DEFAULT_BOUNDS,
    precision: str = "float32",
) -> Certificate:
    """The certificate of ``model`` by the test split of ``dataset``, which must have taught and chosen nothing.

    Args: ``history`` of that split, which says what the claim pays (:mod:`~lean_mnist.generalization.confidence`);
    ``recorded`` looks of the run, for the record; ``deltas`` failure probabilities, each of them for its own claim;
    ``precision`` float32 or float64: how roughly the network may be run for the claim still to hold.
    Raises ``CertificateError``: a split that is no holdout, weights or labels that cannot be; ``BoundError``: δ.
    """
    history.require_holdout()
    if history.split != "test":
        raise CertificateError(f"split: expected test, found {history.split}; only the test split teaches nothing")
    for bound in bounds:
        if bound not in checker.THEOREMS:
            raise CertificateError(f"--bound: expected one of {', '.join(checker.THEOREMS)}, found {bound!r}")
    layers = [
        (weight.detach().cpu().double().numpy(), None if bias is None else bias.detach().cpu().double().numpy())
        for weight, bias in model.weights_and_biases()
    ]
    images, labels = dataset.test.images.cpu().numpy(), dataset.test.labels.cpu().numpy()
    scaling = (normalization.kind, normalization.mean, normalization.scale)
    unit = checker.UNITS[precision]
    errors = count_errors(layers, model.activation, scaling, images, labels, float(Fraction(unit)))
    raw, dtype = _raw_weights(model)
    data, files = _data(dataset, images, labels)
    examples = len(labels)
    shares = [(bound, checked_delta(delta)) for bound in bounds for delta in deltas]
    claims = [
        {
            "bound": bound,
            "delta": str(delta),
            "risk": checker.decimal(upper_risk(bound, errors, examples, history.share(delta, examples), DIGITS)),
        }
        for bound, delta in shares
    ]
    looks = [{name: look[name] for name in ("step", "purpose", "errors")} for look in recorded]
    facts = {
        "decoder": {**decoder_of(model, normalization), "unit": unit},
        "weights": {"file": _WEIGHTS, "dtype": dtype, "sha256": hashlib.sha256(raw).hexdigest()},
        "data": data,
        "history": {"looks": history.looks, "adaptive": history.adaptive, "recorded": looks},
        "errors": errors,
        "claims": claims,
    }
    return Certificate(checker.build(facts), {_WEIGHTS: raw, **files})


def decoder_of(model: MLP, normalization: Normalization) -> dict[str, Any]:
    """What a network is besides its weights: sizes, activation, biases or none, and the normalisation, exactly."""
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
    return hashlib.sha256(_raw_weights(model)[0]).hexdigest()


def _raw_weights(model: MLP) -> tuple[bytes, str]:
    """Every tensor in the order of ``model.parameters()``, row by row, little-endian, and the name of their dtype."""
    import torch

    tensors = [tensor.detach().cpu().contiguous() for tensor in model.parameters()]
    if tensors[0].dtype == torch.bfloat16:  # which the standard library cannot read; float32 holds it exactly
        tensors = [tensor.float() for tensor in tensors]
    name = str(tensors[0].dtype).removeprefix("torch.")
    arrays = [tensor.numpy() for tensor in tensors]
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays), name


def _data(
    dataset: Dataset, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The field ``data``, and the files that have to stand beside the certificate because no data folder has them."""
    examples, rows, columns = images.shape
    contents = {
        "images": struct.pack(">IIII", 0x803, examples, rows, columns) + images.tobytes(),
        "labels": struct.pack(">II", 0x801, examples) + labels.astype(np.uint8).tobytes(),
    }
    if dataset.name in _IN_LAYOUT:
        layout = LAYOUTS[dataset.name]
        names, folder, beside = dict(zip(contents, layout.files[2:], strict=True)), layout.raw, {}
    else:
        names, folder = {"images": _IMAGES, "labels": _LABELS}, ""
        beside = {names[kind]: content for kind, content in contents.items()}
    described = {
        kind: {"folder": folder, "file": names[kind], "sha256": hashlib.sha256(content).hexdigest()}
        for kind, content in contents.items()
    }
    about = {"dataset": dataset.name, "split": "test", "examples": examples, "rows": rows, "columns": columns}
    return {**about, **described}, beside
