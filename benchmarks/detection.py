"""``python -m benchmarks.detection``: which planted bugs do today's protocols catch, and which do ours?

Every mutant of ``lean_mnist.mutants`` is planted in turn and put to each protocol. Those of today look at
one static call; ours watch a short training run and put ``check_function`` to a few calls. Run single-threaded.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lean_mnist.command_line import parse, run_command

SCREEN, TRAINING, FUNCTION, OURS = "screen, every step", "screen + audit", "check_function", "ours together"


@dataclass(frozen=True)
class DetectionArguments:
    """Plant every bug of the corpus and see which protocol catches it."""

    seeds: int = 2
    """Repetitions, each with weights, data and probes of its own; caught means caught in every one."""
    json: bool = False
    """Print one JSON document."""
    write: str | None = None
    """Also write the table, as Markdown, to this file: docs/detection.md."""


@dataclass(frozen=True)
class Matrix:
    """``counts[mutant][protocol]`` is in how many of ``seeds`` runs it was caught; ``alarms`` is of correct code."""

    mutants: tuple[Any, ...]
    protocols: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    alarms: dict[str, tuple[int, int]]  # refused, asked
    seeds: int
    seconds: float

    def caught(self, protocol: str, after_freeze: bool | None = None) -> tuple[int, int]:
        """Caught in every run, of how many; all mutants, or those written before or after the freeze."""
        chosen = [m for m in self.mutants if after_freeze is None or m.held_out == after_freeze]
        return sum(self.counts[m.name][protocol] == self.seeds for m in chosen), len(chosen)

    def cell(self, mutant: str, protocol: str) -> str:
        """``yes`` if it was caught, ``–`` if not, or in how many of the runs."""
        count = self.counts[mutant][protocol]
        return {self.seeds: "yes", 0: "–"}.get(count, f"{count}/{self.seeds}")

    def totals(self) -> list[tuple[str, ...]]:
        """One row a protocol."""
        head = ("", "protocol", "caught", "written before the freeze", "after it", "refuses correct code")
        rows: list[tuple[str, ...]] = [head]
        for number, protocol in enumerate(self.protocols, start=1):
            parts = [self.caught(protocol, which) for which in (None, False, True)]
            refused, asked = self.alarms[protocol]
            rows.append(
                (str(number), protocol, *(f"{caught}/{of}" for caught, of in parts), f"{refused} of {asked} times")
            )
        return rows

    def matrix(self) -> list[tuple[str, ...]]:
        """One row a mutant; protocols by the number they have in ``totals``."""
        head = ("planted bug", "shows", *(str(number + 1) for number in range(len(self.protocols))))
        return [head, *((m.name, m.condition, *(self.cell(m.name, p) for p in self.protocols)) for m in self.mutants)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "environment": environment(),
            "seeds": self.seeds,
            "totals": {p: dict(zip(("caught", "of"), self.caught(p), strict=True)) for p in self.protocols},
            "false_alarms": {p: dict(zip(("refused", "asked"), self.alarms[p], strict=True)) for p in self.protocols},
            "mutants": {m.name: {"condition": m.condition, **self.counts[m.name]} for m in self.mutants},
        }


def measure(mutants: tuple[Any, ...], seeds: int, progress: Callable[[int, int, str], None]) -> Matrix:
    """Run every protocol on every mutant, and on correct code, ``seeds`` times."""
    from benchmarks.detection_protocols import PROTOCOLS
    from lean_mnist.mutants import CONDITIONS

    started = time.perf_counter()
    protocols = (*PROTOCOLS, SCREEN, TRAINING, FUNCTION, OURS)
    counts = {m.name: dict.fromkeys(protocols, 0) for m in mutants}
    # A network a condition, and correct code once with each.
    correct = {(CONDITIONS[m.condition].network, CONDITIONS[m.condition].dtype): m.condition for m in mutants}
    alarms = dict.fromkeys(protocols, 0)
    total = seeds * (len(correct) + len(mutants))
    for seed in range(seeds):
        for number, condition in enumerate(correct.values()):
            progress(seed * (total // seeds) + number, total, f"seed {seed}, nothing planted")
            for protocol in _refusals(None, condition, seed):
                alarms[protocol] += 1
        for number, mutant in enumerate(mutants):
            progress(seed * (total // seeds) + len(correct) + number, total, f"seed {seed}, {mutant.name}")
            for protocol in _refusals(mutant, mutant.condition, seed):
                counts[mutant.name][protocol] += 1
    progress(total, total, "")
    asked = seeds * len(correct)
    seconds = time.perf_counter() - started
    return Matrix(mutants, protocols, counts, {p: (alarms[p], asked) for p in protocols}, seeds, seconds)


def _refusals(mutant: Any, condition: str, seed: int) -> set[str]:
    """The protocols that refuse the network of ``condition`` with ``mutant`` planted; a fresh plant for each."""
    from benchmarks.detection_protocols import PROTOCOLS, refused
    from lean_mnist.mutants import CONDITIONS, planted
    from lean_mnist.mutants.selftest import refused as refused_by_check_function
    from lean_mnist.mutants.situations import cases
    from lean_mnist.mutants.training import train_and_check

    def plant() -> Any:
        return contextlib.nullcontext() if mutant is None else planted(mutant)

    network, dtype = CONDITIONS[condition].network, CONDITIONS[condition].dtype
    found = set()
    for protocol in PROTOCOLS:
        with plant():
            if refused(protocol, network, seed):
                found.add(protocol)
    try:
        with plant():
            first = train_and_check(None, network, seed=seed, dtype=dtype, stop="screen").first
    except (RuntimeError, IndexError, ValueError):
        first = dict.fromkeys((SCREEN, TRAINING), 1)
    found |= ({SCREEN} if "screen" in first else set()) | ({TRAINING} if first else set())
    # The case that brings the condition about, and the plain ones; all of them for every mutant would take too long.
    wanted = [case for case in cases() if case.condition in (condition, "always", "upstream varies")]
    for case in sorted(wanted, key=lambda case: case.condition != condition):
        with plant():
            if refused_by_check_function(case.function, case.reference, case.inputs, seed):
                found.add(FUNCTION)
                break
    return found | ({OURS} if found & {TRAINING, FUNCTION} else set())


def environment() -> str:
    """Hardware and versions, in one line."""
    import torch

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if named := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            processor = named[1]
    return f"{processor}, one thread; Python {platform.python_version()}, PyTorch {torch.__version__}"


def text(rows: list[tuple[str, ...]]) -> list[str]:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    """A table for a document."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def document(matrix: Matrix) -> str:
    """The whole of docs/detection.md."""
    from lean_mnist.mutants.training import AUDIT_EVERY, GRADCHECK_EVERY, STEPS

    sources = [(m.name, m.description, m.source) for m in matrix.mutants if m.source]
    descriptions = [(m.name, m.group, m.description, m.equivalent_when or "never") for m in matrix.mutants]
    return "\n".join(
        [
            "# What catches a wrong gradient",
            "",
            *_paragraph(
                f"{len(matrix.mutants)} bugs planted, one at a time, in the hand-written backward of this package, and",
                "put to the protocols that people use today (1 to 8) and to ours (9 to 12). Written by",
            ),
            f"    OMP_NUM_THREADS=1 python -m benchmarks.detection --seeds {matrix.seeds} --write docs/detection.md",
            "",
            *_paragraph(f"on {environment()}. {_seeds(matrix)}; *caught* means caught with every seed."),
            *markdown(matrix.totals()),
            "",
            *_paragraph(
                "The protocols of today look at one static call of the loss and at one of the logits; a bug is caught",
                "if either is refused. *Tiny* is a batch of 3 with widths of 3 to 5, in float64; *MNIST size* is a",
                "batch of 64 with 784 features, and the hidden layers and classes of the training run. Comparisons are",
                "with PyTorch's autograd of the same network, after `.sum().backward()` where no other upstream",
                "gradient is said.",
            ),
            *_paragraph(
                f"Ours: a run of {STEPS} steps on scikit-learn's digits, until they are known by heart. Some of its",
                "steps are not ordinary: batches are accumulated, ragged, of one example, as large as a layer is wide;",
                "units are pruned to exact zeros or rest just above the kink; an outlier saturates everything. The",
                "*screen* looks at every step. The *audit* compares with the float64 reference, and makes every",
                "local check of the step, at the first and every",
                f"{AUDIT_EVERY}th step, and runs gradcheck on a piece of the network at the first and every",
                f"{GRADCHECK_EVERY}th. `check_function` is put to five of our Functions as they are, and in the",
                "layout, shape or reduction of `lean_mnist/mutants/situations.py` that brings the bug's",
                "condition about.",
            ),
            *_paragraph(
                "*Refuses correct code*: how often a protocol fails with nothing planted, over the same networks and",
                "seeds. Bugs *after the freeze* were written when all the others had been measured; 25 of the 26 were",
                "caught with the rules as they stood. The one that was not, and one of the others, are about autocast,",
                "and led to a sharper rule. Thresholds have also changed since for other reasons: against false alarms",
                "where terms cancel, and to see smaller errors (`benchmarks.sensitivity`).",
            ),
            *_paragraph(
                "A bug is one entry in `lean_mnist/mutants/corpus/`: its name, its class, the part of a backward that",
                "it changes, and the condition under which it shows. `lean_mnist.mutants.planted(name)` plants one of",
                "them for the length of a `with`, `planting(target, replacement)` anything else in the package.",
            ),
            "## Bug by bug",
            "",
            "Columns are the protocols of the table above; *yes* is caught, *–* is missed.",
            "",
            *markdown(matrix.matrix()),
            "",
            *functions_section(),
            "## Replayed from shipped code",
            "",
            *markdown([("bug", "what was wrong", "report"), *sources]),
            "",
            "## What each bug is",
            "",
            *markdown([("bug", "group", "what is wrong", "right after all when"), *descriptions]),
            "",
        ]
    )


def functions_section() -> list[str]:
    """The whole Functions of the self-test, which no protocol of the table can be put to."""
    from lean_mnist.mutants import FUNCTION_MUTANTS
    from lean_mnist.mutants.obligations import FAULTS

    obligations = {name for fault in FAULTS for name in fault.fails}
    rows = [(m.name, m.group, m.condition, m.description.replace("``", "`")) for m in FUNCTION_MUTANTS]
    return [
        "## Whole Functions",
        "",
        *_paragraph(
            f"Another {len(rows)} are Functions of their own, in situations that ours never meet. Each is written",
            "twice, right and faulty; `python -m lean_mnist.verify --selftest` puts both to the same check, which must",
            f"pass the one and refuse the other. It also plants {len(FAULTS)} faults in what the {len(obligations)}",
            "obligations of `verify` check, at least one for each, and all are found.",
        ),
        *markdown([("bug", "group", "shows", "what is wrong"), *rows]),
        "",
    ]


def _seeds(matrix: Matrix) -> str:
    return f"{matrix.seeds} seed{'s' if matrix.seeds > 1 else ''}"


def _paragraph(*parts: str) -> list[str]:
    return [*textwrap.wrap(" ".join(parts), 120, break_on_hyphens=False), ""]


def _progress(done: int, total: int, following: str) -> None:
    if sys.stderr.isatty():
        line = f"{done} of {total}{f', {following}' if following else ''}"
        sys.stderr.write(f"\r{line:<79}" + ("" if following else "\r" + " " * 79 + "\r"))
    elif not following or done % 25 == 0:
        sys.stderr.write(f"{done} of {total}{f': {following}' if following else ''}\n")
    sys.stderr.flush()


def main() -> None:
    """Read the command line, measure, print."""
    arguments = parse(DetectionArguments, sys.argv[1:], prog="python -m benchmarks.detection")
    import torch

    from lean_mnist.errors import ConfigError
    from lean_mnist.mutants import MUTANTS

    if arguments.seeds < 1:
        raise ConfigError(f"--seeds: expected at least 1, found {arguments.seeds}")
    torch.set_num_threads(1)
    matrix = measure(MUTANTS, arguments.seeds, _progress)
    if arguments.write is not None:
        Path(arguments.write).write_text(document(matrix), encoding="utf-8")
    if arguments.json:
        print(json.dumps(matrix.to_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join([*text(matrix.matrix()), "", *text(matrix.totals()), "", environment()]))
        print(f"{_seeds(matrix)}, {matrix.seconds:.0f} s")


if __name__ == "__main__":
    run_command(main)
