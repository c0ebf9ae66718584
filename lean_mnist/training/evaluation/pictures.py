"""Charts of calibration and of what a certified risk depends on; the pictures of an evaluation, as files.

They are drawn by matplotlib, which the extra ``plots`` installs. In charts of a certified risk every point is the bound
itself, rounded up to five digits.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lean_mnist.data.datasets import Dataset, Split
from lean_mnist.errors import ConfigError
from lean_mnist.files import png, write_atomically
from lean_mnist.generalization.bounds import upper_risk
from lean_mnist.generalization.certificates.document import DEFAULT_DELTAS
from lean_mnist.generalization.exact import Exact, exact
from lean_mnist.generalization.quantize import quantized_network
from lean_mnist.generalization.solve import certified_risk
from lean_mnist.invocation import typed
from lean_mnist.nn import MLP
from lean_mnist.nn.quantized import QuantizedMLP
from lean_mnist.training.checkpoints import Checkpoint
from lean_mnist.training.evaluation.images import Picture, first_layer_weights, misread_digits
from lean_mnist.training.evaluation.metrics import Evaluation, clopper_pearson, evaluate, risk_by_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 600  # of a curve
BLUE, PALE_BLUE, ORANGE, GREEN, GREY = "tab:blue", "#8cb7db", "tab:orange", "tab:green", "#969696"
MISSING = f"charts need matplotlib; to have it: {typed('python -m pip', 'install', 'matplotlib')}"
_INCHES, _DOTS_PER_INCH = (7.2, 4.8), 100


def _axes(title: str, x_label: str, y_label: str) -> "Axes":
    """The axes of a new chart, y as a percentage; raises ``ConfigError`` where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError(MISSING) from None
    figure = Figure(_INCHES, dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    made = figure.add_axes((0.12, 0.13, 0.82, 0.72))
    made.set_title(title, pad=28, fontsize=11)
    made.set(xlabel=x_label, ylabel=y_label, axisbelow=True)
    made.grid(color="#e8e8e8")
    made.yaxis.set_major_formatter(_percentage)
    return made


def _percentage(value: float, position: Any = None) -> str:
    """The text of a tick: ``0.025`` is ``2.5 %``."""
    return f"{100 * value:.6g} %"


def _picture(made: "Axes") -> Picture:
    """The chart of these axes as a picture, its legend in a row between title and chart, so that it hides nothing."""
    columns = len(made.get_legend_handles_labels()[1])
    made.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=max(1, columns), frameon=False, fontsize=9)
    canvas: Any = made.figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def reliability_diagram(evaluation: Evaluation) -> Picture:
    """Accuracy by confidence, with 95 % intervals; the diagonal is perfect calibration."""
    found = evaluation.calibration
    title = f"reliability: expected calibration error {found.error:.2%} on {evaluation.examples:,} examples"
    axes = _axes(title, "confidence", "accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(_percentage)
    bins, filled = len(found.examples), np.flatnonzero(found.examples)
    examples, correct, means = (values.numpy()[filled] for values in found)
    accuracy = correct / examples
    axes.bar(filled / bins, accuracy, 0.96 / bins, align="edge", color=PALE_BLUE, label="accuracy by confidence")
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="perfect")
    ends = np.array([clopper_pearson(int(k), int(n)) for k, n in zip(correct, examples, strict=True)]).reshape(-1, 2)
    lengths, label = np.abs(ends - accuracy[:, None]).T, "95 % interval, at the mean"
    axes.errorbar(means, accuracy, lengths, fmt="none", ecolor=ORANGE, capsize=3, label=label)
    return _picture(axes)


def risk_coverage_curve(evaluation: Evaluation) -> Picture:
    """Error rate among the most confident predictions, by the share of examples that is answered."""
    coverage, risk = risk_by_coverage(evaluation.confidences, evaluation.right)
    whole = 1 - evaluation.accuracy
    title = f"selective classification: {evaluation.errors} errors in {evaluation.examples:,} if all are answered"
    x_label = "coverage: share of examples answered, most confident first"
    axes = _axes(title, x_label, "risk: errors among those answered")
    axes.xaxis.set_major_formatter(_percentage)
    # The first few may have any risk; the axis is for the rest.
    axes.set(xlim=(0, 1), ylim=(0, max(1.1 * float(risk[len(risk) // 100 :].max()), 1e-3)))
    axes.plot([0, 1], [whole, whole], "--", color=GREY, label="all answered, or some chosen at random")
    shown = torch.linspace(0, len(risk) - 1, min(len(risk), _POINTS)).long()
    axes.plot(coverage[shown].numpy(), risk[shown].numpy(), color=BLUE, label="most confident first")
    return _picture(axes)


def write_plots(
    folder: str, checkpoint: Checkpoint, dataset: Dataset, split: Split, found: Evaluation, learned: Split | None
) -> list[Path]:
    """Draw the evaluation ``found`` of ``split`` into ``folder``, which is made if need be; returns the files.

    ``learned``: the examples that the network learned from, where they are known; for the bound by bits. Raises
    ``ConfigError`` where the folder cannot be made or matplotlib is missing.
    """
    delta = DEFAULT_DELTAS[0]
    pictures: dict[str, Picture | None] = {
        "reliability": reliability_diagram(found),
        "risk-by-coverage": risk_coverage_curve(found),
        "misread": misread_digits(split, found, dataset.maximum),
        "first-layer-weights": first_layer_weights(checkpoint.model, dataset.image_shape),
    }
    if split is dataset.test:  # a holdout; the others taught or selected
        pictures["bound-by-examples"] = risk_by_examples(found.errors, found.examples, delta)
        pictures["bound-by-delta"] = risk_by_delta(found.errors, found.examples, DEFAULT_DELTAS)
    if learned is not None:
        seen = evaluate(checkpoint.model, learned, checkpoint.normalization)
        bits = _bits(checkpoint.model)
        pictures["bound-by-bits"] = risk_by_bits(seen.errors, seen.examples, delta, bits)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--plots {folder}: expected a folder that can be written, found: {error.strerror}") from None
    drawn = {Path(folder, f"{name}.png"): picture for name, picture in pictures.items() if picture is not None}
    for path, picture in drawn.items():
        write_atomically(path, png(picture))
    return list(drawn)


def _bits(model: MLP) -> int:
    """Bits that write the network down, in the precision it has or as a quantised network."""
    if isinstance(model, QuantizedMLP):
        return quantized_network(model).space.size_in_bits
    return sum(8 * tensor.element_size() * tensor.numel() for tensor in model.parameters())


_BOUNDS = (("hoeffding", ORANGE), ("kl", GREEN), ("clopper-pearson", BLUE))
_DIGITS = 5
_MOST_COUNTED = 100_000  # Clopper–Pearson sums one term an error; with more examples kl can hardly be told from it


def risk_by_examples(errors: int, examples: int, delta: Exact) -> Picture:
    """Certified risk by m, at the error rate that was measured; the dot is the measured m."""
    rate, said = Fraction(errors, examples), f"{float(exact(delta, 'delta')):g}"
    title = f"what more examples would show: {errors:,} errors in {examples:,}, one look, δ = {said}"
    axes = _risk_axes(
        title, "examples of the holdout, m", upper_risk("hoeffding", -(-rate * 100 // 1), 100, delta, _DIGITS)
    )
    for bound, colour in _BOUNDS:
        sizes = _spaced(100, _MOST_COUNTED if bound == "clopper-pearson" else 1_000_000)
        risks = [float(upper_risk(bound, min(m, -(-rate * m // 1)), m, delta, _DIGITS)) for m in sizes]
        axes.plot(sizes, risks, color=colour, label=bound)
    axes.axhline(float(rate), linestyle="--", color=GREY, label="measured error rate")
    if 100 <= examples <= 1_000_000:
        axes.plot(examples, float(upper_risk("clopper-pearson", errors, examples, delta, _DIGITS)), "o", color=BLUE)
    return _picture(axes)


def risk_by_delta(errors: int, examples: int, deltas: Sequence[Exact]) -> Picture:
    """Certified risk by δ; the dots are at ``deltas``."""
    powers = [Fraction(1, 10**power) for power in range(1, 13)]
    title = f"what more confidence costs: {errors:,} errors in {examples:,}, one look"
    axes = _risk_axes(title, "failure probability, δ", upper_risk("hoeffding", errors, examples, powers[-1], _DIGITS))
    for bound, colour in _BOUNDS:
        risks = [float(upper_risk(bound, errors, examples, d, _DIGITS)) for d in powers]
        axes.plot([float(d) for d in powers], risks, color=colour, label=bound)
    axes.axhline(errors / examples, linestyle="--", color=GREY, label="measured error rate")
    risks = [float(upper_risk("clopper-pearson", errors, examples, delta, _DIGITS)) for delta in deltas]
    axes.plot([float(exact(delta, "delta")) for delta in deltas], risks, "o", color=BLUE)
    return _picture(axes)


def risk_by_bits(errors: int, examples: int, delta: Exact, bits: int) -> Picture:
    """Risk certified on the training examples, by the bits that learning could choose; dashed: this network's."""
    said = f"{float(exact(delta, 'delta')):g}"
    title = f"certified by the {examples:,} examples it learned from: {errors:,} errors, δ = {said}"
    axes = _risk_axes(title, "bits of the hypothesis space, B", Fraction(1))
    sizes = _spaced(100, 10**7)
    for bound, colour in _BOUNDS[:2]:
        risks = [Fraction(0)]
        for b in sizes:
            risks.append(Fraction(1) if risks[-1] == 1 else certified_risk(bound, errors, examples, delta, b, _DIGITS))
        axes.plot(sizes, list(map(float, risks[1:])), color=colour, label=f"{bound}, union over 2^B")
    axes.axvline(bits, linestyle="--", color=GREY, label=f"this network: {bits:,} bits")
    return _picture(axes)


def _risk_axes(title: str, x_label: str, highest: Fraction) -> "Axes":
    """Certified risk, up to somewhat more than ``highest``, over a logarithmic axis."""
    axes = _axes(title, x_label, "certified risk")
    axes.set(xscale="log", ylim=(0, min(1.0, max(0.001, 1.1 * float(highest)))))
    return axes


def _spaced(low: int, high: int) -> list[int]:
    return sorted({round(value) for value in np.geomspace(low, high, 60)})
