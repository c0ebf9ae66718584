"""Figures in the documentation agree with each other: each stands once, and is quoted from there."""

import re

import pytest

from benchmarks.figures import FIGURES, documents, figures, quotations, updated
from lean_mnist.mutants import FUNCTION_MUTANTS, MUTANTS

_CODE = re.compile(r"^```.*?^```|^    .*?$", re.DOTALL | re.MULTILINE)
_ANY_QUOTATION = re.compile(r"<!--=.*?<!--/-->", re.DOTALL)


def repeated(text: str, known: dict[str, str]) -> list[str]:
    """Figures whose text stands in a document without being a quotation; printed output is left aside."""
    prose = _ANY_QUOTATION.sub("", _CODE.sub("", text))
    return [name for name, figure in known.items() if re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|\.\d)", prose)]


def test_every_quotation_is_what_was_measured() -> None:
    known = figures()
    stale = [path.name for path in documents() if updated(path.read_text(), known) != path.read_text()]
    assert stale == [], f"run python -m benchmarks.figures, or mend {FIGURES.name}"


def test_every_figure_is_quoted() -> None:
    quoted = {name for path in documents() for name, _ in quotations(path.read_text())}
    assert quoted == set(figures())


def test_no_figure_is_repeated_by_hand() -> None:
    known = figures()
    assert {path.name: repeated(path.read_text(), known) for path in documents()} == {
        path.name: [] for path in documents()
    }


def test_a_stale_quotation_is_found() -> None:
    text = "It reads <!--=accuracy-->98.41 %<!--/--> of them."
    assert updated(text, {"accuracy": "98.42 %"}) == text.replace("98.41", "98.42")
    with pytest.raises(KeyError):
        updated(text, {})


def test_a_repeated_figure_is_found() -> None:
    known = {"accuracy": "98.42 %"}
    assert repeated("It reads 98.42 % of them.", known) == ["accuracy"]
    assert repeated("It reads 98.42 %.", known) == ["accuracy"]
    assert repeated("    98.42 % as printed\n\nIt reads <!--=accuracy-->98.42 %<!--/--> and 198.42 %.", known) == []


def test_the_number_of_planted_bugs_is_that_of_the_corpus() -> None:
    assert figures()["planted-bugs"] == f"{len(MUTANTS) + len(FUNCTION_MUTANTS)} planted bugs"
