"""Logits and labels -> counts, and numbers from the counts (numpy: scikit-learn takes longer to import than to train).

Shapes: n images, k classes. Rows of a confusion matrix are true classes, columns predicted ones.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from imclass.files import write_rows


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScores:
    """Per class; a share with nothing to divide by is 0."""

    precision: Float[np.ndarray, " k"]
    recall: Float[np.ndarray, " k"]
    f1: Float[np.ndarray, " k"]
    support: Int64[np.ndarray, " k"]


def count_confusion(
    labels: Int64[np.ndarray, " n"], predicted: Int64[np.ndarray, " n"], num_classes: int
) -> Int64[np.ndarray, "k k"]:
    """How often each class was taken for each."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def score_classes(confusion: Int64[np.ndarray, "k k"]) -> ClassScores:
    """Precision, recall, F1 and number of images of each class."""
    hits = confusion.diagonal()
    support = confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)
    return ClassScores(
        _divide(hits, predicted), _divide(hits, support), _divide(2 * hits, support + predicted), support
    )


def mean_log_loss(logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> float:
    """Mean of -log(probability of the true class), natural logarithm."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def summarise(confusion: Int64[np.ndarray, "k k"], log_loss: float) -> dict[str, float]:
    """The figures of a test over all images."""
    return {
        "accuracy": float(confusion.trace() / confusion.sum()),
        "loss": log_loss,
        "macro_f1": float(score_classes(confusion).f1.mean()),
        "images": int(confusion.sum()),
    }


def write_class_scores(confusion: Int64[np.ndarray, "k k"], classes: list[str], path: Path) -> None:
    """Write one row per class: class, precision, recall, f1, support; whole or not at all."""
    scores = score_classes(confusion)
    columns = [column.tolist() for column in (scores.precision, scores.recall, scores.f1, scores.support)]
    write_rows(path, ["class", "precision", "recall", "f1", "support"], zip(classes, *columns, strict=True))


def _divide(counts: np.ndarray, totals: np.ndarray) -> Float[np.ndarray, " k"]:
    return np.divide(counts, totals, out=np.zeros(len(counts)), where=totals > 0)
