"""Validation logits + labels -> the temperature by which they are divided to give honest probabilities."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64

from imclass.models.classifier import Classifier

LOWEST, HIGHEST = 0.05, 20.0
TOLERANCE = 1e-6  # relative, of the last step, which leaves an error of about its square
MAX_STEPS = 50


def calibrate(model: Classifier, logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> None:
    """Give the model the temperature that fits its logits of the validation split."""
    model.config = replace(model.config, temperature=fit_temperature(logits, labels))


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> float:
    """The temperature of the lowest mean log loss of softmax(logits / temperature) (Guo and others 2017), 0.05 to 20.

    Each label leaves 1 / (n + 2) to all classes alike (after Platt 1999): where every image is right, ever lower
    temperatures would else be ever better, however few images there are. The loss is convex in 1 / temperature, so the
    zero of its slope is found by Newton's method, which an interval keeps in bounds.
    """
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    true = values[np.arange(len(labels)), labels]
    aimed = true + (values.mean(axis=1) - true) / (len(labels) + 2)

    def differentiate(sharpness: float) -> tuple[float, float]:
        """Slope and curvature of the loss by 1 / temperature: means over images.

        They are by how much the expected logit exceeds the one aimed at, and the variance of the logits.
        """
        weights = np.exp(values * sharpness)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = (weights * values).sum(axis=1)
        variance = (weights * (values - expected[:, None]) ** 2).sum(axis=1)
        return float((expected - aimed).mean()), float(variance.mean())

    low, high, sharpness = 1 / HIGHEST, 1 / LOWEST, 1.0
    if differentiate(high)[0] <= 0:
        return LOWEST
    if differentiate(low)[0] >= 0:
        return HIGHEST
    for _ in range(MAX_STEPS):
        slope, curvature = differentiate(sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        newton = sharpness - slope / curvature if curvature > 0 else np.inf
        last, sharpness = sharpness, newton if low < newton < high else (low + high) / 2
        if abs(sharpness - last) <= TOLERANCE * sharpness:
            break
    return 1 / sharpness
