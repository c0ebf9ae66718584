"""Reports in ten lines, in full, as JSON, and what they say to do next."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lean_mnist.crosscheck import RULES, check_function
from lean_mnist.crosscheck.diagnosis import Diagnosis, Kind
from lean_mnist.crosscheck.report import Finding, FunctionReport, ModuleReport, Severity, Verdict, failed
from lean_mnist.crosscheck.report.advice import MEND
from tests.support.planted_faults import OTHER, WRONG_VALUES

PAGE = Path(__file__).parents[2] / "docs" / "failed_rules.md"


def report_of(name: str, **options: Any) -> Any:
    fault = {**WRONG_VALUES, **OTHER}[name]
    return check_function(fault.function, fault.reference, fault.inputs(), seed=1, **options)


def test_each_rule_has_its_section_and_its_words() -> None:
    sections = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    others = {"backward", "compiled", "sharded"}  # of which the last two are other checks' only
    assert sorted(sections) == sorted({*RULES, *others})
    assert set(MEND) == {*RULES, *others, "reference"}


@pytest.mark.parametrize("name", ["sign", "not a number", "views it", "second derivative silently zero", "None"])
def test_a_report_is_some_ten_lines(name: str) -> None:
    report = report_of(name)
    lines = str(report).splitlines()
    assert len(lines) <= 14
    wrong = {f.rule for f in report.findings if f.verdict is Verdict.FAILED}
    assert all(rule in str(report) for rule in {*RULES} - {"Taylor test"}), "every rule is named"
    assert sum(line.lstrip().startswith("next: ") for line in lines) >= 1
    (passed,) = (line for line in lines if line.startswith("  passed: "))
    assert not wrong & set(passed.removeprefix("  passed: ").split(", "))
    assert len(report.details().splitlines()) == 1 + len(report.findings) + 1


def test_one_line_where_a_gradient_is_wrong_by_many_rules() -> None:
    text = str(report_of("factor 2"))
    assert text.count("ERROR  gradient of input 1") == 1
    assert "ERROR  also: JVP-VJP product (input 1), finite differences (input 1), Taylor test (input 1)" in text
    assert text.count("next: mend the backward") == 1
    assert 'intended="surrogate", or derivative_of=' in text


def test_what_a_rule_says_of_the_cause_comes_first() -> None:
    gradient = Finding(Verdict.FAILED, "off", "x", Diagnosis(Kind.MASK, "another", "", (), 0.0, 1.0), "gradient")
    cause = Finding(Verdict.FAILED, "its own", "x", rule="random numbers", points_to=Kind.RANDOM_NUMBERS)
    assert "\n  likely cause of all: random numbers\n  ERROR  gradient, x" in str(FunctionReport((gradient, cause)))
    assert "likely cause" not in str(FunctionReport((gradient,)))


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("second derivative silently zero", "double backward", "add @once_differentiable to the backward"),
        ("views it", "upstream layout", 'call .contiguous() on it first; if it is meant to be so: skip=["upstream lay'),
        ("scale 1.0001", "gradient", "or tolerance=2e-04 for an iterative solver"),
    ],
)
def test_the_words_to_type(name: str, rule: str, words: str) -> None:
    findings = [f for f in report_of(name).findings if f.verdict is Verdict.FAILED and f.rule == rule]
    assert words in findings[0].next_step


def test_what_is_skipped_as_the_report_says_fails_no_more() -> None:
    report = report_of("views it", fail_on="warning")
    (skip,) = {re.findall(r'skip=\["(.*)"\]', finding.next_step)[0] for finding in report.failures}
    assert report_of("views it", fail_on="warning", skip=[skip]).ok


def test_nothing_is_said_to_do_where_nothing_failed() -> None:
    report = check_function(torch.sin, torch.sin, [torch.randn(3, 2, requires_grad=True)], seed=1)
    assert "next:" not in str(report)
    assert not any(finding.next_step for finding in report.findings)


def test_json() -> None:
    document = json.loads(report_of("not a number").to_json())
    assert (document["format"], document["version"]) == ("lean_mnist check report", 1)
    assert (document["verdict"], document["ok"], document["likely_kind"]) == ("FAILED", False, "NaN")
    assert document["judged_by"]["input 0"]
    wrong = next(f for f in document["findings"] if f["verdict"] == "FAILED")
    assert (wrong["rule"], wrong["subject"], wrong["severity"]) == ("gradient", "input 1", "error")
    assert wrong["divergence"]["value"] in ("inf", "nan")
    assert wrong["diagnosis"]["kind"] == "NaN"
    assert wrong["next_step"].startswith("mend")


def test_unknown_rules_still_say_something() -> None:
    report = FunctionReport((failed("off", "x", rule="new", severity=Severity.WARNING), Finding(Verdict.KINK, "")))
    assert 'WARNING  new, x: off\n         next: mend it; if it is meant to be so: skip=["new"]' in str(report)


def test_the_monitor_says_it_in_its_own_words() -> None:
    wrong = Finding(Verdict.FAILED, "off", "x", rule="finite differences", oracle=True)
    text = str(ModuleReport((wrong,), 3, "1 (Norm)", 0.0, "1"))
    assert text.startswith("1 (Norm), forward 3: FAILED\n  ERROR  finite differences, x: off\n         next: mend the ")
    assert 'intended={"1": "surrogate"} or ignore=["1"] of GradientMonitor' in text
    assert "derivative_of=the" not in text
