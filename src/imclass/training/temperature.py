"""Validation logits + labels -> the temperature by which they are divided to give honest probabilities."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64

from imclass.models.classifier import Classifier

LOWEST, HIGHEST = 0.05, 20.0


def calibrate(model: Classifier, logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> None:
    """Give the model the temperature that fits its logits of the validation split."""
    model.config = replace(model.config, temperature=fit_temperature(logits, labels))


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> float:
    """The temperature of the lowest mean log loss of softmax(logits / temperature) (Guo and others 2017), 0.05 to 20.

    Each label leaves 1 / (n + 2) to all classes alike (after Platt 1999): where every image is right, ever lower
    temperatures would else be ever better, however few images there are. The loss is convex in 1 / temperature, so its
    slope is bisected.
    """
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    true = values[np.arange(len(labels)), labels]
    aimed = true + (values.mean(axis=1) - true) / (len(labels) + 2)

    def is_rising(sharpness: float) -> bool:
        """Whether the loss rises with 1 / temperature: the expected logit then exceeds the one aimed at."""
        weights = np.exp(values * sharpness)
        expected = (weights * values).sum(axis=1) / weights.sum(axis=1)
        return float((expected - aimed).mean()) > 0

    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if is_rising(middle) else (middle, high)
    return 2 / (low + high)
