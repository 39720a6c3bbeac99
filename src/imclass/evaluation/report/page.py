"""What a test gave -> report.html: one file that asks for no other, with pictures, charts and tables.

The page holds no time, version or device, so that equal inputs give equal bytes. It is read without JavaScript too;
page.js adds filters, sorting and the keys of the matrix.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imclass.data.packed import Packed
from imclass.evaluation.metrics import Metrics, count_confusion
from imclass.evaluation.report.charts import Axis, Bars, Chart, Line, draw_chart, enclose
from imclass.evaluation.report.curves import (
    GRID,
    accuracy_by_coverage,
    measure_detection,
    measure_reliability,
)
from imclass.evaluation.report.sheets import SMALL_PIXELS, Sheet, draw_saliency, draw_sheet
from imclass.files import write_text
from imclass.models.classifier import ModelConfig
from imclass.training.history import Epoch, find_best

PAGE, MACROS, STYLE, SCRIPT = "page.html", "charts.html", "page.css", "page.js"
MOST_MISTAKES, MOST_RIGHT = 400, 120  # images on the page
RIGHT_PER_CLASS = 8
MOST_SAMPLES, SAMPLES_PER_CLASS = 160, 8
MATRIX_CLASSES = 26  # more are cut down to those most taken for each other
FEWER_CLASSES = 16
MOST_PAIRS = 10
SHORT_NAME = 3  # characters; longer ones stand upright over the matrix
NUM_BARS = 20  # of a histogram
CURVES = 4  # classes with a curve of their own
CARD_PIXELS = 96  # of the longer side of an image on a card
TOP = 3  # probabilities beside an image
SHORT_TABLE = 20  # rows that are seen at first


@dataclass(frozen=True)
class Report:
    """What stands on the page, of `n` test images, `k` classes and the `s` images of `choose_shown`.

    `names` are those of the test images. `probabilities` are calibrated, `uncalibrated` are those of temperature 1.
    `saliency` has values in 0..1. `model_hash` is the sha256 of the model file.
    """

    data: Packed
    names: list[str]
    config: ModelConfig
    model_hash: str
    history: list[Epoch]
    metrics: Metrics
    doubts: list[str]
    probabilities: Float[np.ndarray, "n k"]
    uncalibrated: Float[np.ndarray, "n k"]
    shown: Int64[np.ndarray, " s"]
    saliency: Float[np.ndarray, "s h w"]

    @property
    def classes(self) -> list[str]:
        return self.data.classes

    @property
    def images(self) -> UInt8[np.ndarray, "n c h w"]:
        return self.data.splits["test"].images

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        return self.data.splits["test"].labels


def choose_shown(labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n k"]) -> Int64[np.ndarray, " s"]:
    """Rows of the images on the page: mistakes, the surest first, then right ones of each class, the least sure
    first.

    Where there are too many mistakes, half of those shown are the surest, the others the surest of each confusion.
    """
    predicted = probabilities.argmax(axis=1)
    true_probability = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(true_probability, kind="stable")
    wrong, right = order[predicted[order] != labels[order]], order[predicted[order] == labels[order]]
    if len(wrong) > MOST_MISTAKES:
        first, others = np.split(wrong, [MOST_MISTAKES // 2])
        ranks = _rank_within(labels[others] * probabilities.shape[1] + predicted[others])
        others = others[np.argsort(ranks, kind="stable")][: MOST_MISTAKES - len(first)]
        wrong = np.concatenate([first, others])
        wrong = wrong[np.argsort(true_probability[wrong], kind="stable")]
    ranks = _rank_within(labels[right])
    right = right[np.argsort(ranks, kind="stable")]
    right = right[np.sort(ranks) < RIGHT_PER_CLASS][:MOST_RIGHT]
    return np.concatenate([wrong, right[np.argsort(true_probability[right], kind="stable")]])


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all."""
    folder = Path(__file__).parent
    script = (folder / SCRIPT).read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,  # names of classes and files are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=format_share, percent=format_percent, count=format_count)
    page = environment.get_template(PAGE).render(
        _describe(report),
        style=(folder / STYLE).read_text("utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)


def format_share(value: float) -> str:
    """A number of 0..1 with four decimals."""
    return f"{value:.4f}"


def format_percent(value: float) -> str:
    """A share as per cent, with as many digits as tell it from 100 %."""
    digits = 2 if 0.9 < value < 1 else 0 if value in (0, 1) else 1
    return f"{100 * value:.{digits}f}\u202f%"  # no line ends in this space


def format_count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def _describe(report: Report) -> dict[str, Any]:
    predicted = report.probabilities.argmax(axis=1)
    confusion = count_confusion(report.labels, predicted, len(report.classes))
    cards, first_cards = _describe_cards(report, predicted)
    mistakes = int((predicted != report.labels).sum())
    return {
        "report": report,
        "accuracy": report.metrics.overall["accuracy"],
        "num_images": len(report.labels),
        "num_mistakes": mistakes,
        "shares": _scale_estimates(report, SHARES),
        "losses": _scale_estimates(report, LOSSES),
        "learning": _draw_learning(report.history),
        "best": find_best(report.history),
        "confidence": _draw_confidence(report, predicted),
        "mean_confidence": float(report.probabilities.max(axis=1).mean()),
        "detection": _draw_detection(report),
        "matrix": _describe_matrix(confusion, report.classes),
        "pairs": _list_pairs(confusion, first_cards),
        "cards": cards,
        "shown_mistakes": sum(card["wrong"] for card in cards),
        "sheet": draw_sheet(report.images[report.shown]),
        "saliency": draw_saliency(report.saliency),
        "card_width": _choose_width(report.images.shape[3], report.images.shape[2]),
        "pixelated": max(report.images.shape[2:]) <= SMALL_PIXELS,
        "class_rows": _describe_classes(report, confusion),
        "class_scale": _find_low(min(one.recall.low, one.precision.low, one.f1.low) for one in report.metrics.classes),
        "samples": _describe_samples(report),
        "short": SHORT_TABLE,
        "details": {
            **_flatten(report.config.trained.get("params", {})),
            "temperature": f"{report.config.temperature:.4f}",
            "data": report.data.fingerprint,
            "model": report.model_hash,
        },
    }


def _choose_width(width: int, height: int) -> int:
    """Pixels on the page: a multiple of those of a small image, so that all of them look alike."""
    side = max(width, height)
    times = CARD_PIXELS // side if side <= SMALL_PIXELS else CARD_PIXELS / side
    return round(width * times)


SHARES = {
    "accuracy": ("accuracy", "share of images recognised"),
    "balanced_accuracy": ("balanced accuracy", "mean recall of the classes"),
    "top_3": ("top 3 accuracy", "the true class is among the 3 likeliest"),
    "top_5": ("top 5 accuracy", "the true class is among the 5 likeliest"),
    "macro_f1": ("macro F1", "mean F1 of the classes"),
    "weighted_f1": ("weighted F1", "the same, weighted by images"),
    "roc_auc": ("ROC AUC", "one class against the rest, mean"),
}
LOSSES = {
    "log_loss": ("log loss", "mean -log of the true class's probability"),
    "brier": ("Brier score", "mean squared error of the probabilities"),
    "ece": ("calibration error", "mean gap of confidence and accuracy"),
}


def _scale_estimates(report: Report, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Rows of metrics that share one axis."""
    rows = [
        (name, text, report.metrics.overall[key])
        for key, (name, text) in names.items()
        if key in report.metrics.overall
    ]
    if not rows:
        return {"rows": [], "low": 0, "high": 1}
    if names is SHARES:
        return {"rows": rows, "low": _find_low(estimate.low for _, _, estimate in rows), "high": 1.0}
    high = max(estimate.high for _, _, estimate in rows)
    return {"rows": rows, "low": 0.0, "high": Axis("", 0, high * 1.25 or 1, False).choose_ticks()[-1] or high or 1}


def _find_low(lows: Iterable[float]) -> float:
    """A round number below all, as the start of an axis that ends at 1."""
    low = min(lows)
    return next((start for start in (0.99, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2) if low >= start), 0.0)


def _draw_learning(history: list[Epoch]) -> list[Chart]:
    epochs = [entry.epoch for entry in history]
    best = find_best(history)
    x = Axis("epoch", epochs[0], epochs[-1], whole=True)

    def draw(title: str, text: str, label: str, names: dict[str, str], kept: float | None, log: bool = False) -> Chart:
        columns = {name: [getattr(entry, field) for entry in history] for name, field in names.items()}
        values = [value for column in columns.values() for value in column]
        y = Axis(label, *enclose(values, log=log), log=log)
        lines = [Line(name, f"line-{name}", epochs, column) for name, column in columns.items()]
        return draw_chart(title, text, x, y, lines=lines, ring=None if kept is None else (best.epoch, kept))

    losses = [loss for entry in history for loss in (entry.train_loss, entry.val_loss)]
    log = min(losses) > 0 and max(losses) > 3 * min(losses)
    scale = ", logarithmic scale" if log else ""
    return [
        draw(
            "Loss",
            f"On training and validation images by epoch{scale}; the ring is the epoch kept.",
            "loss",
            {"train": "train_loss", "validation": "val_loss"},
            best.val_loss,
            log,
        ),
        draw(
            "Accuracy",
            "On training images as they were learnt, with augmentation, and on validation images.",
            "accuracy",
            {"train": "train_accuracy", "validation": "val_accuracy"},
            best.val_accuracy,
        ),
        draw("Learning rate", "At the end of each epoch.", "learning rate", {"model": "learning_rate"}, None),
    ]


def _draw_confidence(report: Report, predicted: Int64[np.ndarray, " n"]) -> list[Chart]:
    right = predicted == report.labels
    confidence = report.probabilities.max(axis=1)
    scaled = measure_reliability(confidence, right)
    lines = [Line("ideal", "line-ideal", [0, 1], [0, 1])]
    text = "A confidence of 0.8 should be right in 80 of 100 images."
    if report.config.temperature != 1:
        raw = measure_reliability(report.uncalibrated.max(axis=1), right)
        lines.append(Line("before temperature scaling", "line-train", raw.confidence.tolist(), raw.accuracy.tolist()))
    lines.append(Line("the model", "line-model", scaled.confidence.tolist(), scaled.accuracy.tolist()))
    edges = np.linspace(0, 1, NUM_BARS + 1)
    groups = []
    for name, chosen in ("right", right), ("wrong", ~right):
        counts = np.histogram(confidence[chosen], edges)[0]
        texts = [
            f"{count:,} {name}, confidence {edges[at]:.2f} to {edges[at + 1]:.2f}" for at, count in enumerate(counts)
        ]
        groups.append((name, counts, texts))
    most = max(counts.max() for _, counts, _ in groups)
    half = np.diff(edges) / 2
    y = Axis("images", 0.7, max(float(most) * 1.3, 10), log=True)
    bars = [
        Bars(
            name,
            f"bar-{name}",
            (edges[:-1] + half * at + 0.002).tolist(),
            (edges[:-1] + half * (at + 1) - 0.002).tolist(),
            np.maximum(counts, 0.7).tolist(),
            texts,
        )
        for at, (name, counts, texts) in enumerate(groups)
    ]
    coverage, accuracy = accuracy_by_coverage(confidence, right)
    return [
        draw_chart("Is the confidence right?", text, Axis("confidence", 0, 1), Axis("share right", 0, 1), lines=lines),
        draw_chart(
            "How sure is the model?",
            "Images by the probability of the predicted class, logarithmic scale.",
            Axis("confidence", 0, 1),
            y,
            bars=bars,
        ),
        draw_chart(
            "What if it answers only when sure?",
            "Accuracy on the images that it is surest of, by their share.",
            Axis("share of images answered", 0, 1),
            Axis("accuracy", *_widen(accuracy)),
            lines=[Line("accuracy", "line-model", coverage.tolist(), accuracy.tolist())],
        ),
    ]


def _widen(values: Float[np.ndarray, " m"]) -> tuple[float, float]:
    return _find_low(values.tolist()), 1.0


def _draw_detection(report: Report) -> list[Chart]:
    detection = measure_detection(report.labels, report.probabilities)
    areas = detection.precision.mean(axis=1)
    measured = np.flatnonzero(~np.isnan(areas))
    if not len(measured):
        return []
    worst = [at for at in measured[np.argsort(areas[measured], kind="stable")][:CURVES] if areas[at] < 1 - 1e-9]
    precision = {"mean of the classes": detection.precision[measured].mean(axis=0)}
    rate = {"mean of the classes": detection.false_positive_rate[measured].mean(axis=0)}
    for at in worst:
        precision[report.classes[at]] = detection.precision[at]
        rate[report.classes[at]] = detection.false_positive_rate[at]
    floor = 10.0 ** np.floor(np.log10(1 / len(report.labels)))
    true_score = report.probabilities[np.arange(len(report.labels)), report.labels]
    edges = np.linspace(0, 1, NUM_BARS + 1)
    counts = np.histogram(true_score, edges)[0]
    which = (
        "each class against the rest, the worst few" if len(worst) < len(measured) else "each class against the rest"
    )
    return [
        draw_chart(
            "Precision and recall",
            f"By threshold of the probability, {which}.",
            Axis("recall", 0, 1),
            Axis("precision", 0, 1),
            lines=[
                Line(name, f"line-{at}", GRID[1:], values[1:]) for at, (name, values) in enumerate(precision.items())
            ],
        ),
        draw_chart(
            "ROC",
            f"False alarms on a logarithmic scale, {which}.",
            Axis("false positive rate", float(floor), 1, log=True),
            Axis("true positive rate", 0, 1),
            lines=[Line(name, f"line-{at}", values, GRID) for at, (name, values) in enumerate(rate.items())],
        ),
        draw_chart(
            "Probability of the true class",
            "Images by what the model gave the right answer, logarithmic scale.",
            Axis("probability", 0, 1),
            Axis("images", 0.7, max(float(counts.max()) * 1.3, 10), log=True),
            bars=[
                Bars(
                    "images",
                    "bar-right",
                    (edges[:-1] + 0.004).tolist(),
                    (edges[1:] - 0.004).tolist(),
                    np.maximum(counts, 0.7).tolist(),
                    [
                        f"{c:,} images, probability {edges[at]:.2f} to {edges[at + 1]:.2f}"
                        for at, c in enumerate(counts)
                    ],
                )
            ],
        ),
    ]


def _describe_matrix(confusion: Int64[np.ndarray, "k k"], classes: list[str]) -> dict[str, Any]:
    chosen = _choose_classes(confusion)
    totals = np.maximum(confusion.sum(axis=1), 1)
    rows = [
        {
            "true": int(row),
            "cells": [
                {
                    "predicted": int(column),
                    "count": int(confusion[row, column]),
                    "share": confusion[row, column] / totals[row],
                }
                for column in chosen
            ],
        }
        for row in chosen
    ]
    long = max(len(classes[at]) for at in chosen) > SHORT_NAME
    return {"rows": rows, "long": long, "classes": [int(at) for at in chosen], "all": len(chosen) == len(classes)}


def _choose_classes(confusion: Int64[np.ndarray, "k k"]) -> list[int]:
    """All classes, or those that are most often taken for each other, in their order."""
    if len(confusion) <= MATRIX_CLASSES:
        return list(range(len(confusion)))
    chosen: set[int] = set()
    for row, column in _rank_pairs(confusion):
        if len(chosen | {row, column}) <= FEWER_CLASSES:
            chosen |= {row, column}
    chosen |= set(range(max(0, FEWER_CLASSES - len(chosen)))) if not chosen else set()
    return sorted(chosen)


def _rank_pairs(confusion: Int64[np.ndarray, "k k"]) -> list[tuple[int, int]]:
    """Confusions (true, predicted), the most frequent first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    rows, columns = wrong.nonzero()
    order = np.argsort(-wrong[rows, columns], kind="stable")
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


def _list_pairs(
    confusion: Int64[np.ndarray, "k k"], first_cards: Mapping[tuple[int, int], int]
) -> list[dict[str, Any]]:
    support = confusion.sum(axis=1)
    pairs = _rank_pairs(confusion)[:MOST_PAIRS]
    most = max((int(confusion[pair]) for pair in pairs), default=1)
    return [
        {
            "true": true,
            "predicted": predicted,
            "count": int(confusion[true, predicted]),
            "share": confusion[true, predicted] / support[true],
            "length": confusion[true, predicted] / most,
            "card": first_cards.get((true, predicted)),
        }
        for true, predicted in pairs
    ]


def _describe_cards(
    report: Report, predicted: Int64[np.ndarray, " n"]
) -> tuple[list[dict[str, Any]], dict[tuple[int, int], int]]:
    """Cards in the order of the sheet, and the number of the first card of each (true, predicted)."""
    cards, firsts = [], {}
    for at, row in enumerate(report.shown.tolist()):
        probabilities = report.probabilities[row]
        true, winner = int(report.labels[row]), int(predicted[row])
        top = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
        listed = top if true in top else [*top[: TOP - 1], true]
        first = firsts.setdefault((true, winner), at) == at
        bars = [(report.classes[k], float(probabilities[k]), k == true) for k in listed]
        card = {"true": true, "predicted": winner, "wrong": true != winner, "first": first}
        cards.append({**card, "name": report.names[row], "bars": bars})
    return cards, firsts


def _describe_classes(report: Report, confusion: Int64[np.ndarray, "k k"]) -> list[dict[str, Any]]:
    """Rows of the table of classes, the worst F1 first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    rows = [
        {
            "class": at,
            "support": scores.support,
            "scores": [scores.precision, scores.recall, scores.f1],
            "taken_for": int(wrong[at].argmax()) if wrong[at].any() else None,
            "taken": int(wrong[at].max()),
        }
        for at, scores in enumerate(report.metrics.classes)
    ]
    return sorted(rows, key=lambda row: (row["support"] == 0, row["scores"][-1].value))


def _describe_samples(report: Report) -> dict[str, Any]:
    k = len(report.classes)
    train = report.data.splits["train"]
    counts = {split: np.bincount(rows.labels, minlength=k) for split, rows in report.data.splits.items()}
    each = max(1, min(SAMPLES_PER_CLASS, MOST_SAMPLES // k))
    order = np.argsort(train.labels, kind="stable")
    starts = np.searchsorted(train.labels[order], np.arange(k + 1))
    rows = [
        order[start : min(end, start + each)] for start, end in zip(starts[:MOST_SAMPLES], starts[1:], strict=False)
    ]
    chosen = np.concatenate(rows)
    ends = np.cumsum([len(row) for row in rows]).tolist()
    numbers = [list(range(end - len(row), end)) for row, end in zip(rows, ends, strict=True)]
    numbers += [[] for _ in range(k - len(numbers))]
    return {
        "sheet": draw_sheet(train.images[chosen]),
        "rows": [
            {"class": at, "numbers": numbers[at], "counts": {split: int(count[at]) for split, count in counts.items()}}
            for at in range(k)
        ],
        "totals": {split: int(count.sum()) for split, count in counts.items()},
        "most": int(np.sum(list(counts.values()), axis=0).max()),
    }


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as rows of a dotted name and a text."""
    rows = {}
    for name, value in params.items():
        if isinstance(value, dict):
            rows |= _flatten(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return rows


def _rank_within(groups: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many earlier elements have the same value."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(groups)])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return ranks
