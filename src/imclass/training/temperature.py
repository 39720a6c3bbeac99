"""Validation logits + labels -> the temperature by which they are divided to give honest probabilities."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int64

from imclass.models.classifier import Classifier

LOWEST, HIGHEST = 0.05, 20.0
TOLERANCE = 1e-6  # relative; the last step leaves an error of about its square
MAX_STEPS = 50


def calibrate(model: Classifier, logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> None:
    """Give the model the temperature that fits its logits of the validation split."""
    model.config = replace(model.config, temperature=fit_temperature(logits, labels))


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> float:
    """The temperature of the lowest mean log loss of softmax(logits / temperature) (Guo and others 2017).

    It lies within 0.05 to 20: where every image is right, ever lower ones would be ever better. The loss is convex in
    1 / temperature, so the zero of its slope is found by Newton's method, which an interval keeps in bounds.
    """
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    true = values[np.arange(len(labels)), labels]

    def differentiate(sharpness: float) -> tuple[float, float]:
        """Slope and curvature of the loss by 1 / temperature: means over images.

        They are by how much the expected logit exceeds that of the true class, and the variance of the logits.
        """
        weights = np.exp(values * sharpness)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = (weights * values).sum(axis=1)
        variance = (weights * (values - expected[:, None]) ** 2).sum(axis=1)
        return float((expected - true).mean()), float(variance.mean())

    low, high, sharpness = 1 / HIGHEST, 1 / LOWEST, 1.0
    if differentiate(high)[0] <= 0:
        return LOWEST
    if differentiate(low)[0] >= 0:
        return HIGHEST
    for _ in range(MAX_STEPS):
        slope, curvature = differentiate(sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        step = -slope / curvature if curvature > 0 else np.inf
        if abs(step) <= TOLERANCE * sharpness:
            break
        sharpness = sharpness + step if low < sharpness + step < high else (low + high) / 2
    return 1 / sharpness
