"""From a checkpoint to its certificate: for ``python -m lean_mnist.certify`` and for the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lean_mnist.data.datasets import Dataset, load_dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.errors import CertificateError, CheckpointError
from lean_mnist.generalization.certificate import DEFAULT_BOUNDS, DEFAULT_DELTAS, Certificate, certify
from lean_mnist.generalization.directed import Exact
from lean_mnist.generalization.ledger import history_of
from lean_mnist.nn import MLP
from lean_mnist.training.checkpoints import Checkpoint, load_checkpoint


def certify_checkpoint(
    checkpoint: str,
    *,
    deltas: Sequence[Exact] = DEFAULT_DELTAS,
    bounds: Sequence[str] = DEFAULT_BOUNDS,
    looks: int | None = None,
    adaptive: bool = False,
    precision: str = "float32",
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
    precision: str = "float32",
) -> tuple[Certificate, Path]:
    """Certify the network of a run from the ``metrics`` of its checkpoint, and write the certificate into ``folder``.

    ``tracked`` says whether the run looked at the test split after every epoch. Raises ``BoundError`` or
    ``CertificateError``.
    """
    history = history_of("test", metrics, tracked=tracked, looks=looks, adaptive=adaptive)
    recorded = list(metrics["test_looks"])
    certificate = certify(
        model, normalization, dataset, history, recorded=recorded, deltas=deltas, bounds=bounds, precision=precision
    )
    return certificate, certificate.write(folder)


def run_folder(checkpoint: str, loaded: Checkpoint) -> Path:
    """The folder under ``runs`` of the run that wrote ``checkpoint``, seen from here or from beside ``checkpoints``."""
    runs, name = loaded.config.runs_dir, loaded.config.run_name or ""
    places = [Path(runs, name), Path(checkpoint).absolute().parents[1].parent / Path(runs).name / name]
    for place in places:
        if name and place.is_dir():
            return place
    raise CertificateError(f"--out: expected a folder, because the run's own, {places[0]}, is not here")
