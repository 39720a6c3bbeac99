"""What a benchmark measured -> a Markdown table and a plot with the spread, both kept in benchmarks/results."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file, whatever screen there is

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

RESULTS = Path(__file__).with_name("results")


def write_report(
    out: Path,
    *,
    title: str,
    conditions: Sequence[str],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    spreads: Mapping[str, Sequence[float]],
    axis: str,
) -> None:
    """Write and print the table, and draw one box for each of `spreads` (the values of all rounds) beside it.

    `axis` names what the values are.
    """
    table = [_format_row(header), _format_row(["---", *["---:"] * (len(header) - 1)]), *map(_format_row, rows)]
    plot = out.with_suffix(".png")
    lines = [f"# {title}", "", *conditions, "", describe_machine(), "", *table, "", f"![{title}]({plot.name})"]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    _draw_boxes(plot, title, spreads, axis)
    print("\n".join(lines), flush=True)


def describe_machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{len(models)} x {models[0].partition(': ')[2]}, Python {platform.python_version()}, "
        f"torch {version('torch')}; load average at the end {load}."
    )


def format_spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and quartiles where there are several values."""
    median = f"{statistics.median(values):,.{digits}f}"
    if len(values) < 2:
        return median
    low, _, high = statistics.quantiles(values, n=4)
    return f"{median} ({low:,.{digits}f} - {high:,.{digits}f})"


def format_mean(values: Sequence[float], spec: str = ".2f") -> str:
    """Mean, and standard deviation where there are several values."""
    mean = format(statistics.mean(values), spec)
    return f"{mean} +/- {statistics.stdev(values):{spec}}" if len(values) > 1 else mean


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _draw_boxes(path: Path, title: str, spreads: Mapping[str, Sequence[float]], axis: str) -> None:
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.32 * len(spreads)), layout="constrained")
    axes.boxplot(list(spreads.values()), orientation="horizontal", tick_labels=list(spreads), whis=(0, 100), widths=0.6)
    axes.invert_yaxis()
    values = [value for spread in spreads.values() for value in spread]
    if max(values) > 5 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{axis}\nbox: quartiles, line: median, whiskers: all rounds")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
