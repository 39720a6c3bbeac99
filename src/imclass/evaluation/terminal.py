"""Figures of a test -> a summary on the terminal, or plain lines where nobody watches."""

import sys

import numpy as np
from jaxtyping import Int64

from imclass.evaluation.metrics import Estimate, Metrics, count_confusion
from imclass.evaluation.report.charts import find_end, find_start

BAR = 24  # characters
MOST = 5  # classes and confusions
LOSSES = ("log_loss", "brier", "ece")  # the lower the better, all other figures are shares


def print_summary(
    metrics: Metrics,
    labels: Int64[np.ndarray, " n"],
    predicted: Int64[np.ndarray, " n"],
    classes: list[str],
    doubts: list[str],
) -> None:
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
    shares = {name: estimate for name, estimate in metrics.overall.items() if name not in LOSSES}
    order = sorted(range(len(classes)), key=lambda at: (metrics.classes[at].support == 0, metrics.classes[at].f1.value))
    worst = {classes[at]: metrics.classes[at].f1 for at in order[:MOST] if metrics.classes[at].support}
    groups = [
        (f"{len(labels):,} test images", shares, 1.0),
        ("lower is better", {name: metrics.overall[name] for name in LOSSES}, 0.0),
        ("F1 of the hardest classes", worst, 1.0),
    ]
    for title, estimates, end in groups:
        low = find_start(estimate.low for estimate in estimates.values()) if end else 0.0
        high = end or find_end(estimate.high for estimate in estimates.values())
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(title, min_width=26, max_width=26, no_wrap=True)
        table.add_column("value", justify="right", style="bold")
        table.add_column(f"{low:<{BAR // 2}.4g}{high:>{BAR // 2}.3g}", no_wrap=True, style="cyan")
        table.add_column("95 % interval", style="dim", no_wrap=True)
        for name, estimate in estimates.items():
            interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
            table.add_row(escape(name), f"{estimate.value:.4f}", draw_bar(estimate, low, high), interval)
        console.print(table)
    confusion = count_confusion(labels, predicted, len(classes))
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    for at in np.argsort(-wrong, axis=None, kind="stable")[:MOST]:
        true, taken = divmod(int(at), len(classes))
        if wrong[true, taken]:
            console.print(f"{wrong[true, taken]:>6,} of {escape(classes[true])} taken for {escape(classes[taken])}")
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
