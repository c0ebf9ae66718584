"""``python -m benchmarks.wild``: put ``check_function`` to published packages, and write ``docs/wild.md``.

The packages are the extra ``wild`` of ``setup.cfg``, versions pinned there only; one that is not installed is listed as
not run. Exits with 3 if an outcome is not the expected one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wild.case import Case
from benchmarks.wild.cases import all_cases
from benchmarks.wild.document import document, summary
from benchmarks.wild.outcome import Outcome, is_expected
from benchmarks.wild.process import run
from lean_mnist.command_line import parse, run_command
from lean_mnist.errors import ConfigError

UNEXPECTED = 3  # exit status


@dataclass(frozen=True)
class WildArguments:
    """Check the hand-written gradients of published packages."""

    only: tuple[str, ...] = ()
    """Only cases whose package:name contains one of these words."""
    list: bool = False
    """Print the cases, and check none."""
    output: str | None = None
    """Write the record to this file: docs/wild.md."""
    seed: int = 0
    """Of inputs and probes."""
    device: str = "cpu"
    """Device of tensors and modules that name none themselves."""
    limit: float = 120.0
    """Seconds that one case may take."""


def chosen(words: Sequence[str]) -> list[Case]:
    """The cases of which one of ``words`` is a part of ``package:name``; all, if there are none."""
    cases = [case for case in all_cases() if not words or any(word.lower() in case.key.lower() for word in words)]
    if not cases:
        raise ConfigError(f"--only: no case has {' or '.join(words)} in its package:name; --list prints them")
    return cases


def report(cases: Sequence[Case], outcomes: Sequence[Outcome], output: str | None) -> int:
    """Print what was not expected and the counts, write the record, and give the exit status."""
    pairs = list(zip(cases, outcomes, strict=True))
    unexpected = [(case, outcome) for case, outcome in pairs if not is_expected(case, outcome)]
    for case, outcome in unexpected:
        print(f"unexpected: {case.key}: {outcome.observed.value}, expected {case.expect.value}: {outcome.said}")
    print("\n".join(summary(pairs)))
    if output is not None:
        Path(output).write_text(document(pairs), encoding="utf-8")
    return UNEXPECTED if unexpected else 0


def main() -> None:
    """Read the command line, check, print, write."""
    arguments = parse(WildArguments, sys.argv[1:], prog="python -m benchmarks.wild")
    cases = chosen(arguments.only)
    if arguments.list:
        print("\n".join(f"{case.key}: {case.expect.value}" for case in cases))
        return
    outcomes: list[Outcome] = []
    for outcome in run(cases, arguments.seed, arguments.limit, arguments.device):
        outcomes.append(outcome)
        case = cases[len(outcomes) - 1]
        mark = "" if is_expected(case, outcome) else "  UNEXPECTED"
        print(f"{len(outcomes)}/{len(cases)} {case.key}: {outcome.observed.value}{mark}", file=sys.stderr, flush=True)
    sys.exit(report(cases, outcomes, arguments.output))


if __name__ == "__main__":
    run_command(main)
