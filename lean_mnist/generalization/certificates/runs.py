"""From a checkpoint to its certificate: for ``python -m lean_mnist.certify`` and for the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError, CheckpointError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.holdout import (
    DEFAULT_BOUNDS,
    DEFAULT_DELTAS,
    FILE,
    Certificate,
    certify,
    decoder_of,
    weights_hash,
)
from lean_mnist.generalization.confidence import history_of
from lean_mnist.generalization.exact import Exact
from lean_mnist.nn import MLP
from lean_mnist.nn.quantized import QuantizedMLP, exact_network
from lean_mnist.training.checkpoints import Checkpoint, load_checkpoint


def certify_checkpoint(
    checkpoint: str,
    *,
    deltas: Sequence[Exact] = DEFAULT_DELTAS,
    bounds: Sequence[str] = DEFAULT_BOUNDS,
    looks: int | None = None,
    adaptive: bool = False,
    precision: str = "auto",
    data_dir: str | None = None,
    out: str | None = None,
) -> tuple[Certificate, Path]:
    """Certify a checkpoint by the test split of its data, write the certificate and return it with its path.

    It goes into the run's folder, or into ``out``. Raises ``CheckpointError``, ``DataError``, ``BoundError`` or
    ``CertificateError``, also where the data found are not those that the run was made with.
    """
    loaded = load_checkpoint(checkpoint)
    folder = Path(out) if out is not None else run_folder(checkpoint, loaded)
    if not folder.is_dir():
        raise CertificateError(f"--out: expected a folder to write into, found none at {folder}")
    dataset = load_dataset(loaded.data["name"], data_dir or loaded.config.data_dir)
    if dataset.fingerprint() != loaded.data["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: the {dataset.name} found here is not what it was trained on (its hash differs), so that "
            "nothing is known of the history of this test split"
        )
    return certify_run(
        loaded.model,
        loaded.normalization,
        dataset,
        loaded.metrics,
        folder,
        tracked=loaded.config.track_test,
        deltas=deltas,
        bounds=bounds,
        looks=looks,
        adaptive=adaptive,
        precision=precision,
    )


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
    """Certify the network of a run from the ``metrics`` of its checkpoint, and write the certificate into ``folder``.

    ``precision`` is that in which the network is meant; ``auto``: see :func:`precision_for`.
    ``tracked`` says whether the run looked at the test split after every epoch. A quantised network's certificate is of
    its exact weights. Raises ``BoundError`` or
    ``CertificateError``.
    """
    history = history_of("test", metrics, tracked=tracked, looks=looks, adaptive=adaptive)
    recorded = list(metrics["test_looks"])
    certificate = certify(
        exact_network(model),
        normalization,
        dataset,
        history,
        recorded=recorded,
        deltas=deltas,
        bounds=bounds,
        precision=precision_for(model) if precision == "auto" else precision,
    )
    return certificate, certificate.write(folder)


def precision_for(model: MLP) -> str:
    """``float64`` for quantised networks, several hidden layers or more than 512 units in one; else ``float32``.

    A quantised network can be run exactly, so that nothing is given away for rounding.

    What rounding may do in the worst order of sums grows with width and depth, until in float32 every example is too
    near to call. The form of the network decides, and nothing of the data.
    """
    hidden = model.sizes[1:-1]
    if isinstance(model, QuantizedMLP):
        return "float64"
    return "float32" if len(hidden) <= 1 and max(hidden, default=0) <= 512 else "float64"


@dataclass(frozen=True)
class FoundCertificate:
    """A certificate that lies beside a checkpoint, and whether it speaks of that checkpoint's network."""

    path: Path
    statement: tuple[str, ...]
    why_not: str = ""  # why it says nothing about this network; empty if it does

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {"path": str(self.path), "matches": not self.why_not, "statement": list(self.statement)}
        return {**about, "why_not": self.why_not} if self.why_not else about

    def __str__(self) -> str:
        if self.why_not:
            return f"certificate: {self.path} is not this network's: {self.why_not}"
        again = f"  to count again: python -m lean_mnist.certify --check {self.path}"
        return "\n".join([f"certificate: {self.path}", *(f"  {line}" for line in self.statement), again])


def find_certificate(checkpoint: str, loaded: Checkpoint) -> FoundCertificate | None:
    """The certificate beside a checkpoint or in its run's folder, the one that matches if there are two.

    It matches if weights and decoder are those of the checkpoint and every sentence follows from its numbers; errors
    are not counted again here.
    """
    found = [_found(folder / FILE, loaded) for folder in _places(checkpoint, loaded) if (folder / FILE).is_file()]
    return next((certificate for certificate in found if not certificate.why_not), found[0] if found else None)


def _found(path: Path, loaded: Checkpoint) -> FoundCertificate:
    try:
        document = checker.read(str(path))
        facts = checker.facts_of(document)
        checker.compare(document, checker.build(facts))
    except checker.Rejected as error:
        return FoundCertificate(path, (), f"it does not hold, {str(error).removeprefix(f'{path}: ')}")
    statement = tuple(document["statement"])
    model = exact_network(loaded.model)
    own, theirs = weights_hash(model), facts["weights"]["sha256"]
    if own != theirs:
        why = f"it is of weights with SHA-256 {theirs[:12]}…, and these have {own[:12]}…"
        return FoundCertificate(path, statement, why)
    for name, value in decoder_of(model, loaded.normalization).items():
        if facts["decoder"][name] != value:
            return FoundCertificate(path, statement, f"its {name} is {facts['decoder'][name]}, and this one's {value}")
    return FoundCertificate(path, statement)


def run_folder(checkpoint: str, loaded: Checkpoint) -> Path:
    """The folder under ``runs`` of the run that wrote ``checkpoint``, seen from here or from beside ``checkpoints``."""
    _, *places = _places(checkpoint, loaded)
    for place in places:
        if place.is_dir():
            return place
    own = Path(loaded.config.runs_dir, loaded.config.run_name or "")
    raise CertificateError(f"--out: expected a folder, because the run's own, {own}, is not here")


def _places(checkpoint: str, loaded: Checkpoint) -> list[Path]:
    """Where a certificate may lie: beside the checkpoint, and in the run's folder."""
    beside, runs, name = Path(checkpoint).parent, loaded.config.runs_dir, loaded.config.run_name
    if not name:
        return [beside]
    return [beside, Path(runs, name), Path(checkpoint).absolute().parents[1].parent / Path(runs).name / name]
