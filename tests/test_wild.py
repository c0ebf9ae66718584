"""The record of other people's gradients: its cases, its document, and that a surprise is one."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.figures import ROOT
from benchmarks.wild.__main__ import UNEXPECTED, chosen, report
from benchmarks.wild.case import Call, Case, Expect, normal
from benchmarks.wild.cases import all_cases
from benchmarks.wild.document import HEAD, document
from benchmarks.wild.outcome import Observed, Outcome, is_expected, judge
from benchmarks.wild.process import run
from lean_mnist.errors import ConfigError
from tests.support.wild_cases import Doubled, Rounded, Tripled

CASES = all_cases()


def a_case(expect: Expect, build: Callable[[], Call]) -> Case:
    return Case("ours", "Function", expect, "a fact", build)


def calling(function: Callable[[Tensor], Any], **options: Any) -> Callable[[], Call]:
    return lambda: Call(function, [normal(3, 4)], options=options)


def raising() -> Call:
    raise RuntimeError("out of order")


def not_installed() -> Call:
    raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")


RIGHT = a_case(Expect.RIGHT, calling(Doubled.apply))
WRONG = a_case(Expect.BUG, calling(Tripled.apply))
INTENDED = a_case(Expect.INTENDED, calling(Rounded.apply, intended="straight-through"))


def pins() -> dict[str, str]:
    """Package and version of each line of the extra ``wild``."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.extras_require"]["wild"].split()
    return dict(line.split("==") for line in lines)


def test_there_are_a_hundred_functions_of_twenty_five_packages() -> None:
    assert len(CASES) >= 100
    assert len({case.package for case in CASES}) >= 25


def test_a_case_has_a_name_and_a_fact_of_one_sentence() -> None:
    assert [case.key for case in CASES if not re.fullmatch(r"[\w.,:=/\-^() ]+", case.name)] == []
    assert [case.key for case in CASES if not case.fact or case.fact.endswith(".")] == []


def test_every_package_is_pinned_and_every_pin_is_used() -> None:
    assert set(pins()) == {case.package for case in CASES} - {"torch"}


@pytest.mark.parametrize(
    ("case", "observed"), [(RIGHT, Observed.PASSED), (WRONG, Observed.ERROR), (INTENDED, Observed.PASSED)]
)
def test_what_is_known_is_expected(case: Case, observed: Observed) -> None:
    outcome = judge(case)
    assert outcome.observed is observed
    assert is_expected(case, outcome)


@pytest.mark.parametrize(
    "case",
    [
        replace(WRONG, expect=Expect.RIGHT),
        replace(RIGHT, expect=Expect.BUG),
        replace(RIGHT, expect=Expect.SECOND),
        replace(RIGHT, expect=Expect.CONTRACT),
        replace(RIGHT, expect=Expect.LIMIT),
        a_case(Expect.INTENDED, calling(Rounded.apply)),
        a_case(Expect.RIGHT, raising),
        a_case(Expect.RIGHT, calling(lambda x: x.detach())),
    ],
)
def test_a_surprise_is_reported_and_is_the_exit_status(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = judge(case)
    assert report([case], [outcome], None) == UNEXPECTED
    assert "unexpected: ours:Function" in capsys.readouterr().out
    assert "(not expected)" in document([(case, outcome)])


def test_no_surprise_is_exit_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([RIGHT], [judge(RIGHT)], None) == 0
    assert "0 false errors, 0 crashes, 0 bugs missed" in capsys.readouterr().out


def test_a_package_that_is_not_installed_is_named_and_no_surprise() -> None:
    case = a_case(Expect.RIGHT, not_installed)
    outcome = judge(case)
    assert outcome.observed is Observed.NOT_RUN
    assert is_expected(case, outcome)
    assert "not run: nowhere is not installed" in document([(case, outcome)])


def test_a_kernel_without_a_gpu_is_named_and_no_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = judge(replace(RIGHT, needs_gpu=True))
    assert (outcome.observed, outcome.said) == (Observed.NOT_RUN, "needs a GPU")


def test_the_tables_have_one_cell_a_column() -> None:
    odd = replace(RIGHT, fact="|x| is a fact")
    tables = [line for line in document([(odd, judge(odd)), (WRONG, judge(WRONG))]).splitlines() if "|" in line]
    assert len(tables) == 4
    assert "- ours, `Function`: a fact." in document([(WRONG, judge(WRONG))])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {len(HEAD) + 1}


def test_an_outcome_survives_its_line_of_json() -> None:
    outcome = judge(WRONG)
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_a_case_is_asked_in_a_process_of_its_own() -> None:
    case = next(case for case in CASES if case.key == "torch:silu")
    (outcome,) = run([case], 0, 120.0, "cpu")
    assert (outcome.name, outcome.observed) == ("silu", Observed.PASSED)


def test_a_process_that_ends_is_a_crash_of_its_case_and_the_next_is_asked() -> None:
    case = next(case for case in CASES if case.key == "torch:silu")
    crash, after = run([replace(case, name="no such case"), case], 0, 120.0, "cpu")
    assert crash.observed is Observed.CRASH
    assert "ended with status 1" in crash.said
    assert after.observed is Observed.PASSED


def test_a_word_without_a_case_is_refused() -> None:
    with pytest.raises(ConfigError, match="no case has nonsense"):
        chosen(["nonsense"])


def test_the_command_lists_its_cases() -> None:
    command = [sys.executable, "-m", "benchmarks.wild", "--list", "--only", "peft:"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "peft:HadaWeightCP: first-order bug" in listed


def test_the_record_is_of_the_pinned_versions() -> None:
    record = (ROOT / "docs" / "wild.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^## (\S+) (\S+)$", record, re.MULTILINE)).items() >= pins().items()
