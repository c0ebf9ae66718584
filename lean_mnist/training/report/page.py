"""The page: figures of a run in words, charts and tables, each said to be proved, checked, measured or assumed."""

import dataclasses
import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lean_mnist.command_line import arguments_of
from lean_mnist.errors import ConfigError
from lean_mnist.files import write_atomically
from lean_mnist.generalization.certificates.document import FILE as CERTIFICATE
from lean_mnist.generalization.exact import percent
from lean_mnist.invocation import typed
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config import MAY_CHANGE_ON_RESUME, Config
from lean_mnist.training.config.pac_bayes import PacBayesConfig
from lean_mnist.training.config.presets import preset
from lean_mnist.training.report import FILE
from lean_mnist.training.report.curves import charts
from lean_mnist.training.report.run_files import PacBayesSummary, RunFiles, Summary, read_run
from lean_mnist.training.report.tested import MOST_SHOWN, Tested, misread, test_again
from lean_mnist.training.report.words import at_most, confidence, number, per_cent, plural, seconds
from lean_mnist.version import __version__

if TYPE_CHECKING:
    import jinja2

_MOST_CLASSES = 20  # of a confusion matrix that is shown whole
_MOST_EPOCHS = 200  # in the table


def write_page(
    folder: Path,
    *,
    tested: Tested | None = None,
    checkpoint: Path | None = None,
    data_dir: str | None = None,
    out: Path | None = None,
) -> tuple[Path, list[str]]:
    """Write the report of the run in ``folder``; returns its path and what of the run could not be read.

    ``tested`` is its evaluation on the test split; if not given, that of ``checkpoint``, by default where the run has
    it. Raises ``OSError``.
    """
    run = read_run(folder)
    checkpoint = checkpoint or _checkpoint(run)
    found: Tested | str = tested or ""
    if tested is None and isinstance(run.summary, Summary):
        found = test_again(checkpoint, run.summary.best_sha256, data_dir, folder)
    uncertified = "" if run.certificate is None else _uncertified(run, run.certificate, found)
    if uncertified:
        uncertified = f"{shown(folder / CERTIFICATE)}: left out, because {uncertified}"
        run = dataclasses.replace(run, certificate=None)
    path = folder / FILE if out is None else out
    write_atomically(path, page(run, found, checkpoint, uncertified).encode())
    return path, [*run.faults, *filter(None, [found if isinstance(found, str) else "", uncertified])]


def _uncertified(run: RunFiles, document: dict[str, Any], found: Tested | str) -> str:
    """Why the certificate in the run's folder is not that of its network; empty if it is.

    It is that which the summary names, or, where the network has been evaluated again, one that was compared with it.
    """
    summary = run.summary
    if summary is None:
        return "there is no summary of the run that it could be compared with"
    if isinstance(summary, PacBayesSummary):
        same = document["claims"] == summary.claims and document["counts"].get("errors") == summary.draw_errors
        return "" if same else "its claims are not those in the summary"
    if isinstance(found, str):
        return "the network could not be evaluated to compare it"
    if found.uncertified is not None:
        return found.uncertified
    same = document["content_sha256"] == summary.certificate.get("content_sha256")
    return "" if same else "it is not the one that the summary names"


def _checkpoint(run: RunFiles) -> Path:
    """Path of the run's selected weights: in its folder of checkpoints, beside that of its runs."""
    named = Path("checkpoints" if run.config is None else run.config.checkpoints_dir).name
    none_selected = isinstance(run.summary, Summary) and run.summary.best_step is None
    inside = Path(named, run.name, "last.pt" if none_selected else "best.pt")
    return inside if inside.exists() else run.folder.parent.parent / inside


def page(run: RunFiles, tested: Tested | str, checkpoint: Path, uncertified: str = "") -> str:
    """The whole page, HTML that needs no other file; ``uncertified`` says why a certificate is left out."""
    found = tested.evaluation if isinstance(tested, Tested) else None
    return _template().render(
        run=run,
        summary=run.summary if isinstance(run.summary, Summary) else None,
        gaussian=run.summary if isinstance(run.summary, PacBayesSummary) else None,
        settings=settings(run),
        charts=charts(run),
        bound=max((value for _, value in run.bounds), default=0.0),
        checks=None if run.summary is None else run.summary.checks,
        epochs=_epochs(run),
        certificate=run.certificate,
        uncertified=uncertified,
        why_not=tested if isinstance(tested, str) else "",
        matrix=None if found is None else matrix(found.confusion.tolist()),
        names=_names(run, 0 if found is None else len(found.confusion)),
        counted=found,
        misread=list(misread(tested)) if isinstance(tested, Tested) else [],
        most_shown=MOST_SHOWN,
        commands=commands(run, checkpoint),
        version=__version__,
    )


@functools.cache
def _template() -> "jinja2.Template":
    """The page with places for what is out of files, which is escaped."""
    import jinja2
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        """Text, which may be out of files, escaped and in one line."""
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return Markup(escape(printable(value, 4000)).replace(" %", Markup("&nbsp;%")))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=finalize,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {each.__name__: each for each in (number, at_most, per_cent, seconds, plural)}
    environment.filters["rounded_up"] = lambda exact: percent(Fraction(exact), up=True)  # to its disadvantage
    environment.filters["confidence"] = lambda delta: confidence(Fraction(delta))
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(style)
    return environment.get_template("page.html")


def settings(run: RunFiles) -> list[tuple[str, str]]:
    """Data, network and recipe as pairs of name and value, from the configuration and the summary."""
    config, summary = run.config, run.summary
    rows: list[tuple[str, str]] = []
    if isinstance(summary, Summary):
        official = summary.data_origin == "official"
        origin = "the official files, by SHA-256" if official else "nobody vouches for these files"
        rows.append(("data", f"{summary.dataset}: {origin}"))
        counts = summary.training_examples, summary.validation_examples, summary.test_examples
        uses = "to train", "to select, cut from the training split", "to test"
        said = (f"{count:,} {use}" for count, use in zip(counts, uses, strict=True) if count is not None)
        rows.append(("images", "; ".join(said)))
    elif isinstance(summary, PacBayesSummary):
        rows.append(("data", f"{summary.dataset}: {summary.examples:,} training images that the bound is evaluated on"))
        rows.append(("network", f"{'-'.join(map(str, summary.sizes))}, its weights drawn anew for every image"))
        rows.append(("prior", f"{summary.prior}, standard deviation {summary.prior_scale}"))
        rows.append(("posterior", f"a divergence (KL) of {summary.divergence} nats from the prior"))
        spent = ", ".join(f"{name} {seconds(time)}" for name, time in summary.seconds.items())
        rows.append(("training", f"{plural(summary.steps, 'step')}; {spent}"))
    elif config is not None:
        rows.append(("data", config.dataset))
    if isinstance(config, Config):
        widths, layers = ", ".join(map(str, config.hidden)), plural(len(config.hidden), "hidden layer")
        first = f"initial weights {config.initialization}" if config.init_from is None else f"from {config.init_from}"
        rows.append(("network", f"{layers} of {widths} units, {config.activation}; {first}"))
        if isinstance(summary, Summary) and (few := summary.quantized) is not None:
            learned = f"{few.errors:,} errors in the {few.examples:,} images they could be learned from"
            rows.append(("weights", f"{plural(few.bits_a_weight, 'bit')} each, {few.bits:,} in all; {learned}"))
        momentum = f", momentum {config.momentum:g}" if config.optimizer == "sgd" and config.momentum else ""
        nesterov = " (Nesterov)" if momentum and config.nesterov else ""
        decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
        rows.append(("optimizer", f"{config.optimizer}{momentum}{nesterov}{decay}"))
        rows.append(("learning rate", f"{config.learning_rate:g}, schedule {config.schedule}"))
        rows.append(("batches", f"of {config.batch_size}, {config.epochs} epochs planned, seed {config.seed}"))
        deformed = "not deformed" if config.augment == "none" else f"deformed while training: {config.augment}"
        rows.append(("pixels", f"normalisation {config.normalization}; {deformed}"))
        rows.append(("arithmetic", f"{config.precision} on {config.device}"))
    if isinstance(summary, Summary):
        speed = f"{summary.examples_per_second:,.0f} images a second"
        rows.append(("training", f"{summary.steps:,} steps in {seconds(summary.seconds)}, {speed}"))
        if summary.torch:
            threads = "" if summary.threads is None else f", {summary.threads} thread{'s' * (summary.threads != 1)}"
            rows.append(("software", f"PyTorch {summary.torch}{threads}"))
    return rows


def _epochs(run: RunFiles) -> list[dict[str, float]]:
    names = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "divergence")
    rows = ({"epoch": math.nan, **each} for each in run.epochs[-_MOST_EPOCHS:])
    return [{name: each[name] for name in names if name in each} for each in rows]


def _names(run: RunFiles, classes: int) -> list[str]:
    """Names of the classes, which are their numbers where the summary has no others."""
    given = run.summary.class_names if isinstance(run.summary, Summary) else []
    return [printable(name, 30) for name in given] if len(given) == classes else list(map(str, range(classes)))


def matrix(confusion: list[list[int]]) -> dict[str, Any]:
    """The confusion matrix, each cell with how dark it is, and the commonest confusions in words."""
    classes = range(len(confusion))
    wrong = sorted(
        ((confusion[y][k], y, k) for y in classes for k in classes if y != k and confusion[y][k]), reverse=True
    )
    darkest = max(1, wrong[0][0]) if wrong else 1
    rows = []
    for y in classes if len(classes) <= _MOST_CLASSES else ():
        total = sum(confusion[y])
        cells = [
            {"count": n, "right": y == k, "shade": 0 if y == k or not n else round(10 + 45 * math.sqrt(n / darkest))}
            for k, n in enumerate(confusion[y])
        ]
        rows.append({"label": y, "cells": cells, "accuracy": per_cent(confusion[y][y] / total) if total else "none"})
    return {"rows": rows, "commonest": [{"count": n, "label": y, "read_as": k} for n, y, k in wrong[:5]]}


def commands(run: RunFiles, checkpoint: Path) -> list[tuple[str, str]]:
    """Commands that can be typed here, each with what it is for."""
    found: list[tuple[str, str]] = []

    def add(what: str, command: str, *arguments: str | Path) -> None:
        found.append((what, typed(f"python -m lean_mnist.{command}", *arguments)))

    train = "pacbayes" if isinstance(run.config, PacBayesConfig) else "train"
    if run.summary is None and run.config is not None:
        elsewhere = [] if run.config.runs_dir == Config.runs_dir else ["--runs-dir", run.config.runs_dir]
        add("to go on with it", train, "--resume", checkpoint.parent, *elsewhere)
    if isinstance(run.config, Config):
        by_pytorch = isinstance(run.summary, Summary) and run.summary.engine != "native"  # rounding depends on them
        threads = run.summary.threads if isinstance(run.summary, Summary) and by_pytorch else None
        add("to train it again", train, *options_of(run.config, threads))
    if run.config is not None:
        add("the same, by its file", train, "--config", run.folder / "config.json")
    if run.certificate is not None:
        add("to check the certificate from its files", "certify", "--check", run.folder / CERTIFICATE)
    if isinstance(run.summary, Summary):
        add("to evaluate it again", "evaluate", checkpoint)
        add("to see what it misreads", "render", "--checkpoint", checkpoint, "--errors", "--colour")
    add("to write this page again", "report", run.folder)
    return found


def options_of(config: Config, threads: int | None = None) -> list[str]:
    """The options of the command that starts a run as ``config`` says: its preset, and what differs from that.

    ``threads`` are those that it had, where it did not ask for any.
    """
    config = dataclasses.replace(config, threads=config.threads or threads)
    try:
        base, arguments = preset(config.preset), [] if config.preset == Config.preset else ["--preset", config.preset]
    except ConfigError:
        base, arguments = Config(), []
    for each in dataclasses.fields(Config):
        value = getattr(config, each.name)
        if each.name not in (*MAY_CHANGE_ON_RESUME, "preset") and value != getattr(base, each.name):
            arguments += arguments_of(each.name, value)
    return arguments
