"""Predictions of a split <-> predictions.csv: one row per image, with the probability of each class."""

import csv
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from imclass.files import write_text


def write_predictions(
    path: Path,
    *,
    names: list[str],
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    classes: list[str],
) -> None:
    """Columns image, label, predicted and `p_CLASS` for each class, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "predicted", *(f"p_{name}" for name in classes)])
    predicted = probabilities.argmax(axis=1)
    for name, label, winner, row in zip(names, labels, predicted, probabilities, strict=True):
        writer.writerow([name, classes[label], classes[winner], *(f"{p:.6f}" for p in row.tolist())])
    write_text(path, text.getvalue())
