"""The curves of a run as charts, from its records."""

import math
from collections.abc import Sequence

from lean_mnist.training.config import Config
from lean_mnist.training.report.charts import Chart, Line, Point, largest, last, thinned
from lean_mnist.training.report.run_files import RunFiles, Summary
from lean_mnist.training.report.words import at_most, number, per_cent, plural


def charts(run: RunFiles) -> dict[str, Chart | None]:
    """The charts by name; ``None`` for one of which the run has too few records."""
    drawn = _Curves(run)
    each = (drawn.loss, drawn.accuracy, drawn.divergence, drawn.share)
    return {draw.__name__: draw() for draw in each}


class _Curves:
    """Records of a run over its epochs, or over its steps where no epoch has ended."""

    def __init__(self, run: RunFiles) -> None:
        self._run = run
        steps = max((points[-1][0] for points in run.curves.values() if points), default=1)
        ended = (each["step"] / each["epoch"] for each in run.epochs[::-1] if each.get("epoch", 0) >= 1)
        self._unit = next(ended, 0.0) or 1.0  # steps
        self._x = ("step" if self._unit == 1.0 else "epoch"), max(1, steps) / self._unit
        self._dots = len(run.epochs) < 3

    def _points(self, name: str) -> list[Point]:
        return [(step / self._unit, value) for step, value in self._run.curves.get(name, [])]

    def loss(self) -> Chart | None:
        lines = [
            Line("one batch", thinned(self._points("train/loss"), last), "pale"),
            Line("training", self._points("train/epoch_loss"), "ink", dots=self._dots),
            Line("validation", self._points("validation/loss"), "accent", dots=self._dots),
        ]
        lines = [line for line in lines if _finite(line.points)]
        if any(len(line.points) > 1 for line in lines):
            lines = [line for line in lines if len(line.points) > 1]
        if not lines:
            return None
        ends = ", ".join(f"{line.label} {number(_finite(line.points)[-1][1])}" for line in lines)
        text, title, unit = f"The last of each: {ends}.", "Loss", "cross-entropy, nats"
        if lines[0].label == "one batch":
            text += " The thin line is the loss of single batches."
        if not isinstance(self._run.config, Config):  # of a Gaussian over networks, or not known
            title, unit = "Training objective", "objective"
            text += " It is another one for the prior, the cross-entropy, than for the posterior, a bound."
        ys = [y for line in lines for _, y in _finite(line.points)]
        log = min(ys) > 0 and max(ys) / min(ys) > 20
        return Chart("loss", title, text, *self._x, unit, lines, log=log)

    def accuracy(self) -> Chart | None:
        points = self._points("validation/accuracy")
        if not _finite(points):
            return None
        low, high = dict(self._points("validation/accuracy_low")), dict(self._points("validation/accuracy_high"))
        band = [(x, low.get(x, math.nan), high.get(x, math.nan)) for x, _ in points]
        best = max(_finite(points), key=lambda point: point[1])[1]
        text = f"From {per_cent(points[0][1])} to {per_cent(points[-1][1])}, at best {per_cent(best)}."
        text += " The band is the 95 % interval of each, by Clopper and Pearson."
        title, unit = "Accuracy on the validation split", "share that is read as labelled"
        lines, band = [Line("validation", points, dots=self._dots)], [b for b in band if all(map(math.isfinite, b))]
        return Chart("accuracy", title, text, *self._x, unit, lines, band, self._selected(points), percent=True)

    def _selected(self, points: Sequence[Point]) -> tuple[float, float, str] | None:
        """The mark at the accuracy of the weights that were selected."""
        summary = self._run.summary
        if not isinstance(summary, Summary) or summary.best_step is None:
            return None
        at = summary.best_step / self._unit
        return next(((x, y, f"selected: {per_cent(y)}") for x, y in _finite(points) if x == at), None)

    def divergence(self) -> Chart | None:
        measured, bound = self._points("divergence/largest"), self._points("error_bound/largest")
        if len(_finite(measured)) < 2:
            return None
        text = f"Measured at {plural(len(measured), 'step')}, at most {number(largest(measured)[1])}; "
        lines = [Line("measured", thinned(measured, largest), "accent", dots=True)]
        if bound:
            proved = "each of them" if len(bound) >= len(measured) else f"{len(bound):,} of them"
            text += f"proved at {proved} to be at most {at_most(largest(bound)[1])}, relative."
            found = dict(measured)
            if all(abs(value - found.get(x, math.inf)) <= 0.01 * value for x, value in bound):
                text += " The bound lies so close above what was measured that they fall on one line."
            lines.insert(0, Line("proved bound", thinned(bound, largest), "broad"))
        else:
            text += "no bound was proved for all tensors of a step."
        title, unit = "Error of the gradients at the audited steps", "relative error of the worst tensor"
        return Chart("divergence", title, text, *self._x, unit, lines, log=True)

    def share(self) -> Chart | None:
        lines = [
            Line("audit", thinned(self._points("crosscheck/share_of_allowed"), largest), "accent", dots=True),
            Line("screen", thinned(self._points("screen/share_of_allowed"), largest), "ink"),
        ]
        lines = [line for line in lines if len(_finite(line.points)) > 1]
        if not lines:
            return None
        worst = largest([point for line in lines for point in line.points])[1]
        limit = Line("fails above", [(0.0, 1.0), (self._x[1], 1.0)], "limit")
        title, unit = "How much of it rounding explains", "difference, as a share of what rounding can make"
        text = f"At most {per_cent(worst, 1)}; a check fails above 100 %."
        return Chart("share", title, text, *self._x, unit, [limit, *lines], percent=True, height=220)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]
