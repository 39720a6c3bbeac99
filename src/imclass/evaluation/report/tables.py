"""Figures, counts and a packed set -> the rows of the page's tables. Shapes: k classes."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.data.findings import KINDS, Finding
from imclass.data.packed import Packed, read_names
from imclass.evaluation.metrics import Estimate, Metrics, rank_confusions
from imclass.evaluation.report.charts import find_end, find_start
from imclass.evaluation.report.sheets import draw_sheet

MATRIX_CLASSES = 26  # more are cut down to those most taken for each other
FEWER_CLASSES = 16
MOST_PAIRS = 10
MOST_SAMPLES, SAMPLES_PER_CLASS = 160, 8
MOST_FINDINGS = 20  # of a kind
DONE = {"fail": "stops the build", "drop": "left out", "warn": "only told"}  # by policy
SHORT_NAME = 3  # characters; longer ones stand upright over the matrix
SHARES = {
    "accuracy": ("accuracy", "share of images recognised"),
    "balanced_accuracy": ("balanced accuracy", "mean recall of classes"),
    "top_3": ("top 3 accuracy", "truth among the likeliest 3"),
    "top_5": ("top 5 accuracy", "truth among the likeliest 5"),
    "macro_f1": ("macro F1", "mean F1 of classes"),
    "weighted_f1": ("weighted F1", "weighted by images"),
    "roc_auc": ("ROC AUC", "mean of class against rest"),
}
LOSSES = {
    "log_loss": ("log loss", "mean -log p(true class)"),
    "brier": ("Brier score", "squared error of probabilities"),
    "ece": ("calibration error", "gap of confidence, accuracy"),
}


def scale_estimates(overall: Mapping[str, Estimate], names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Rows (name, meaning, estimate) of those metrics that there are, and the ends of their common axis."""
    rows = [(name, text, overall[key]) for key, (name, text) in names.items() if key in overall]
    if names is SHARES:
        return {"rows": rows, "low": find_start(estimate.low for _, _, estimate in rows), "high": 1.0}
    return {"rows": rows, "low": 0.0, "high": find_end(estimate.high for _, _, estimate in rows)}


def describe_matrix(confusion: Int64[np.ndarray, "k k"], classes: list[str]) -> dict[str, Any]:
    """Rows of cells of all classes, or of those that are most often taken for each other."""
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


def list_pairs(confusion: Int64[np.ndarray, "k k"], first_cards: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    """The most frequent confusions, with the number of the first card of each."""
    support = confusion.sum(axis=1)
    pairs = rank_confusions(confusion)[:MOST_PAIRS]
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


def describe_classes(metrics: Metrics, confusion: Int64[np.ndarray, "k k"]) -> list[dict[str, Any]]:
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
        for at, scores in enumerate(metrics.classes)
    ]
    return sorted(rows, key=lambda row: (row["support"] == 0, row["scores"][-1].value))


def describe_samples(data: Packed) -> dict[str, Any]:
    """A sheet of training images, and rows of each class's numbers in it and of its images in each split."""
    k = len(data.classes)
    train = data.splits["train"]
    counts = {split: np.bincount(rows.labels, minlength=k) for split, rows in data.splits.items()}
    each = max(1, min(SAMPLES_PER_CLASS, MOST_SAMPLES // k))
    rows = [np.flatnonzero(train.labels == at)[:each] for at in range(min(k, MOST_SAMPLES))]
    numbers = np.split(np.arange(sum(map(len, rows))), np.cumsum([len(row) for row in rows])[:-1])
    return {
        "sheet": draw_sheet(train.images[np.concatenate(rows)]),
        "rows": [
            {
                "class": at,
                "numbers": numbers[at].tolist() if at < len(numbers) else [],
                "counts": {split: int(count[at]) for split, count in counts.items()},
            }
            for at in range(k)
        ],
        "totals": {split: int(count.sum()) for split, count in counts.items()},
        "most": int(np.sum(list(counts.values()), axis=0).max()),
    }


def describe_sizes(sizes: Int64[np.ndarray, "sizes 3"]) -> dict[str, Any]:
    """The smallest, median and largest size by area, as (width, height), and the numbers of pictures by shape."""
    widths, heights, counts = sizes[np.argsort(sizes[:, 0] * sizes[:, 1], kind="stable")].T
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return {
        "count": len(sizes),
        "ends": [(int(widths[at]), int(heights[at])) for at in (0, middle, -1)],
        "shapes": {
            "wide": int(counts[widths > heights].sum()),
            "high": int(counts[widths < heights].sum()),
            "square": int(counts[widths == heights].sum()),
        },
    }


def describe_findings(data: Packed, findings: Sequence[Finding], policies: Mapping[str, str]) -> dict[str, Any]:
    """Rows of the kinds that were found, in their order, rows of the first findings of each, and a sheet of pictures.

    `picture` is the number of a finding's picture in the sheet, None where the packed set does not hold it.
    """
    counts = Counter(found.kind for found in findings)
    shown = [found for kind in counts for found in [one for one in findings if one.kind == kind][:MOST_FINDINGS]]
    pictures = _find_pictures(data, {found.file for found in shown if found.file})
    numbers = {file: number for number, file in enumerate(pictures)}
    kinds = [
        {"kind": kind, "meaning": KINDS[kind], "count": count, "policy": policies[kind], "done": DONE[policies[kind]]}
        for kind, count in counts.items()
    ]
    return {
        "kinds": kinds,
        "rows": [{"found": found, "picture": numbers.get(found.file)} for found in shown],
        "total": len(findings),
        "sheet": draw_sheet(np.stack(list(pictures.values()))) if pictures else None,
    }


def _find_pictures(data: Packed, names: Collection[str]) -> dict[str, UInt8[np.ndarray, "c h w"]]:
    """Those of the named pictures that the packed set holds."""
    found: dict[str, UInt8[np.ndarray, "c h w"]] = {}
    for split, part in data.splits.items() if names else ():
        found |= {name: part.images[at] for at, name in enumerate(read_names(data, split)) if name in names}
    return found


def _choose_classes(confusion: Int64[np.ndarray, "k k"]) -> list[int]:
    """All classes, or those that are most often taken for each other, in their order."""
    if len(confusion) <= MATRIX_CLASSES:
        return list(range(len(confusion)))
    chosen: set[int] = set()
    for row, column in rank_confusions(confusion):
        if len(chosen | {row, column}) <= FEWER_CLASSES:
            chosen |= {row, column}
    return sorted(chosen or range(FEWER_CLASSES))
