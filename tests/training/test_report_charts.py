"""Charts and numbers of the report: bounds are rounded up, the worst is never thinned out, nothing covers anything."""

import itertools
import math
import re
from fractions import Fraction
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lean_mnist.training.report.charts import Chart, Line, largest, last, thinned
from lean_mnist.training.report.words import at_most, confidence, number, plural, seconds

_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def value_of(text: str) -> Fraction:
    """The number that a text says."""
    mantissa, _, power = text.rpartition("10") if re.search("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", text) else (text, "", "")
    return Fraction(mantissa.rstrip("·") or 1) * Fraction(10) ** int(power.translate(_DIGITS) or 0)


@given(st.floats(min_value=1e-300, max_value=1e30))
def test_a_bound_is_never_rounded_down(bound: float) -> None:
    said = value_of(at_most(bound))
    assert Fraction(bound) <= said <= Fraction(bound) * Fraction(11, 10)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (2e-7, "2·10⁻⁷"), (1e-6, "10⁻⁶"), (0.0, "0"), (1234.5, "1234"), (-2.5e-9, "-2.5·10⁻⁹")],
)
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert number(value) == text


def test_words() -> None:
    assert [confidence(Fraction(text)) for text in ("7/200", "1/1000000000", "1/3", "1")] == [
        "96.5 %", "99.9999999 %", "66.66 %", "0 %"
    ]  # fmt: skip
    assert (plural(1, "step"), plural(2000, "step")) == ("1 step", "2,000 steps")
    assert [seconds(value) for value in (1.25, 119, 200, 7300)] == ["1.2 s", "119.0 s", "3 min 20 s", "2 h 1 min"]


def test_the_worst_of_many_points_is_drawn() -> None:
    points = [(float(x), 1e-7) for x in range(10_001)]
    points[5_003] = (5003.0, 1e-3)
    points[8_001] = (8001.0, math.nan)
    found = thinned(points, largest)
    assert len(found) <= 400
    assert (5003.0, 1e-3) in found
    assert any(math.isnan(y) for _, y in found)
    assert thinned(points, last)[-1] == points[-1]
    assert thinned([], last) == []


def drawn(lines: list[Line], **more: object) -> ElementTree.Element:
    """The wide form of a chart."""
    chart = Chart("name", "a <title>", "a & text", "epoch", 10.0, "y", lines, **more)  # type: ignore[arg-type]
    wide = chart.__html__().partition('<svg class="chart narrow"')[0]
    return ElementTree.fromstring(wide)


def test_labels_stand_apart_and_inside() -> None:
    lines = [Line(name, [(0.0, 1.0), (10.0, 0.5 + step)]) for name, step in (("a", 0.0), ("b", 1e-6), ("c", 2e-6))]
    chart = drawn(lines)
    labels = sorted(float(one.attrib["y"]) for one in chart.iter("text") if "label" in one.attrib["class"])
    assert len(labels) == 3
    assert min(below - above for above, below in itertools.pairwise(labels)) >= 14.9
    assert labels[0] > 0
    assert labels[-1] < 300


@pytest.mark.parametrize("at", [0.0, 3.0, 5.0, 9.0, 10.0])
def test_the_text_of_a_mark_covers_no_tick(at: float) -> None:
    chart = Chart("name", "", "", "epoch", 10.0, "y", [Line("a", [(0.0, 1.0), (10.0, 2.0)])], mark=(at, 1.5, "m" * 20))
    for form in chart.__html__().split("</svg>")[:2]:
        root = ElementTree.fromstring(form + "</svg>")
        (mark,) = [one for one in root.iter("text") if one.attrib["class"] == "mark"]
        assert 54 <= float(mark.attrib["x"]) <= float(root.attrib["viewBox"].split()[2]) - 98 - 7 * 20


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "ys",
    [
        [1.0],
        [1.0, 1.0],
        [0.0, 0.0],
        [1e-30, 1e30],
        [-1e30, 1e30],
        [math.nan, math.inf],
        [0.1, math.nan, 0.3],
        [2e-7, 3e-7],
    ],
    ids=str,
)
def test_any_numbers_can_be_drawn(ys: list[float], log: bool) -> None:
    chart = drawn([Line("a", [(float(x), y) for x, y in enumerate(ys)], dots=True)], log=log)
    numbers = [float(word) for one in chart.iter("path") for word in re.findall(r"-?[\d.]+", one.attrib["d"])]
    assert all(0 <= value <= 720 for value in numbers)
    assert "nan" not in ElementTree.tostring(chart, "unicode").replace('"name', "")
    good = [y for y in ys if math.isfinite(y) and (y > 0 or not log)]
    assert len(list(chart.iter("circle"))) == len(good)


def test_higher_is_higher_and_ticks_are_where_they_say() -> None:
    for log in (False, True):
        chart = drawn([Line("a", [(0.0, 0.01), (5.0, 0.1), (10.0, 1.0)], dots=True)], log=log)
        heights = [300 - float(one.attrib["cy"]) for one in chart.iter("circle")]
        assert heights == sorted(heights)
        assert (abs(heights[2] - 2 * heights[1] + heights[0]) < 0.2) == log
    ticks = {one.text: float(one.attrib["y"]) - 4 for one in chart.iter("text") if one.attrib["class"] == "tick end"}
    assert ticks["0.01"] == pytest.approx(300 - heights[0])
    assert ticks["1"] == pytest.approx(300 - heights[2])
    assert [one.text for one in chart.iter("title")] == ["a <title>"]
