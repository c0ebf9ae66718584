"""One Function checked at several sizes, dtypes and layouts, or on several bundles: a table, JSON, JUnit XML."""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from lean_mnist.crosscheck.cases.language import DTYPES, Given
from lean_mnist.crosscheck.function_check import check_function, check_module
from lean_mnist.crosscheck.report import Finding, FunctionReport, Verdict
from lean_mnist.crosscheck.subjects.arguments import Inputs
from lean_mnist.errors import ArgumentError

JSON_FORMAT, JSON_VERSION = "lean_mnist check", 1
IN_FULL = 3  # reports below the table


@dataclass(frozen=True)
class Case:
    """The inputs and options of one check, and what sets it apart from the other rows of the table."""

    setting: Mapping[str, str]  # in the order of the columns
    inputs: Inputs
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The setting in words."""
        return ", ".join(f"{column} {value}" for column, value in self.setting.items()) or "as given"


@dataclass(frozen=True)
class Table:
    """The cases of ``function``, each with its report, or with the reason why it could not be asked."""

    function: str
    rows: tuple[tuple[Case, FunctionReport | str], ...]

    @property
    def ok(self) -> bool:
        """True if every case was asked and passed."""
        return all(isinstance(report, FunctionReport) and report.ok for _, report in self.rows)

    @property
    def reports(self) -> dict[str, FunctionReport | str]:
        """The reports by the names of their cases."""
        return {case.name: report for case, report in self.rows}

    def to_json(self) -> str:
        """One JSON document, with the document of every report."""
        cases = [
            {**case.setting, **({"error": report} if isinstance(report, str) else {"report": report.content()})}
            for case, report in self.rows
        ]
        head = {"format": JSON_FORMAT, "version": JSON_VERSION, "function": self.function, "ok": self.ok}
        return json.dumps({**head, "cases": cases}, indent=2, allow_nan=False)

    def __str__(self) -> str:
        if len(self.rows) == 1:
            return str(self.rows[0][1])
        columns = [*self.rows[0][0].setting, "verdict", ""]
        lines = [[*case.setting.values(), *_in_words(report)] for case, report in self.rows]
        wrong = [
            (case.name, report) for case, report in self.rows if isinstance(report, FunctionReport) and not report.ok
        ]
        return "\n".join([*aligned([columns, *lines]), *(f"\n{name}: {report}" for name, report in wrong[:IN_FULL])])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each row in a line, its cells below those of the row above."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _in_words(report: FunctionReport | str) -> tuple[str, str]:
    """The verdict and what led to it."""
    if isinstance(report, str):
        return "not asked", report
    if report.verdict is Verdict.INCONCLUSIVE:
        return report.verdict.value, "no oracle applied"
    failed = report.failures or report.warnings
    label = "" if report.failures else "warnings: "
    return report.verdict.value, label * bool(failed) + ", ".join(dict.fromkeys(finding.rule for finding in failed))


def cases_of(
    given: Sequence[Given],
    *,
    sizes: Sequence[int],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    device: str,
    options: Mapping[str, Any],
) -> list[Case]:
    """All of ``sizes`` × ``dtypes`` × ``layouts``; an empty one leaves that as it is written.

    ``sizes`` are lengths of dimension 0 of every input that is there as long as the first checked one.
    """
    names = [item.name or f"input {i}" for i, item in enumerate(given)]
    checked = next(item for item in given if item.requires_grad)
    if sizes and not checked.shape:
        raise ArgumentError("sizes: expected a first checked input with a dimension to vary, found a single number")
    if dtypes and not any(item.maker in ("randn", "rand", "zeros", "ones") and item.dtype is None for item in given):
        raise ArgumentError("dtypes: expected a floating input that names no dtype of its own, found none")
    cases = []
    for size, dtype, layout in itertools.product(sizes or (None,), dtypes or (None,), layouts or (None,)):
        generator = torch.Generator().manual_seed(options["seed"])
        sized = given if size is None else [item.resized(checked.shape[0], size) for item in given]
        made = [item.make(generator, DTYPES[dtype] if dtype else None, layout or "", device) for item in sized]
        setting = {"size": size, "dtype": dtype, "layout": layout}
        said = {column: str(value) for column, value in setting.items() if value is not None}
        cases.append(Case(said, made, {"names": names, **options}))
    return cases


def _checked(function: Callable[..., Any], reference: Any, case: Case) -> FunctionReport:
    """The report of a case; a module follows the inputs' dtype and device, and its parameters are checked, too."""
    if not isinstance(function, nn.Module):
        return check_function(function, reference, case.inputs, **case.options)
    floating = [x for x in case.inputs if isinstance(x, Tensor) and x.is_floating_point()]
    own = function.to(floating[0].device, floating[0].dtype) if floating else function
    return check_module(own, case.inputs, reference, **case.options)


def check_cases(name: str, function: Callable[..., Any], reference: Any, cases: Sequence[Case]) -> Table:
    """Ask every case; raises ``ArgumentError`` if none of them can be asked."""
    rows = list[tuple[Case, FunctionReport | str]]()
    for case in cases:
        try:
            rows.append((case, _checked(function, reference, case)))
        except ArgumentError as error:
            rows.append((case, str(error)))
    if all(isinstance(report, str) for _, report in rows):
        raise ArgumentError(str(rows[0][1]))
    return Table(name, tuple(rows))


_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(name: str, cases: Mapping[str, FunctionReport | str]) -> str:
    """The document for the cases of ``name``: each a report, or the reason why it could not be asked, an error."""
    root = ElementTree.Element("testsuites", name=_clean(name))
    for case, report in cases.items():
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(f"{name}: {case}"))
        if isinstance(report, str):
            _test(suite, case, "the question", "error", report)
            continue
        if report.verdict is Verdict.INCONCLUSIVE:
            _test(suite, case, "oracles", "failure", report.headline)
        for rule in dict.fromkeys(finding.rule for finding in report.findings):
            found = [finding for finding in report.findings if finding.rule == rule]
            wrong = [finding for finding in found if finding in report.failures]
            if wrong:
                _test(suite, case, rule, "failure", wrong[0].line, "\n".join(map(_in_full, wrong)))
            elif all(finding.verdict is Verdict.NOT_APPLICABLE for finding in found):
                _test(suite, case, rule, "skipped", found[0].text)
            else:
                _test(suite, case, rule, output="\n".join(map(_in_full, found)))
    for suite in root:
        for kind in ("failure", "error", "skipped"):
            suite.set(f"{kind}s".replace("skippeds", "skipped"), str(len(suite.findall(f"testcase/{kind}"))))
        suite.set("tests", str(len(suite)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _in_full(finding: Finding) -> str:
    return f"{finding}\nnext: {finding.next_step}" if finding.next_step else str(finding)


def _test(
    suite: ElementTree.Element, case: str, rule: str, result: str = "", message: str = "", output: str = ""
) -> None:
    test = ElementTree.SubElement(suite, "testcase", classname=_clean(case), name=_clean(rule))
    if result:
        ElementTree.SubElement(test, result, message=_clean(message)).text = _clean(output) or None
    elif output:
        ElementTree.SubElement(test, "system-out").text = _clean(output)


def _clean(text: str) -> str:
    """``text``, with a ? for what XML does not allow."""
    return _FORBIDDEN.sub("?", text)
