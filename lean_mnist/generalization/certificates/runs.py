"""The certificate of a run: made at its end or from its checkpoint, and found again beside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import FILE, Certificate, ClaimOptions
from lean_mnist.generalization.certificates.networks import DEFAULT_OPTIONS, certify, decoder_of, weights_hash
from lean_mnist.generalization.confidence import history_of
from lean_mnist.nn import MLP
from lean_mnist.nn.quantized import QuantizedMLP, exact_network


def certify_run(
    model: MLP,
    normalization: Normalization,
    dataset: Dataset,
    metrics: Mapping[str, Any],
    folder: Path,
    *,
    tracked: bool,
    options: ClaimOptions = DEFAULT_OPTIONS,
) -> tuple[Certificate, Path]:
    """Certify the network of a run, write the certificate into ``folder``, and return it with its path.

    Of a quantised network the exact weights are certified, which can be run exactly, so that ``auto`` precision gives
    nothing away for rounding. ``metrics`` are those of the run's checkpoint, with its evaluations on the test split;
    ``tracked`` says that there was one after every epoch. Raises what :func:`~.networks.certify` does, and
    ``CertificateError`` for fewer ``looks`` than were recorded.
    """
    if isinstance(model, QuantizedMLP) and options.precision == "auto":
        options = replace(options, precision="float64")
    history = history_of(metrics, tracked=tracked, looks=options.looks, adaptive=options.adaptive)
    exact, recorded = exact_network(model), list(metrics["test_looks"])
    certificate = certify(exact, normalization, dataset, history, options, recorded=recorded)
    return certificate, certificate.write(folder)


@dataclass(frozen=True)
class FoundCertificate:
    """A certificate that lies beside a checkpoint, and why it says nothing about that network (empty if it does)."""

    path: Path
    statement: tuple[str, ...]
    why_not: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {"path": str(self.path), "matches": not self.why_not, "statement": list(self.statement)}
        return {**about, "why_not": self.why_not} if self.why_not else about

    def __str__(self) -> str:
        if self.why_not:
            return f"certificate: {self.path} is not this network's: {self.why_not}"
        again = f"  to count again: python -m lean_mnist.certify --check {self.path}"
        return "\n".join([f"certificate: {self.path}", *(f"  {line}" for line in self.statement), again])


def find_certificate(places: Sequence[Path], model: MLP, normalization: Normalization) -> FoundCertificate | None:
    """The certificate in one of the folders ``places``, one about this network if there is any, else the first.

    It is about the network if weights and decoder are the same and every sentence follows from its numbers; errors are
    not counted again here.
    """
    found = [_found(folder / FILE, model, normalization) for folder in places if (folder / FILE).is_file()]
    return next((certificate for certificate in found if not certificate.why_not), found[0] if found else None)


def _found(path: Path, model: MLP, normalization: Normalization) -> FoundCertificate:
    try:
        document = checker.read(str(path))
        checker.check_document(document)
    except checker.Rejected as error:
        return FoundCertificate(path, (), f"it does not hold, {str(error).removeprefix(f'{path}: ')}")
    statement, model = tuple(document["statement"]), exact_network(model)
    if document["schema"] != checker.HOLDOUT:
        return FoundCertificate(path, statement, f"it is a {document['schema'].removeprefix('lean_mnist ')}")
    own, theirs = weights_hash(model), document["weights"]["sha256"]
    if own != theirs:
        why = f"it is of weights with SHA-256 {theirs[:12]}…, and these have {own[:12]}…"
        return FoundCertificate(path, statement, why)
    for name, value in decoder_of(model, normalization).items():
        if document["decoder"][name] != value:
            why = f"its {name} is {document['decoder'][name]}, and this one's {value}"
            return FoundCertificate(path, statement, why)
    return FoundCertificate(path, statement)


def certificate_places(checkpoint: str, runs_dir: str, run_name: str | None) -> list[Path]:
    """Folders where a certificate of ``checkpoint`` may lie: beside it, and its run's folder, seen from here or from
    beside ``checkpoints``."""
    path, runs = Path(checkpoint), Path(runs_dir)
    own = [runs / run_name, path.absolute().parents[1].parent / runs.name / run_name] if run_name else []
    return [path.parent, *own]


def run_folder(checkpoint: str, runs_dir: str, run_name: str | None) -> Path:
    """The folder of the run that wrote ``checkpoint``; raises ``CertificateError`` if it is not here."""
    for place in certificate_places(checkpoint, runs_dir, run_name)[1:]:
        if place.is_dir():
            return place
    own = Path(runs_dir, run_name or "")
    raise CertificateError(f"--out: expected a folder, because the run's own, {own}, is not here")
