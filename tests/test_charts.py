"""Small charts: where things stand, and what the ticks say."""

from __future__ import annotations

import pytest

from lean_mnist.charts import BLUE, GREEN, RED, Axis, Chart


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("", 0, 1, percent=True), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (Axis("", 0, 0.0186, percent=True), ["0.0 %", "0.5 %", "1.0 %", "1.5 %"]),
        (Axis("", 0, 3), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]),
        (Axis("", 100, 1_000_000, logarithmic=True), ["100", "1,000", "10,000", "100,000", "1,000,000"]),
        (Axis("", 0.001, 1, logarithmic=True), ["0.001", "0.01", "0.1", "1"]),
        (Axis("", 1e-6, 1e-3, logarithmic=True), ["1e-6", "1e-5", "1e-4", "1e-3"]),
    ],
)
def test_ticks_are_round(axis: Axis, texts: list[str]) -> None:
    ticks = list(axis.ticks())
    assert [text for _, text in ticks] == texts
    assert all(0 <= axis.place(value) <= 1 for value, _ in ticks)


def test_places() -> None:
    assert Axis("", 2, 4).place(3) == 0.5
    assert Axis("", 1, 100, logarithmic=True).place(10) == pytest.approx(0.5)
    assert (Axis("", 2, 4).place(1), Axis("", 2, 4).place(9)) == (0, 1)


def test_things_stand_where_they_belong() -> None:
    chart = Chart("a title", Axis("x", 0, 1), Axis("y", 0, 1))
    chart.bar(0.25, 0.5, 0.5, BLUE)
    chart.line([(0, 0.75), (1, 0.75)], RED)
    chart.dot((0.75, 0.25), GREEN)
    chart.explain(RED, "a line")
    picture = chart.picture()
    left, right, top, bottom = 84, 720 - 44, 72, 480 - 64

    def colour(x: float, y: float) -> tuple[int, ...]:
        column, row = round(left + x * (right - left)), round(bottom - y * (bottom - top))
        return tuple(picture[row, column].tolist())

    assert colour(0.3, 0.3) == BLUE
    assert colour(0.3, 0.65) == (255, 255, 255)
    assert colour(0.9, 0.75) == RED
    assert colour(0.75, 0.25) == GREEN
    assert (picture[:top] == RED).all(2).any(), "the legend shows the line's colour"
