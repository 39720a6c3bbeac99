"""Labels and probabilities -> what the charts of a report show. Shapes: n images, k classes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

GRID = np.linspace(0, 1, 101)  # recalls at which curves are read


def accuracy_by_coverage(
    confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Shares of the images, the surest first, and the accuracy on them."""
    order = np.argsort(-confidence, kind="stable")
    counts = np.unique(np.ceil(GRID[1:] * len(order)).astype(np.int64))
    return counts / len(order), np.cumsum(right[order])[counts - 1] / counts


@dataclass(frozen=True)
class Detection:
    """One class against the rest, at each recall of GRID; nan for a class without images of both kinds."""

    precision: Float[np.ndarray, "k grid"]
    false_alarms: Float[np.ndarray, "k grid"]


def measure_detection(labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n k"]) -> Detection:
    """Precision and false positive rate where the threshold is the score of the image that completes a recall.

    Images of other classes with the very score of the threshold count as found.
    """
    k = probabilities.shape[1]
    precision, rate = np.full((k, len(GRID)), np.nan), np.full((k, len(GRID)), np.nan)
    for at in range(k):
        scores, positive = np.ascontiguousarray(probabilities[:, at]), labels == at
        found, others = np.sort(scores[positive])[::-1], np.sort(scores[~positive])
        if not len(found) or not len(others):
            continue
        hits = np.maximum(np.ceil(GRID * len(found) - 1e-9), 1).astype(np.int64)
        false = len(others) - np.searchsorted(others, found[hits - 1], side="left")
        precision[at], rate[at] = hits / (hits + false), false / len(others)
    return Detection(precision, rate)
