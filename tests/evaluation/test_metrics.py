from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from imclass.evaluation.metrics import count_confusion, mean_log_loss, score_classes, summarise, write_class_scores


@pytest.fixture(params=[2, 10, 200])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and logits over k classes, one of which has no image and one is never predicted."""
    k = request.param
    chance = np.random.default_rng(k)
    labels = chance.integers(0, k - 1 if k > 2 else k, 500)
    logits = chance.normal(size=(500, k)).astype(np.float32) + 2 * np.eye(k, dtype=np.float32)[labels]
    if k > 2:
        logits[:, 0] -= 20
    return labels, logits, k


def test_confusion_and_scores_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, logits, k = case
    predicted = logits.argmax(axis=1)
    confusion = count_confusion(labels, predicted, k)
    assert np.array_equal(confusion, oracle.confusion_matrix(labels, predicted, labels=range(k)))
    scores = score_classes(confusion)
    precision, recall, f1, support = oracle.precision_recall_fscore_support(
        labels, predicted, labels=range(k), zero_division=0
    )
    np.testing.assert_allclose(scores.precision, precision)
    np.testing.assert_allclose(scores.recall, recall)
    np.testing.assert_allclose(scores.f1, f1)
    assert np.array_equal(scores.support, support)


def test_log_loss_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, logits, k = case
    exponents = np.exp(logits.astype(np.float64))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    assert mean_log_loss(logits, labels) == pytest.approx(oracle.log_loss(labels, probabilities, labels=range(k)))


def test_log_loss_of_large_logits_is_finite() -> None:
    assert mean_log_loss(np.array([[1e4, -1e4]], np.float32), np.array([1])) == pytest.approx(2e4)


def test_figures_by_hand(tmp_path: Path) -> None:
    confusion = np.array([[3, 1], [0, 4]])
    f1 = (6 / 7 + 8 / 9) / 2
    assert summarise(confusion, 0.5) == {"accuracy": 7 / 8, "loss": 0.5, "macro_f1": pytest.approx(f1), "images": 8}
    write_class_scores(confusion, ["a,b", "c"], tmp_path / "classes.csv")
    table = pd.read_csv(tmp_path / "classes.csv", index_col="class")
    assert list(table.loc["a,b"]) == [1.0, 0.75, pytest.approx(6 / 7), 4]
