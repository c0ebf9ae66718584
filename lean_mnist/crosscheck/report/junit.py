"""Reports as JUnit XML, which continuous integration reads: a suite a case, a test a rule."""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from lean_mnist.crosscheck.report.finding import Finding, Verdict
from lean_mnist.crosscheck.report.reports import FunctionReport

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
