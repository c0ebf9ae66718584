"""The model card of a run, ``model_card.md`` beside its checkpoints: metadata as Hugging Face reads them, then text."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from lean_mnist.data.datasets import Dataset
from lean_mnist.data.normalization import Normalization
from lean_mnist.data.official import Origin
from lean_mnist.generalization.certificates.document import network_name
from lean_mnist.nn import MLP
from lean_mnist.reading.text import printable
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.objectives.summary import Summary
from lean_mnist.training.state import Verdict

FILE = "model_card.md"
_MOST_NAMES = 40  # of classes that are listed


def model_card(summary: Summary, model: MLP, normalization: Normalization, dataset: Dataset) -> str:
    """The card of the network that ``summary`` is of: data, recipe, accuracy, certificate, checks, limits."""
    name, shape = str(summary.config.run_name), "x".join(map(str, dataset.image_shape))
    title = f"{network_name(model.sizes)} network for {_plain(dataset.name)}"
    names = ", ".join(map(_plain, dataset.class_names[:_MOST_NAMES]))
    more = f" and {dataset.classes - _MOST_NAMES} more" if dataset.classes > _MOST_NAMES else ""
    best = summary.checkpoints / ("last.pt" if summary.state.best is None else "best.pt")
    verdict = summary.state.checks.verdict
    checked = {Verdict.PASSED: ", and those that were checked while it trained are right"}.get(verdict, "")
    checked = ", and a check of them FAILED while it trained" if verdict is Verdict.FAILED else checked
    sections = {
        "": [
            f"A dense network ({model.activation}) that calls a grey {shape} image one of {dataset.classes} classes: "
            f"{names}{more}. Its gradients were written by hand{checked}.",
        ],
        "Use": [
            f"```python\nfrom lean_mnist import load_checkpoint\n\nnetwork = load_checkpoint({str(best)!r})\n"
            f"network.probabilities(images)  # uint8 (B, {', '.join(map(str, dataset.image_shape))}): raw pixels\n```",
            f"Pixels are 0 to {dataset.maximum}, of the polarity of its data; they are normalised inside: "
            f"{_normalised(normalization)}.",
        ],
        "Data": _data(summary, dataset),
        "Recipe": _recipe(summary.config),
        "Accuracy": _accuracy(summary),
        "Certificate": _certificate(summary),
        "Checks while it trained": _checks(summary),
        "Limits": [
            "- It calls every image one of its classes, also one that shows none of them.\n"
            "- Nothing is known of images drawn otherwise: other pens, scanners, sizes, or the other polarity.\n"
            "- Its probabilities are those of a softmax; on the test split they were off by "
            f"{summary.test.calibration.error:.2%} on average (expected calibration error).\n"
            "- Images that are made to mislead it were not looked at.",
        ],
    }
    text = "\n\n".join(
        "\n\n".join([f"## {head}" if head else f"# {title}", *parts]) for head, parts in sections.items()
    )
    return f"---\n{_metadata(summary, name, dataset)}\n---\n\n{text}\n"


def body(card: str) -> str:
    """The text of a card, without its metadata."""
    return card.split("\n---\n", 1)[1].lstrip()


def _metadata(summary: Summary, name: str, dataset: Dataset) -> str:
    """YAML, in which every text is written as in JSON."""
    named = json.dumps(dataset.name)
    lines = ["library_name: lean_mnist", "pipeline_tag: image-classification", "tags: [lean_mnist, pytorch]"]
    lines += [f"datasets: [{named}]"] if dataset.origin is Origin.OFFICIAL else []
    lines += [
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {named}, type: {named}, split: test}}",
        f"    metrics: [{{type: accuracy, value: {summary.test.accuracy}, verified: false}}]",
    ]
    return "\n".join(lines)


def _normalised(normalization: Normalization) -> str:
    by = f"(pixel - {normalization.mean:g}) / {normalization.scale:g}"
    by = "each image by its own mean and standard deviation" if normalization.kind == "per-image" else by
    return by if normalization.clip is None else f"{by}, clipped to ±{normalization.clip:g}"


def _data(summary: Summary, dataset: Dataset) -> list[str]:
    origin = "the official data, known by their SHA-256"
    if dataset.origin is not Origin.OFFICIAL:
        origin = "of unknown origin: nobody vouches for them"
    faults = [line for line in (dataset.gaps(), dataset.overlap()) if line] if dataset.path else []
    return [
        f"{_plain(dataset.name)}, {origin}. {summary.training_examples:,} examples to learn from, "
        f"{summary.config.validation_size:,} to select, {len(dataset.test):,} to test. SHA-256 of all: "
        f"`{dataset.fingerprint()}`.",
        *(f"{_plain(line, 500)}." for line in faults),
    ]


def _recipe(config: Config) -> list[str]:
    usual, own = Config().to_dict(), config.to_dict()
    rows = [
        f"| {option} | {_plain(' '.join(map(str, value)) if isinstance(value, list) else value)} |"
        for option, value in own.items()
        if value != usual[option] and option not in MAY_CHANGE_ON_RESUME and option != "preset"
    ]
    lines = [
        f"{config.epochs} epochs of batches of {config.batch_size} by {config.optimizer} with learning rate "
        f"{config.learning_rate:g} ({config.schedule}), weight decay {config.weight_decay:g}, seed {config.seed}, "
        f"in {config.precision}. The run's `config.json` repeats it: `python -m lean_mnist.train --config FILE`."
    ]
    return [*lines, "\n".join(["| not as by default | |", "|---|---|", *rows])] if rows else lines


def _accuracy(summary: Summary) -> list[str]:
    test, (low, high) = summary.test, summary.test.interval
    looks = len(summary.state.test_looks)
    lines = [
        f"{test.accuracy:.2%} of {test.examples:,} test images ({test.errors:,} errors; 95 % interval {low:.2%} to "
        f"{high:.2%}). The test split was looked at {'once' if looks == 1 else f'{looks} times'}."
    ]
    if summary.state.best is not None:
        lines.append(f"Selected by its accuracy on the validation split, {summary.state.best.accuracy:.2%}.")
        if summary.config.average is not None:
            averaged = f"each with {summary.config.average:g} times the weight of the next"
            lines.append(f"Its weights are a mean of those at the ends of its epochs, {averaged}.")
    worst = sorted((share, c) for c, share in enumerate(test.class_accuracy) if share is not None)[:3]
    said = ", ".join(f"{_plain(summary.class_names[c])} ({share:.2%})" for share, c in worst)
    return [*lines, f"Least accurate classes: {said}."]


def _certificate(summary: Summary) -> list[str]:
    certificate = summary.certificate
    if isinstance(certificate, str):
        return [f"None: {_plain(certificate)}."]
    document = certificate.document
    stated = "\n".join(f"- {_plain(line, 2000)}" for line in document["statement"])
    assumed = "\n".join(f"- {_plain(line, 2000)}" for line in document["assumptions"])
    path = shlex.quote(str(summary.files["certificate"]))
    check = f"`python -m lean_mnist.certify --check {path}` derives it again."
    return [stated, f"Assumed:\n\n{assumed}", check]


def _checks(summary: Summary) -> list[str]:
    checks = summary.state.checks
    if checks.verdict is Verdict.UNCHECKED:
        return ["None were due: nothing is known of its gradients."]
    lines = [
        f"{checks.screens:,} steps screened, {checks.comparisons:,} compared with a float64 reference, "
        f"{checks.gradchecks:,} runs of gradcheck; {checks.failures:,} failed."
    ]
    if checks.comparisons:
        bound = checks.proved_bound
        proved = f", and proved within {bound} of the exact gradient (relative)" if bound else ""
        lines.append(
            f"Where gradients were compared they were within {checks.largest_divergence:.1e} of the reference, "
            f"{checks.largest_share:.0%} of what rounding explains{proved}. Steps in between are not covered by these "
            "comparisons."
        )
    return lines


def _plain(text: Any, limit: int = 100) -> str:
    """Text that may be from a file, in one line, with nothing in it that Markdown or HTML would take for a command."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", printable(text, limit))
