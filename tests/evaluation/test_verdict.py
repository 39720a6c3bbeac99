from typing import Any

import numpy as np
import pytest

from imclass.evaluation.metrics import estimate_metrics
from imclass.evaluation.verdict import doubt_test
from imclass.training.history import Epoch

CLASSES = ["cat", "dog"]


def judge(labels: np.ndarray, logits: np.ndarray, *, val_accuracy: float = 0.97, val_images: int = 400) -> list[str]:
    metrics = estimate_metrics(logits, labels)
    weights = np.exp(logits)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    best = Epoch(1, 0.1, 0.9, 0.1, 0.1, val_accuracy, 0.1)
    return doubt_test(metrics, labels, probabilities, CLASSES, best=best, val_images=val_images)


def make_logits(labels: np.ndarray, *, sure: float = 3.5, wrong: int = 0) -> np.ndarray:
    predicted = labels.copy()
    predicted[:wrong] = 1 - predicted[:wrong]
    return sure * np.eye(2, dtype=np.float32)[predicted].astype(np.float32)


def test_sound_test_has_no_doubt() -> None:
    labels = np.arange(400) % 2
    assert judge(labels, make_logits(labels, wrong=12)) == []


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (np.arange(30) % 2, {}, "30 test images leave the accuracy open from 0.89 to 1.00"),
        (np.arange(400) % 2, {"wrong": 190}, "not clearly better than always answering 'cat'"),
        ((np.arange(400) < 200).astype(np.int64), {"wrong": 200}, "never predicted: 'dog'"),
        ((np.arange(400) < 9).astype(np.int64), {}, "fewer than 10 test images: 'dog'"),
        (np.arange(400) % 2, {"sure": 1.0}, "its confidence is 0.27 below its accuracy on average"),
        (np.arange(400) % 2, {"wrong": 60}, "its confidence is 0.12 above its accuracy on average"),
        (np.arange(400) % 2, {"wrong": 60}, "validation gave 0.9700, above this by more than chance"),
    ],
)
def test_doubt_is_told(labels: np.ndarray, options: dict[str, Any], expected: str) -> None:
    logits = make_logits(np.zeros_like(labels)) if "never" in expected else make_logits(labels, **options)
    found = judge(labels, logits)
    assert [doubt for doubt in found if doubt.startswith(expected)], found
