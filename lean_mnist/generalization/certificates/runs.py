"""The certificate of a run: made at its end or from its checkpoint, and found again beside the checkpoint."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import FILE, Certificate, ClaimOptions, split_data
from lean_mnist.generalization.certificates.networks import (
    DEFAULT_OPTIONS,
    certify,
    decoder_of,
    test_errors,
    weights_hash,
)
from lean_mnist.generalization.confidence import NOBODY, DeveloperLooks, history_of
from lean_mnist.invocation import typed
from lean_mnist.nn import MLP
from lean_mnist.nn.quantized import QuantizedMLP, exact_network
from lean_mnist.reading.json import read_json
from lean_mnist.reading.text import shown


def certify_run(
    model: MLP,
    normalization: Normalization,
    dataset: Dataset,
    metrics: Mapping[str, Any],
    folder: Path,
    *,
    tracked: bool,
    developers: DeveloperLooks = NOBODY,
    options: ClaimOptions = DEFAULT_OPTIONS,
    replaces: bool = True,
) -> tuple[Certificate, Path]:
    """Certify the network of a run, write the certificate into ``folder``, and return it with its path.

    Of a quantised network the exact weights are certified, which can be run exactly, so that ``auto`` precision gives
    nothing away for rounding. ``metrics``, ``tracked`` and ``developers`` are as in :func:`~.confidence.history_of`;
    ``replaces`` says whether another network's certificate may be replaced. Raises what :func:`~.networks.certify`,
    :func:`~.confidence.history_of` and :func:`write_certificate` do.
    """
    if isinstance(model, QuantizedMLP) and options.precision == "auto":
        options = replace(options, precision="float64")
    looks, adaptive = options.looks, options.adaptive
    history = history_of(metrics, tracked=tracked, looks=looks, adaptive=adaptive, developers=developers)
    exact, recorded = exact_network(model), list(metrics["test_looks"])
    certificate = certify(exact, normalization, dataset, history, options, recorded=recorded)
    return certificate, write_certificate(certificate, folder, replaces=replaces)


def write_certificate(certificate: Certificate, folder: Path, *, replaces: bool = True) -> Path:
    """Write a certificate and its raw files into ``folder`` and return its path.

    Raises ``CertificateError`` for one that its checker would not read, and, unless it ``replaces`` it, where a
    certificate of another network stands there.
    """
    path, own = folder / FILE, certificate.document
    if not replaces and path.exists():
        with contextlib.suppress(checker.Rejected):  # nobody could check that
            there = checker.read(str(path))
            if any(there.get(name) != own.get(name) for name in ("schema", "weights", "files")):
                found = f"{shown(path)} certifies another network, or this one by other means"
                raise CertificateError(f"--out: {found}; expected another folder")
    try:
        checker.check_document(checker.parsed(certificate.to_json().encode(), FILE))
    except checker.Rejected as error:
        raise CertificateError(str(error)) from None
    return certificate.write(folder)


@dataclass(frozen=True)
class FoundCertificate:
    """A certificate that lies beside a checkpoint, and why it says nothing about that network (empty if it does)."""

    path: Path
    statement: tuple[str, ...]
    why_not: str = ""
    arithmetic: str = ""  # that its count holds for

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {"path": str(self.path), "matches": not self.why_not, "statement": list(self.statement)}
        about["arithmetic"] = self.arithmetic
        return {**about, "why_not": self.why_not} if self.why_not else about

    def __str__(self) -> str:
        if self.why_not:
            return f"certificate: {shown(self.path)} does not match: {self.why_not}"
        compared = "compared with what is here: weights, decoder, test examples, errors counted again, recorded looks"
        again = f"to check all of it: {typed('python -m lean_mnist.certify', '--check', self.path)}"
        holds = f"its count holds for {self.arithmetic}"
        return "\n  ".join([f"certificate: {shown(self.path)}", *self.statement, holds, compared, again])


@dataclass(frozen=True)
class Evaluated:
    """A network, the data on which it is evaluated, and the evaluations on their test split that its run recorded."""

    model: MLP
    normalization: Normalization
    dataset: Dataset
    looks: Sequence[Mapping[str, Any]]


def find_certificate(places: Sequence[Path], about: Evaluated) -> FoundCertificate | None:
    """The certificate in one of the folders ``places``, one that matches if there is any, else the first.

    It matches if every sentence follows from its numbers, and these are of the same weights, decoder, test examples,
    count (made again here) and recorded evaluations.
    """
    found = [_found(folder / FILE, about) for folder in places if (folder / FILE).is_file()]
    return next((certificate for certificate in found if not certificate.why_not), found[0] if found else None)


def _found(path: Path, about: Evaluated) -> FoundCertificate:
    try:
        document = checker.read(str(path))
        checker.check_document(document)
    except checker.Rejected as error:
        return FoundCertificate(path, (), f"it does not hold, {str(error).removeprefix(f'{path}: ')}")
    arithmetic = checker.ARITHMETICS.get(document["decoder"].get("unit"), "")
    return FoundCertificate(path, tuple(document["statement"]), _difference(document, about), arithmetic)


def _difference(document: dict[str, Any], about: Evaluated) -> str:
    """Why a certificate says nothing about this network and these data; empty if it does."""
    if document["schema"] != checker.HOLDOUT:
        return f"it is a {document['schema'].removeprefix('lean_mnist ')}"
    model, dataset, decoder = exact_network(about.model), about.dataset, document["decoder"]
    own, theirs = weights_hash(model), document["weights"]["sha256"]
    if own != theirs:
        return f"it is of weights with SHA-256 {theirs[:12]}…, and these have {own[:12]}…"
    for name, value in decoder_of(model, about.normalization).items():
        if decoder[name] != value:
            return f"its {name} is {decoder[name]}, and this one's {value}"
    here = split_data(dataset, "test", model.sizes[-1]).fields
    if any(document["data"][kind]["sha256"] != here[kind]["sha256"] for kind in ("images", "labels")):
        return f"it is about other examples than the test split of {dataset.name} here"
    stated, by_norms = document["counts"]["errors"], "arithmetic" not in document
    counted = test_errors(model, about.normalization, dataset, decoder["unit"], by_norms=by_norms)
    if stated != counted:
        return f"it counts {stated} errors, and counted again {counted} examples are wrong or too near to call"
    recorded = document["history"]["recorded"]
    if recorded != [{name: look[name] for name in ("step", "purpose", "errors")} for look in about.looks]:
        return f"it records {len(recorded)} looks at the test split, and the checkpoint {len(about.looks)}, or others"
    return ""


def certificate_places(checkpoint: str, runs_dir: str, run_name: str | None) -> list[Path]:
    """Folders where a certificate of ``checkpoint`` may lie: beside it, and its run's folder, seen from here or from
    beside ``checkpoints``.

    Of ``runs_dir`` and ``run_name``, which the checkpoint says, only the last names count: a file decides nothing.
    """
    path, runs, run = Path(checkpoint), Path(runs_dir).name, run_name or ""
    if not run or Path(run).name != run or ".." in (runs, run) or not (runs + run).isprintable():
        return [path.parent]
    return [path.parent, Path(runs, run), path.absolute().parent.parent.parent / runs / run]


def run_folder(checkpoint: str, runs_dir: str, run_name: str | None) -> Path:
    """The folder of the run that wrote ``checkpoint``, which has a configuration of that name in it; raises
    ``CertificateError`` if it is not here."""
    for place in certificate_places(checkpoint, runs_dir, run_name)[1:]:
        with contextlib.suppress(CertificateError):
            config = read_json(place / "config.json", "a run's configuration", CertificateError, largest=1 << 20)
            if isinstance(config, dict) and config.get("run_name") == run_name:
                return place
    own = Path(Path(runs_dir).name, run_name or "")
    raise CertificateError(f"--out: expected a folder, because the run's own, {shown(own)}, is not here")
