"""Charts, drawn by matplotlib, which the extra ``plots`` installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lean_mnist.errors import ConfigError
from lean_mnist.invocation import typed
from lean_mnist.training.evaluation.images import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, PALE_BLUE, ORANGE, GREEN, GREY = "tab:blue", "#8cb7db", "tab:orange", "tab:green", "#969696"
MISSING = f"charts need matplotlib; to have it: {typed('python -m pip', 'install', 'matplotlib')}"
_INCHES, _DOTS_PER_INCH = (7.2, 4.8), 100


def axes(title: str, x_label: str, y_label: str) -> Axes:
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
    made.set_xlabel(x_label)
    made.set_ylabel(y_label)
    made.grid(color="#e8e8e8")
    made.set_axisbelow(True)
    made.yaxis.set_major_formatter(percentage)
    return made


def percentage(value: float, position: Any = None) -> str:
    """The text of a tick: ``0.025`` is ``2.5 %``."""
    return f"{100 * value:.6g} %"


def picture(made: Axes) -> Picture:
    """The chart of these axes as a picture, its legend in a row between title and chart, so that it hides nothing."""
    columns = len(made.get_legend_handles_labels()[1])
    made.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=max(1, columns), frameon=False, fontsize=9)
    canvas: Any = made.figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
