"""Figures of a test -> what makes its result doubtful, in sentences."""

import numpy as np
from jaxtyping import Float, Int64

from imclass.evaluation.metrics import Metrics
from imclass.training.history import Epoch

WIDE = 0.1  # an interval of the accuracy from here on says little
FEW_IMAGES = 10  # of a class say little about it
GAP = 0.05  # of confidence and accuracy
SIGMAS = 3.0  # a difference that chance hardly makes
NAMED = 5  # classes in a sentence


def doubt_test(
    metrics: Metrics,
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    classes: list[str],
    *,
    best: Epoch,
    val_images: int,
) -> list[str]:
    """Sentences, none where all is well; `best` is the epoch kept, judged on `val_images` images."""
    doubts = []
    accuracy = metrics.overall["accuracy"]
    if accuracy.high - accuracy.low > WIDE:
        doubts.append(
            f"{len(labels)} test images leave the accuracy open from {accuracy.low:.2f} to {accuracy.high:.2f}"
        )
    supports = np.array([scores.support for scores in metrics.classes])
    largest = int(supports.argmax())
    if accuracy.low <= supports[largest] / len(labels):
        doubts.append(f"not clearly better than always answering {classes[largest]!r}")
    predicted = probabilities.argmax(axis=1)
    never = np.setdiff1d(np.flatnonzero(supports), predicted)
    if len(never):
        doubts.append(f"never predicted: {_name(never, classes)}")
    few = np.flatnonzero(supports < FEW_IMAGES)
    if len(few):
        doubts.append(f"fewer than {FEW_IMAGES} test images: {_name(few, classes)}")
    gap = float(probabilities.max(axis=1).mean()) - accuracy.value
    if abs(gap) > GAP:
        doubts.append(f"its confidence is {abs(gap):.2f} {'above' if gap > 0 else 'below'} its accuracy on average")
    both = (accuracy.value * len(labels) + best.val_accuracy * val_images) / (len(labels) + val_images)
    chance = np.sqrt(both * (1 - both) * (1 / len(labels) + 1 / val_images))
    if abs(best.val_accuracy - accuracy.value) > SIGMAS * chance:
        if best.val_accuracy > accuracy.value:
            why = (
                "above this by more than chance: the choice of epoch and params has followed it, or the test is harder"
            )
        else:
            why = "below this by more than chance: the test is easier"
        doubts.append(f"validation gave {best.val_accuracy:.4f}, {why}")
    return doubts


def _name(found: Int64[np.ndarray, " m"], classes: list[str]) -> str:
    names = ", ".join(repr(classes[at]) for at in found[:NAMED])
    return f"{names} and {len(found) - NAMED} more" if len(found) > NAMED else names
