"""The runs in a folder, as their files tell: a line each, or two side by side. A file that is broken is a line, too."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lean_mnist.command_line import option_name
from lean_mnist.errors import ConfigError, LeanMnistError, nearest
from lean_mnist.reading.files import opened
from lean_mnist.reading.json import read_json
from lean_mnist.reading.schema import Share, checked
from lean_mnist.reading.text import printable, shown
from lean_mnist.training.config import Config
from lean_mnist.training.sinks.live import clock

_LARGEST, _TAIL = 1 << 22, 1 << 16  # bytes: of a file, and of the end of a long one
_Text = Annotated[str, Meta(max_length=1000)]
_Decimal = Annotated[str, Meta(pattern=r"^[01](\.[0-9]{1,40})?\Z")]
_Ratio = Annotated[str, Meta(pattern=r"^[0-9.e/+-]{1,60}\Z")]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Number = Annotated[int, Meta(ge=0, le=10**12)]


# What is read of a summary.json, of a run of either kind; other fields are of no concern here.
class _Claim(msgspec.Struct):
    risk: _Decimal
    delta: _Ratio
    vacuous: bool = False


class _Certificate(msgspec.Struct):
    claims: list[_Claim] = msgspec.field(default_factory=list)


class _Checks(msgspec.Struct):
    comparisons: _Number
    failures: _Number
    screens: _Number = 0
    gradchecks: _Number = 0


class _Summary(msgspec.Struct):
    dataset: _Text
    checks: _Checks
    seconds: _Seconds | Annotated[dict[_Text, _Seconds], Meta(max_length=100)]
    certificate: _Certificate | str | None = None
    claims: list[_Claim] = msgspec.field(default_factory=list)  # of a PAC-Bayes run
    test_accuracy: Share | None = None
    test_risk: Share | None = None
    validation_accuracy: Share | None = None
    steps: _Number | None = None


@dataclass(frozen=True)
class ListedRun:
    """A run as its files tell; ``problem`` says why there is nothing more to tell."""

    name: str
    folder: str
    problem: str = ""
    dataset: str | None = None
    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    certified_risk: str | None = None  # decimal, at ``certified_delta``
    certified_delta: str | None = None
    checks: dict[str, int] | None = None
    seconds: float | None = None
    steps: int | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of its config.json

    def cells(self) -> list[str]:
        """Data set, test accuracy, certified risk, checks and time, for people."""
        time = "" if self.seconds is None else clock(self.seconds)
        return [printable(self.dataset or "", 13), _percent(self.test_accuracy), self.risk(), self.checked(), time]

    def risk(self) -> str:
        """The certified risk, rounded up."""
        if self.certified_risk is None:
            return "none" if self.checks else ""
        risk = (100 * Decimal(self.certified_risk)).quantize(Decimal("0.01"), ROUND_CEILING)
        return f"≤ {risk} %" if risk < 100 else "vacuous"

    def checked(self) -> str:
        """Number of checks, or of those that failed."""
        if self.checks is None:
            return ""
        failed, done = self.checks["failures"], sum(self.checks.values()) - self.checks["failures"]
        return f"{failed:,} FAILED" if failed else f"{done:,} passed" if done else "none"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def find_runs(runs_dir: str | Path) -> list[ListedRun]:
    """The runs in ``runs_dir``, oldest first; raises ``ConfigError`` where that cannot be read.

    The folder that runs have where nothing else is said need not be there yet.
    """
    if str(runs_dir) == Config.runs_dir and not os.path.lexists(runs_dir):
        return []
    try:
        with os.scandir(runs_dir) as entries:
            folders = [Path(entry.path) for entry in entries if os.path.isdir(entry.path)]
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or printable(error)
        raise ConfigError(f"{shown(Path(runs_dir))}: expected a folder of runs, found: {reason}") from None
    return [read_run(folder) for folder in sorted(folders, key=lambda folder: (_begun(folder), folder.name))]


def find_run(which: str, runs_dir: str | Path) -> ListedRun:
    """The run of this name or folder; raises ``ConfigError``, with the nearest name, or what is wrong with it."""
    for folder in (Path(runs_dir, which), Path(which)):
        if which and "\0" not in which and os.path.isdir(folder):
            run = read_run(Path(os.path.abspath(folder)) if not folder.name else folder)
            if run.problem and not run.options:
                raise ConfigError(f"{shown(folder)}: {run.problem}")
            return run
    near = nearest(printable(which, 100), [run.name for run in find_runs(runs_dir)])
    raise ConfigError(f"{printable(which)}: expected the name or folder of a run in {shown(Path(runs_dir))}{near}")


def read_run(folder: Path) -> ListedRun:
    """A run as the files in ``folder`` tell of it; never raises for what is in them."""
    run = ListedRun(folder.name, str(folder))
    try:
        options = read_json(folder / "config.json", "a run's config.json", ConfigError, largest=_LARGEST)
        if not isinstance(options, dict):
            raise ConfigError(f"{shown(folder / 'config.json')}: expected names and values")
        dataset = options.get("dataset")
        run = dataclasses.replace(run, options=options, dataset=dataset if isinstance(dataset, str) else None)
        if not os.path.lexists(folder / "summary.json"):
            return dataclasses.replace(run, problem=_unfinished(folder, options))
        found = read_json(folder / "summary.json", "a run's summary.json", ConfigError, largest=_LARGEST)
        return _summed_up(run, checked(found, _Summary, shown(folder / "summary.json"), "", ConfigError))
    except LeanMnistError as error:
        return dataclasses.replace(run, problem=str(error).removeprefix(f"{shown(folder)}{os.sep}"))


def _summed_up(run: ListedRun, found: _Summary) -> ListedRun:
    claims = found.certificate.claims if isinstance(found.certificate, _Certificate) else found.claims
    certified = next((claim for claim in claims if not claim.vacuous), claims[0] if claims else None)
    accuracy = None if found.test_risk is None else 1 - found.test_risk
    return dataclasses.replace(
        run,
        dataset=found.dataset,
        test_accuracy=accuracy if found.test_accuracy is None else found.test_accuracy,
        validation_accuracy=found.validation_accuracy,
        certified_risk=None if certified is None else certified.risk,
        certified_delta=None if certified is None else certified.delta,
        checks=msgspec.structs.asdict(found.checks),
        seconds=sum(found.seconds.values()) if isinstance(found.seconds, dict) else found.seconds,
        steps=found.steps,
    )


def _unfinished(folder: Path, options: dict[str, Any]) -> str:
    """Last epoch in the records of a run without summary."""
    epochs, last = options.get("epochs"), None
    of = f" of {epochs}" if isinstance(epochs, int) and 0 < epochs < 1 << 53 else ""
    try:
        with opened(folder / "metrics.jsonl", "a run's metrics.jsonl", ConfigError) as (file, size):
            file.seek(max(0, size - _TAIL))
            lines = (file.read(_TAIL) or b"").split(b"\n")
    except LeanMnistError:
        return "not finished"
    for line in lines:
        try:
            record = json.loads(line)
            if record["name"] == "epoch" and isinstance(number := record["value"]["epoch"], int):
                last = number
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut off by where we began to read, or by the end of the run
    return "not finished" if last is None else f"not finished: epoch {printable(last, 20)}{of} is done"


def _begun(folder: Path) -> float:
    try:
        return (folder / "config.json").stat().st_mtime
    except OSError:
        return 0.0


_HEADS = ("run", "data", "test", "certified", "checks", "time")
_NAME = 28  # columns


def table(runs: Sequence[ListedRun]) -> str:
    """A line a run, at most 80 columns wide."""
    rows = [[_name(run.name), *([] if run.problem else run.cells())] for run in runs]
    widths = [max([len(head), *(len(row[i]) for row in rows if i < len(row))]) for i, head in enumerate(_HEADS)]
    lines = [_row(_HEADS, widths)]
    for run, row in zip(runs, rows, strict=True):
        left = 80 - widths[0] - 2
        lines.append(f"{row[0]:<{widths[0]}}  {printable(run.problem, left)}" if run.problem else _row(row, widths))
    if any(run.certified_risk for run in runs):
        lines += ["", "certified: risk on unseen data, by the first claim of the run's certificate"]
    return "\n".join(lines)


def _name(name: str) -> str:
    """``name`` escaped and cut in its middle, as it is its end that tells runs apart."""
    line = printable(name, 1000)
    return line if len(line) <= _NAME else f"{line[:12]}…{line[13 - _NAME :]}"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (f"{cell:<{width}}" for cell, width in zip(cells[:2], widths, strict=False))
    right = (f"{cell:>{width}}" for cell, width in zip(cells[2:], widths[2:], strict=True))
    return "  ".join([first, *others, *right]).rstrip()


def side_by_side(runs: Sequence[ListedRun]) -> str:
    """The figures of one run or several, and of several the options that differ."""
    rows: list[tuple[str, list[str]]] = [("", [_name(run.name) for run in runs])]
    columns = zip(*(run.cells() for run in runs), strict=True)
    rows += [(title, list(cells)) for title, cells in zip(_HEADS[1:], columns, strict=True)]
    rows.insert(3, ("validation", [_percent(run.validation_accuracy) for run in runs]))
    rows.insert(5, ("confidence", [f"1 - {run.certified_delta}" if run.certified_delta else "" for run in runs]))
    rows.append(("problem", [printable(run.problem, 60) for run in runs]))
    rows = [(title, cells) for title, cells in rows if any(cells)]
    options = differing(runs)
    rows += [("", [""] * len(runs))] if options else []
    rows += [(printable(option_name(name), 40), [*map(_value, values)]) for name, values in options.items()]
    lines = [[title, *cells] for title, cells in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ((f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def differing(runs: Sequence[ListedRun]) -> dict[str, list[Any]]:
    """Options that differ between ``runs``, but for their names: the value in each; all of them for one run alone."""
    names = dict.fromkeys(name for run in runs for name in run.options if name != "run_name")
    values = {name: [run.options.get(name) for run in runs] for name in names}
    alone = len(runs) == 1
    return {name: found for name, found in values.items() if alone or any(value != found[0] for value in found[1:])}


def _value(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(" ".join(map(str, value)) if isinstance(value, list) else value, 40)
