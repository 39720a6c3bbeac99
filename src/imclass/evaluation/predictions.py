"""Predictions of a split <-> predictions.csv: one row per image, with the probability of each class."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from imclass.errors import InputError
from imclass.files import write_rows

COLUMNS = ["image", "label", "predicted"]


@dataclass(frozen=True)
class Decision:
    """What a model took an image for, beside what it is."""

    label: str
    predicted: str


def list_decisions(
    names: list[str], labels: Int64[np.ndarray, " n"], predicted: Int64[np.ndarray, " n"], classes: list[str]
) -> dict[str, Decision]:
    """The decision on each image, by its name and in this order."""
    pairs = zip(labels.tolist(), predicted.tolist(), strict=True)
    return {name: Decision(classes[true], classes[taken]) for name, (true, taken) in zip(names, pairs, strict=True)}


def write_predictions(
    path: Path,
    *,
    names: list[str],
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    classes: list[str],
) -> None:
    """Columns image, label, predicted and `p_CLASS` for each class, whole or not at all."""
    predicted = probabilities.argmax(axis=1)
    rows = (
        [name, classes[label], classes[winner], *(f"{p:.6f}" for p in row.tolist())]
        for name, label, winner, row in zip(names, labels, predicted, probabilities, strict=True)
    )
    write_rows(path, [*COLUMNS, *(f"p_{name}" for name in classes)], rows)


def write_decisions(path: Path, decisions: Mapping[str, Decision]) -> None:
    """The first three columns alone, whole or not at all."""
    write_rows(path, COLUMNS, ([image, one.label, one.predicted] for image, one in decisions.items()))


def read_decisions(text: str, source: str) -> dict[str, Decision]:
    """The decision on each image, by its name and in the order of the table.

    `source` names the table in the InputError that one without the columns image, label and predicted raises.
    """
    header, *rows = csv.reader(io.StringIO(text, newline="")) if text.strip() else [[]]
    if header[:3] != COLUMNS:
        raise InputError(f"{source}: expected a table of predictions with columns {','.join(COLUMNS)}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise InputError(f"{source}: expected {len(header)} fields in each row, found {len(row)} in row {number}")
    return {image: Decision(label, predicted) for image, label, predicted, *_ in rows}


def read_classes(text: str) -> list[str]:
    """All classes of a table with probabilities, in their order."""
    header = next(csv.reader(io.StringIO(text, newline="")))
    return [name.removeprefix("p_") for name in header[len(COLUMNS) :]]
