"""The record as Markdown: a table a package, counts, and what was not as expected."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from itertools import groupby

import torch

from benchmarks.wild.case import Case, Expect
from benchmarks.wild.outcome import Observed, Outcome, is_expected

Pairs = Sequence[tuple[Case, Outcome]]
HEAD = ("Function", "verdict", "what it is", "what was found")


def version(package: str) -> str:
    """The installed version, or that it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def summary(pairs: Pairs) -> list[str]:
    """Counts, in lines of text."""
    ran = [(case, outcome) for case, outcome in pairs if outcome.observed is not Observed.NOT_RUN]
    packages = {case.package for case, _ in ran}
    classes = Counter(case.expect for case, _ in ran)
    false_errors = sum(o.observed is Observed.ERROR and case.expect is not Expect.BUG for case, o in ran)
    crashes = sum(o.observed is Observed.CRASH for _, o in ran)
    missed = sum(o.observed is not Observed.ERROR and case.expect is Expect.BUG for case, o in ran)
    other = sum(not is_expected(case, o) for case, o in ran) - false_errors - crashes - missed
    return [
        f"{len(ran)} Functions and operations of {len(packages)} packages, checked in "
        f"{sum(outcome.seconds for _, outcome in ran):.0f} s on one thread: "
        + ", ".join(f"{classes[expect]} {expect.value}" for expect in Expect if classes[expect]) + ".",
        f"{false_errors} false errors, {crashes} crashes, {missed} bugs missed, {other} other surprises; "
        f"{len(pairs) - len(ran)} not run.",
    ]  # fmt: skip


def verdict(case: Case, outcome: Outcome) -> str:
    """The verdict of ``check_function``, in a cell."""
    said = outcome.observed.value
    if outcome.observed is Observed.PASSED and case.expect is Expect.INTENDED:
        said = "passed, with a line of intent" if outcome.notes else "passed"
    rules = outcome.errors or outcome.warnings
    if rules:
        said = f"{'ERROR' if outcome.errors else 'WARNING'}: {', '.join(rules)}"
    return said if is_expected(case, outcome) else f"**{said}** (not expected)"


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def found(case: Case, outcome: Outcome) -> str:
    """The fact, and after it what the checker said of a bug or of what was not expected."""
    if outcome.observed is Observed.NOT_RUN:
        return f"not run: {outcome.said}"
    shown = outcome.said and (case.expect is Expect.BUG or not is_expected(case, outcome))
    return f"{case.fact}. `{outcome.said.replace('`', '')}`" if shown else case.fact


def document(pairs: Pairs) -> str:
    """The whole record."""
    lines = [
        "# Gradients in other people's code", "",
        "`check_function` put to hand-written gradients of published packages: what is right, what is a bug, what is a",
        "limit, and what is intended. Facts about the versions named here, on the date of the record; a later version",
        "may have mended them. *Intended* gradients are asked with `intended=` or `derivative_of=`, as their authors",
        "document them, iterative ones with `tolerance=`; formulas that a package gives to `torch.compile` were run",
        "eagerly. The cases, each of some lines, are in `benchmarks/wild/cases/`; this file is written by", "",
        "    pip install -e '.[wild]'",
        "    python -m benchmarks.wild --output docs/wild.md", "",
        f"Made on {datetime.date.today().isoformat()} with PyTorch {torch.__version__}, Python "
        f"{platform.python_version()}, on a CPU{' and a GPU' * torch.cuda.is_available()}.", "",
        *summary(pairs), "",
    ]  # fmt: skip
    bugs = [case for case, outcome in pairs if case.expect is Expect.BUG and outcome.observed is Observed.ERROR]
    lines += ["## First-order bugs", "", *(f"- {case.package}, `{case.name}`: {case.fact}." for case in bugs), ""]
    for package, group in groupby(pairs, key=lambda pair: pair[0].package):
        lines += [f"## {package} {version(package)}", "", row(HEAD), "|---" * len(HEAD) + "|"]
        for case, outcome in group:
            lines.append(row((f"`{case.name}`", verdict(case, outcome), case.expect.value, found(case, outcome))))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
