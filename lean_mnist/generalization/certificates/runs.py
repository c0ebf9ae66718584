"""The certificate of a run: made at its end or from its checkpoint, and found again beside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import DEFAULT_BOUNDS, DEFAULT_DELTAS, FILE, Certificate
from lean_mnist.generalization.certificates.holdout import certify, decoder_of, weights_hash
from lean_mnist.generalization.confidence import history_of
from lean_mnist.generalization.exact import Exact
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
    deltas: Sequence[Exact] = DEFAULT_DELTAS,
    bounds: Sequence[str] = DEFAULT_BOUNDS,
    looks: int | None = None,
    adaptive: bool = False,
    precision: str = "auto",
) -> tuple[Certificate, Path]:
    """Certify the network of a run, write the certificate into ``folder``, and return it with its path.

    Args:
        model: the run's network; of a quantised one its exact weights are certified.
        normalization: how pixels become its features.
        dataset: the run's data; its test split is counted.
        metrics: of the run's checkpoint, with the record of evaluations on the test split.
        folder: where the certificate is written.
        tracked: whether the run evaluated the test split after every epoch.
        deltas: failure probabilities, each of them for its own claim.
        bounds: names of bounds on counted errors, each of them at each δ.
        looks: all evaluations on this test split, other runs' included; those recorded if ``None``.
        adaptive: pay for evaluations that may have depended on earlier ones.
        precision: ``float32``, ``float64``, or ``auto``: see :func:`precision_for`.

    Raises:
        BoundError, CertificateError: as :func:`~.holdout.certify`; fewer ``looks`` than were recorded.
    """
    certificate = certify(
        exact_network(model),
        normalization,
        dataset,
        history_of("test", metrics, tracked=tracked, looks=looks, adaptive=adaptive),
        recorded=list(metrics["test_looks"]),
        deltas=deltas,
        bounds=bounds,
        precision=precision_for(model) if precision == "auto" else precision,
    )
    return certificate, certificate.write(folder)


def precision_for(model: MLP) -> str:
    """``float64`` for quantised networks, several hidden layers or more than 512 units in one; else ``float32``.

    A quantised network can be run exactly, so that nothing is given away for rounding. What rounding may do in the
    worst order of sums grows with width and depth, until in float32 every example is too near to call. The form of the
    network decides, and nothing of the data.
    """
    hidden = model.sizes[1:-1]
    if isinstance(model, QuantizedMLP):
        return "float64"
    return "float32" if len(hidden) <= 1 and max(hidden, default=0) <= 512 else "float64"


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
            return FoundCertificate(
                path, statement, f"its {name} is {document['decoder'][name]}, and this one's {value}"
            )
    return FoundCertificate(path, statement)


def certificate_places(checkpoint: str, runs_dir: str, run_name: str | None) -> list[Path]:
    """Folders where a certificate of ``checkpoint`` may lie: beside it, and its run's folder, seen from here or from
    beside ``checkpoints``."""
    beside = Path(checkpoint).parent
    if not run_name:
        return [beside]
    return [
        beside,
        Path(runs_dir, run_name),
        Path(checkpoint).absolute().parents[1].parent / Path(runs_dir).name / run_name,
    ]


def run_folder(checkpoint: str, runs_dir: str, run_name: str | None) -> Path:
    """The folder of the run that wrote ``checkpoint``; raises ``CertificateError`` if it is not here."""
    for place in certificate_places(checkpoint, runs_dir, run_name)[1:]:
        if place.is_dir():
            return place
    own = Path(runs_dir, run_name or "")
    raise CertificateError(f"--out: expected a folder, because the run's own, {own}, is not here")
