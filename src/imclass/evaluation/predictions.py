"""Predictions of a split <-> predictions.csv: one row per image, with the probability of each class."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from imclass.files import write_rows


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
    write_rows(path, ["image", "label", "predicted", *(f"p_{name}" for name in classes)], rows)
