"""Numbers -> charts, as positions that charts.html draws as SVG.

Positions are in the units of the drawing, WIDTH x HEIGHT with its origin at the top left, rounded to a tenth, so that
equal numbers give equal text.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 368, 22, 212  # of the plot, within its labels
STARTS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)
MANY_POINTS = 60  # more of them are a line without marks


@dataclass(frozen=True)
class Axis:
    """One axis; on a logarithmic one all numbers are above 0."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def place(self, values: Iterable[float], start: int, end: int) -> list[float]:
        """Positions of values; those beyond the ends lie on them."""
        numbers = np.clip(np.fromiter(values, float), self.low, self.high)
        low, high = self.low, self.high
        if self.log:
            numbers, low, high = np.log(numbers), math.log(low), math.log(high)
        shares = (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
        return [round(start + (end - start) * share, 1) for share in shares.tolist()]

    def spread(self, shares: Iterable[float]) -> list[float]:
        """Values at shares of the way between the ends."""
        if self.log:
            return [self.low * (self.high / self.low) ** share for share in shares]
        return [self.low + (self.high - self.low) * share for share in shares]

    def choose_ticks(self) -> list[float]:
        """About five round numbers between the ends."""
        if self.log:
            return _choose_log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 5 or 1.0)
        if self.whole:
            step = max(step, 1.0)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Line:
    """Points joined by a line; `style` names its look in page.css."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Bars:
    """Bars that stand on the axis, from `starts` to `ends` each."""

    name: str
    style: str
    starts: Sequence[float]
    ends: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """A drawing. A line is name, style, path and marks (x, y, text), a bar name, style, boxes (x, y, w, h, text)."""

    title: str
    text: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[tuple[str, str, str, list[tuple[float, float, str]]]] = field(default_factory=list)
    bars: list[tuple[str, str, list[tuple[float, float, float, float, str]]]] = field(default_factory=list)
    ring: tuple[float, float] | None = None


def draw_chart(
    title: str,
    text: str,
    x: Axis,
    y: Axis,
    *,
    lines: Sequence[Line] = (),
    bars: Sequence[Bars] = (),
    ring: tuple[float, float] | None = None,
) -> Chart:
    """Place lines, bars and a ring around one point; `text` says what the chart shows."""
    x_ticks, y_ticks = x.choose_ticks(), y.choose_ticks()
    return Chart(
        title,
        text,
        x.label,
        y.label,
        list(zip(x.place(x_ticks, LEFT, RIGHT), map(format_tick, x_ticks), strict=True)),
        list(zip(y.place(y_ticks, BOTTOM, TOP), map(format_tick, y_ticks), strict=True)),
        [_draw_line(line, x, y) for line in lines],
        [_draw_bars(group, x, y) for group in bars],
        (*x.place(ring[:1], LEFT, RIGHT), *y.place(ring[1:], BOTTOM, TOP)) if ring else None,  # type: ignore[arg-type]
    )


def format_tick(value: float) -> str:
    """A number of an axis: 0.5, 20, 5,000, 1e-05."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def enclose(values: Iterable[float], *, log: bool = False) -> tuple[float, float]:
    """Ends of an axis with room for all values; the lower end is 0 where that is near and the axis not logarithmic."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    if log:
        return low / 1.15, high * 1.15
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1
    return (0.0 if 0 <= low <= 0.3 * high else low - room), high + room


def find_start(lows: Iterable[float]) -> float:
    """A round number below all shares, as the start of an axis that ends at 1."""
    low = min(lows)
    return next((start for start in STARTS if low >= start), 0.0)


def find_end(highs: Iterable[float]) -> float:
    """A round number not below any, as the end of an axis that starts at 0."""
    high = max(highs)
    step = _round_step(high / 5 or 0.2)
    return max(math.ceil(high / step - 1e-9), 1) * step


def _draw_line(line: Line, x: Axis, y: Axis) -> tuple[str, str, str, list[tuple[float, float, str]]]:
    points = list(zip(x.place(line.x, LEFT, RIGHT), y.place(line.y, BOTTOM, TOP), strict=True))
    path = "M" + "L".join(f"{across:g} {down:g}" for across, down in points)
    texts = [
        f"{line.name}: {x.label} {at:.4g}, {y.label} {value:.4g}" for at, value in zip(line.x, line.y, strict=True)
    ]
    marks = [(*point, text) for point, text in zip(points, texts, strict=True)] if len(points) <= MANY_POINTS else []
    return line.name, line.style, path, marks


def _draw_bars(bars: Bars, x: Axis, y: Axis) -> tuple[str, str, list[tuple[float, float, float, float, str]]]:
    starts, ends = x.place(bars.starts, LEFT, RIGHT), x.place(bars.ends, LEFT, RIGHT)
    heights = y.place(bars.y, 0, BOTTOM - TOP)
    rows = zip(starts, ends, heights, bars.texts, strict=True)
    boxes = [(s, round(BOTTOM - h, 1), round(e - s, 1), h, text) for s, e, h, text in rows if h > 0]
    return bars.name, bars.style, boxes


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _choose_log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8):
        ticks = [factor * 10.0**power for power in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 7)]
