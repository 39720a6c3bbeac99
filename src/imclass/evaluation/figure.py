"""What a training gave, on one sheet: learning curves, confusion matrix, worst mistakes."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a file, whatever screen there is

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator, NullFormatter

from imclass.data.shards import Images
from imclass.files import write_whole
from imclass.training.history import Epoch, find_best

INK, PALE, ACCENT = "#1f2933", "#9aa5b1", "#c2410c"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
MISTAKE_COLUMNS, MISTAKE_ROWS = 8, 2
MAX_NAMED_CLASSES = 30  # more names than this cannot be read beside a matrix


def draw_summary(
    path: Path,
    *,
    history: list[Epoch],
    confusion: Int64[np.ndarray, "k k"],
    classes: list[str],
    images: Images,
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
) -> None:
    """Write the sheet as PNG; equal inputs give equal bytes."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 8), layout="constrained")
        halves = figure.add_gridspec(2, 1, height_ratios=[3, 2])
        curves, mistakes = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
        losses, accuracies, matrix = curves.subplots(1, 3, width_ratios=[1, 1, 1.4])
        _draw_curve(losses, history, "loss")
        _draw_curve(accuracies, history, "accuracy")
        _draw_confusion(matrix, confusion, classes)
        _draw_mistakes(mistakes, images, labels, probabilities, classes)
        with write_whole(path) as temporary:
            # Without the version of matplotlib, which would change the bytes.
            figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
        plt.close(figure)


def _draw_curve(axes: Axes, history: list[Epoch], what: str) -> None:
    epochs = [entry.epoch for entry in history]
    for split, colour in ("train", PALE), ("val", ACCENT):
        values = [getattr(entry, f"{split}_{what}") for entry in history]
        axes.plot(epochs, values, color=colour, label=split, marker=".", markersize=4)
    if what == "loss":
        best = find_best(history)
        axes.plot(epochs, [entry.val_brier for entry in history], ":", color=ACCENT, label="val, Brier score")
        axes.plot(best.epoch, best.val_brier, "o", color=ACCENT, fillstyle="none", markersize=9)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())  # else they overlap
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{what} (ring: the epoch kept)" if what == "loss" else what, loc="left")
    axes.set_xlabel("epoch")
    axes.legend(frameon=False)


def _draw_confusion(axes: Axes, confusion: Int64[np.ndarray, "k k"], classes: list[str]) -> None:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root makes rare confusions visible beside the diagonal.
    axes.imshow(np.sqrt(shares), cmap="Oranges", vmin=0, vmax=1)
    if len(classes) <= MAX_NAMED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= MAX_NAMED_CLASSES // 2:
        for row, column in zip(*confusion.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.4 else INK
            axes.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=7)
    axes.spines[:].set_visible(False)
    axes.set_title("true class (rows) taken for (columns)", loc="left")


def _draw_mistakes(
    figure: SubFigure,
    images: Images,
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    classes: list[str],
) -> None:
    predicted = probabilities.argmax(axis=1)
    true_probability = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(true_probability[wrong], kind="stable")]
    figure.suptitle(f"{len(wrong)} mistakes in {len(labels)} test images, the surest first", x=0.01, ha="left")
    grid = figure.subplots(MISTAKE_ROWS, MISTAKE_COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, at in zip(grid, worst, strict=False):
        axes.imshow(images[at].transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{classes[predicted[at]]}, not {classes[labels[at]]}", fontsize=8)
