"""Figures of a test -> a summary on the terminal, or plain lines where nobody watches."""

import sys

import numpy as np
from jaxtyping import Int64

from imclass.evaluation.metrics import Estimate, Metrics, rank_confusions
from imclass.evaluation.report.charts import find_start
from imclass.evaluation.report.tables import LOSSES, SHARES, describe_classes, scale_estimates

BAR = 24  # characters
MOST = 5  # classes and confusions


def print_summary(metrics: Metrics, confusion: Int64[np.ndarray, "k k"], classes: list[str], doubts: list[str]) -> None:
    """On a terminal tables with bars of the intervals, else a line for each figure and each doubt."""
    if not sys.stdout.isatty():
        for name, estimate in metrics.overall.items():
            print(f"{name} {estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})")
        for doubt in doubts:
            print(f"doubtful: {doubt}")
        return

    # Only where it is seen: it takes a tenth of a second to load.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    hardest = [row for row in describe_classes(metrics, confusion)[:MOST] if row["support"]]
    worst = [(classes[row["class"]], "", row["scores"][-1]) for row in hardest]
    groups = {
        f"{confusion.sum():,} test images": scale_estimates(metrics.overall, SHARES),
        "lower is better": scale_estimates(metrics.overall, LOSSES),
        "F1 of the hardest classes": {"rows": worst, "low": find_start(f1.low for _, _, f1 in worst), "high": 1.0},
    }
    for title, group in groups.items():
        low, high = group["low"], group["high"]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(title, min_width=26, max_width=26, no_wrap=True)
        table.add_column("value", justify="right", style="bold")
        table.add_column(f"{low:<{BAR // 2}.4g}{high:>{BAR // 2}.3g}", no_wrap=True, style="cyan")
        table.add_column("95 % interval", style="dim", no_wrap=True)
        for name, _, estimate in group["rows"]:
            interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
            table.add_row(escape(name), f"{estimate.value:.4f}", draw_bar(estimate, low, high), interval)
        console.print(table)
    for true, taken in rank_confusions(confusion)[:MOST]:
        console.print(f"{confusion[true, taken]:>6,} of {escape(classes[true])} taken for {escape(classes[taken])}")
    for doubt in doubts:
        console.print(f"[yellow]doubtful:[/] {escape(doubt)}")


def draw_bar(estimate: Estimate, low: float, high: float) -> str:
    """The interval on a line from low to high, with a mark at the value."""

    def place(value: float) -> int:
        return round((BAR - 1) * min(max((value - low) / ((high - low) or 1), 0), 1))

    bar = ["─"] * BAR
    start, end = place(estimate.low), place(estimate.high)
    bar[start : end + 1] = ["━"] * (end + 1 - start)
    bar[place(estimate.value)] = "┃"
    return "".join(bar)
