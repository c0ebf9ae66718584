"""Files of a run, read back for its report: each is checked, and what cannot be read is said rather than guessed."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lean_mnist.errors import ConfigError, DataError, LeanMnistError
from lean_mnist.generalization import checker
from lean_mnist.generalization.certificates.document import FILE as CERTIFICATE
from lean_mnist.reading.files import opened
from lean_mnist.reading.json import read_json
from lean_mnist.reading.schema import Amount, Count, Sha256, Share, checked
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config import Config
from lean_mnist.training.config.files import read_config
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.sinks.json_lines import FILE as METRICS

CONFIG, SUMMARY = "config.json", "summary.json"
LARGEST_METRICS = 1 << 28  # bytes
_LONGEST_LINE = 1 << 20
_MOST_POINTS = 200_000  # of a curve
_LARGEST = 1e30  # value
_CURVES = (
    "train/loss", "train/epoch_loss", "train/risk", "train/divergence", "validation/loss", "validation/accuracy",
    "validation/accuracy_low", "validation/accuracy_high", "divergence/largest", "crosscheck/share_of_allowed",
    "screen/share_of_allowed", "epoch",
)  # fmt: skip
_BOUND, _DIVERGENCE = "error_bound/", "divergence/"  # of a tensor; of the loss and of the largest, too

Curves = dict[str, list[tuple[int, float]]]  # (step, value) by name
Text = Annotated[str, Meta(max_length=2000)]
Measured = float | Literal["nan", "inf", "-inf"]


class Checks(msgspec.Struct):
    """Findings of all checks, as ``CheckSummary`` writes them."""

    verdict: Literal["passed", "failed", "unchecked"]
    screens: Count = 0
    comparisons: Count = 0
    gradchecks: Count = 0
    kinks: Count = 0
    failures: Count = 0
    first_failure: Annotated[str, Meta(max_length=100_000)] = ""
    largest_divergence: Measured = 0.0
    largest_at: Text = ""
    largest_share: Measured = 0.0
    largest_bound: Measured = 0.0
    largest_bound_at: Text = ""
    transient: Count = 0
    seconds: Amount = 0.0


class Quantized(msgspec.Struct):
    """Weights of few bits, and errors on the examples that they could be learned from."""

    bits_a_weight: Count
    bits: Count
    errors: Count
    examples: Count


class Summary(msgspec.Struct, kw_only=True):
    """Fields of ``summary.json`` that the report shows, of a classifier; it may have others."""

    dataset: Text
    data_origin: Text = ""
    class_names: Annotated[list[Text], Meta(max_length=100_000)] = []
    test_examples: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    test_errors: Count
    test_accuracy: Share
    test_accuracy_interval_95: Annotated[list[Share], Meta(min_length=2, max_length=2)]
    best_epoch: Count | None = None
    best_step: Count | None = None
    validation_examples: Count | None = None
    validation_accuracy: Share | None = None
    training_examples: Count | None = None
    epochs: Count
    steps: Count
    rollbacks: Count = 0
    finished: Text = ""
    seconds: Amount
    examples_per_second: Amount
    checks: Checks
    engine: Text = ""
    threads: Count | None = None
    torch: Text = ""
    best_sha256: Sha256 | None = None
    certificate: dict[str, Any] = {}
    quantized: Quantized | None = None


class PacBayesSummary(msgspec.Struct, kw_only=True):
    """The same, of a Gaussian over networks."""

    dataset: Text
    data_origin: Text = ""
    prior: Text
    prior_scale: Text
    sizes: Annotated[list[Count], Meta(max_length=100)]
    claims: list[dict[str, Any]]
    examples: Count
    draws: Count
    draw_errors: Count
    divergence: Text
    test_risk: Share
    steps: Count
    seconds: Annotated[dict[Text, Amount], Meta(max_length=100)]
    checks: Checks


@dataclass(frozen=True)
class RunFiles:
    """Files that a run has written; ``None`` or nothing where a file is missing or cannot be read."""

    folder: Path
    config: Config | PacBayesConfig | None
    summary: Summary | PacBayesSummary | None
    curves: Curves
    epochs: list[dict[str, Any]]  # figures of each, with its step
    certificate: dict[str, Any] | None  # of which every sentence follows from its numbers
    faults: list[str] = field(default_factory=list)  # files that are there and cannot be read, one line each

    @property
    def bounds(self) -> list[tuple[int, float]]:
        """The largest proved error of a gradient, relative, by step, where each compared tensor has a finite bound."""
        return self.curves.get("error_bound/largest", [])

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.folder.absolute().name


def read_run(folder: Path) -> RunFiles:
    """Everything in ``folder`` that the report shows."""
    faults: list[str] = []

    def tried(name: str, read: Any) -> Any:
        if not (folder / name).exists():
            return None
        try:
            return read(folder / name)
        except (LeanMnistError, checker.Rejected) as error:
            where = shown(folder / name)
            faults.append(printable(f"{where}: {str(error).removeprefix(f'{where}: ')}", 500))
            return None

    config, summary = tried(CONFIG, _read_config), tried(SUMMARY, _read_summary)
    curves, epochs = tried(METRICS, lambda path: _read_metrics(path, faults)) or ({}, [])
    return RunFiles(folder, config, summary, curves, epochs, tried(CERTIFICATE, _read_certificate), faults)


def _read_config(path: Path) -> Config | PacBayesConfig:
    content = read_json(path, "a config.json that a run wrote", ConfigError, largest=1 << 20)
    gaussian = isinstance(content, dict) and "prior_scale" in content
    return read_config(path, PacBayesConfig) if gaussian else read_config(path, Config)


def _read_summary(path: Path) -> Summary | PacBayesSummary:
    content = read_json(path, "a run's summary.json", DataError, largest=1 << 26)
    gaussian = isinstance(content, dict) and "draws" in content
    kind: type[Summary | PacBayesSummary] = PacBayesSummary if gaussian else Summary
    summary = checked(content, kind, shown(path), "", DataError)
    if isinstance(summary, Summary):
        counted = 1 - summary.test_errors / summary.test_examples
        low, high = summary.test_accuracy_interval_95
        if not (abs(summary.test_accuracy - counted) < 1e-9 and low <= summary.test_accuracy <= high):
            found = f"{summary.test_errors:,} in {summary.test_examples:,}, an accuracy of {summary.test_accuracy}"
            raise DataError(f"{shown(path)}: test_errors: found {found} and an interval {low} to {high}, which differ")
    if (summary.checks.verdict == "failed") != (summary.checks.failures > 0):
        found = f"{summary.checks.verdict!r} with {summary.checks.failures:,} failures"
        raise DataError(f"{shown(path)}: checks.verdict: found {found}, which differ")
    return summary


def _read_certificate(path: Path) -> dict[str, Any]:
    document = checker.read(str(path))
    checker.check_document(document)
    return dict(document)


def _read_metrics(path: Path, faults: list[str]) -> tuple[Curves, list[dict[str, Any]]]:
    """Curves and epochs; a line that is none of ours, as a run that was killed leaves one, is counted and left out."""
    curves: Curves = {name: [] for name in _CURVES}
    bounds: dict[int, float] = {}
    tensors: dict[int, set[str]] = {}  # compared, and without a bound so far, by step
    epochs: list[dict[str, Any]] = []
    strange = 0
    with opened(path, "a run's metrics.jsonl", DataError) as (file, size):
        if size > LARGEST_METRICS:
            raise DataError(f"{shown(path)}: {size:,} bytes, expected at most {LARGEST_METRICS:,}")
        while line := file.readline(_LONGEST_LINE):
            try:
                record = json.loads(line)
                step, name, value = record["step"], record["name"], record["value"]
                if type(step) is not int or not 0 <= step < 1 << 53 or not isinstance(name, str):
                    raise ValueError
                if name == "epoch" and len(epochs) < _MOST_POINTS:
                    epochs.append({"step": step, **{str(key)[:40]: number_of(each) for key, each in value.items()}})
                elif name in curves and len(curves[name]) < _MOST_POINTS:
                    curves[name].append((step, number_of(value)))
                elif name.startswith(_DIVERGENCE) and name != "divergence/loss" and len(tensors) < _MOST_POINTS:
                    tensors.setdefault(step, set()).add(name.removeprefix(_DIVERGENCE))
                elif name.startswith(_BOUND) and len(bounds) < _MOST_POINTS:
                    bound = number_of(value)
                    bounds[step] = max(bounds.get(step, 0.0), math.inf if math.isnan(bound) else bound)
                    tensors.get(step, set()).discard(name.removeprefix(_BOUND))
            except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
                strange += 1
    if strange:
        faults.append(f"{shown(path)}: left out, because they are no records: {strange:,} of its lines")
    whole = [(step, bound) for step, bound in bounds.items() if tensors.get(step) == set() and bound < math.inf]
    curves["error_bound/largest"] = sorted(whole)
    return curves, epochs


def number_of(value: Any) -> float:
    """A number out of a file; raises ``ValueError`` for anything else than a number, "nan", "inf" or "-inf".

    What no run comes near becomes infinite, or 0, so that differences and powers of it can be taken.
    """
    if type(value) not in (int, float) and value not in ("nan", "inf", "-inf"):
        raise ValueError
    if value != value or isinstance(value, str):
        return float(value)
    if abs(value) > _LARGEST:
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < 1 / _LARGEST else float(value)
