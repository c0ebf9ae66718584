"""End of a run that trained a classifier: one evaluation of the test split, certificate, records, summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lean_mnist import figures
from lean_mnist.generalization.certificates.document import Certificate
from lean_mnist.generalization.certificates.runs import certify_run
from lean_mnist.generalization.quantize import TrainingClaims, quantized_network, training_claims
from lean_mnist.generalization.spaces import write_network
from lean_mnist.nn.quantized import QuantizedMLP
from lean_mnist.training.checkpoints import read_checkpoint, restore_weights, write_test_metrics
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME
from lean_mnist.training.evaluation.metrics import Evaluation
from lean_mnist.training.evaluation.pictures import (
    first_layer_weights,
    misread_digits,
    reliability_diagram,
    risk_coverage_curve,
)
from lean_mnist.training.objectives.summary import NETWORK, Summary
from lean_mnist.training.run_folder import RunFolder
from lean_mnist.training.sinks.records import Image, Outcome, Record, Scalar, Text
from lean_mnist.training.state import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lean_mnist.training.objectives.classification import Classification


def finish_classification(objective: Classification, state: RunState, files: RunFolder) -> Summary:
    """Evaluate the test split with the weights that the validation split selected, certify them, sum everything up."""
    best = files.checkpoints / "best.pt"
    if state.best is not None:
        restore_weights(objective.model, read_checkpoint(best)["model"], best)
    # A run that had ended before is only summed up again: the same evaluation of the same weights counts once.
    state.test_looks = [look for look in state.test_looks if look["purpose"] != "final"]
    test = objective.evaluate("test")
    state.enter_test("final", test.errors)
    metrics = write_test_metrics(files.checkpoints, state, test.counts())
    certificate, _ = certify_run(
        objective.model,
        objective.normalization,
        objective.dataset,
        metrics,
        files.folder,
        tracked=objective.config.track_test,
    )
    if not files.ended_before:
        for record in _records(objective, state, test, certificate):
            files.emit(record)
    return Summary(
        objective.config,
        state,
        test,
        files.folder,
        files.checkpoints,
        len(objective.train),
        certificate,
        _quantized(objective, files),
    )


def _quantized(objective: Classification, files: RunFolder) -> TrainingClaims | None:
    """Of a quantised network: write its exact numbers, and certify it by the examples it learned from."""
    if not isinstance(objective.model, QuantizedMLP):
        return None
    maximum = objective.dataset.maximum
    network = quantized_network(objective.model, maximum)
    write_network(files.folder / NETWORK, network)
    return training_claims(network, objective.dataset.train, maximum)


def _records(
    objective: Classification, state: RunState, test: Evaluation, certificate: Certificate
) -> Iterator[Record]:
    for (bound, delta), risk in certificate.risks.items():
        name = f"{bound.replace('-', '_')}_risk_{delta.numerator}_in_{delta.denominator}"
        yield Scalar(state.step, f"certificate/{name}", float(risk))
    yield Text(state.step, "certificate/statement", "\n\n".join(certificate.document["statement"]))
    dataset = objective.dataset
    yield Image(state.step, "weights/first_layer", first_layer_weights(objective.model, dataset.image_shape))
    misread = misread_digits(dataset.test, test, dataset.maximum)
    if misread is not None:
        yield Image(state.step, "test/misread", misread)
    if figures.available():
        yield Image(state.step, "test/reliability", reliability_diagram(test))
        yield Image(state.step, "test/risk_by_coverage", risk_coverage_curve(test))
    results = {
        "final/test_accuracy": test.accuracy,
        "final/test_calibration_error": test.calibration.error,
        "final/largest_divergence": state.checks.largest_divergence,
    }
    if state.best is not None:
        results["final/validation_accuracy"] = state.best.accuracy
    # For comparing runs: what they learnt with, not where they wrote it.
    config = objective.config
    settings = {name: value for name, value in config.to_dict().items() if name not in MAY_CHANGE_ON_RESUME}
    yield Outcome(state.step, "run/outcome", results, {**settings, "lr": config.learning_rate})
