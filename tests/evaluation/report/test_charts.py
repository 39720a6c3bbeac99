import pytest

from imclass.evaluation.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Bars,
    Line,
    draw_chart,
    enclose,
    find_end,
    find_start,
)


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0.0, 1.0), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("", 1.0, 3.0, whole=True), [1, 2, 3]),
        (Axis("", 1.0, 24.0, whole=True), [5, 10, 15, 20]),
        (Axis("", 1.0, 1.0, whole=True), [1]),
        (Axis("", 0.91, 0.99), [0.92, 0.94, 0.96, 0.98]),
        (Axis("", 1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-2, 0.1, 1]),
        (Axis("", 0.11, 1.6, log=True), [0.2, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers_within_the_axis(axis: Axis, ticks: list[float]) -> None:
    assert axis.choose_ticks() == pytest.approx(ticks)


def test_values_lie_between_the_ends_of_an_axis() -> None:
    assert Axis("", 0.0, 10.0).place([-5.0, 0.0, 2.5, 10.0, 99.0], 0, 100) == [0, 0, 25, 100, 100]
    assert Axis("", 0.01, 1.0, log=True).place([0.01, 0.1, 1.0], 100, 0) == [100, 50, 0]
    assert Axis("", 3.0, 3.0).place([3.0], 0, 100) == [50]


def test_lines_and_bars_stand_in_the_plot() -> None:
    chart = draw_chart(
        "t",
        "",
        Axis("x", 0.0, 2.0),
        Axis("y", 0.0, 4.0),
        lines=[Line("a", "line-a", [0.0, 2.0], [0.0, 4.0])],
        bars=[Bars("b", "bar-b", [0.0, 1.0], [1.0, 2.0], [0.0, 2.0], ["none", "two"])],
        ring=(1.0, 2.0),
    )
    assert chart.lines[0][2] == f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}"
    assert chart.lines[0][3][1] == (RIGHT, TOP, "a: x 2, y 4")
    middle, height = (LEFT + RIGHT) / 2, (BOTTOM - TOP) / 2
    assert chart.bars[0][2] == [(middle, BOTTOM - height, RIGHT - middle, height, "two")]
    assert chart.ring == (middle, BOTTOM - height)


def test_axes_hold_all_values() -> None:
    assert enclose([0.1, 1.0]) == pytest.approx((0, 1.054))
    assert enclose([0.9, 1.0]) == pytest.approx((0.894, 1.006))
    assert enclose([0.0, 0.0]) == (0, 1)
    assert enclose([0.5, 2.0], log=True) == pytest.approx((0.5 / 1.15, 2 * 1.15))
    assert [find_start([low, 1.0]) for low in (0.995, 0.97, 0.5, 0.0)] == [0.99, 0.95, 0.4, 0]
    assert [find_end([0.0, high]) for high in (0.2323, 0.0095, 0.5, 3.1, 0.0)] == pytest.approx(
        [0.25, 0.01, 0.5, 4, 0.2]
    )
