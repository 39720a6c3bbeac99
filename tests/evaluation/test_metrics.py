import tracemalloc
import warnings
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from imclass.errors import InputError
from imclass.evaluation.metrics import (
    Estimate,
    count_confusion,
    estimate_metrics,
    estimate_share,
    list_figures,
    measure_probabilities,
    rank_confusions,
    write_class_metrics,
)

Case = tuple[np.ndarray, np.ndarray, int]
TEMPERATURE = 1.7


def simulate(
    seed: int, count: int, k: int, *, gain: float = 2.0, absent: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, the later classes more often, and logits that are right in most cases and too sure."""
    chance = np.random.default_rng(seed)
    shares = np.arange(1, k + 1, dtype=np.float64)
    shares[0] *= not absent
    labels = chance.choice(k, count, p=shares / shares.sum())
    logits = chance.normal(size=(count, k)) + gain * np.eye(k)[labels]
    return labels, (1.5 * logits).astype(np.float32)


@pytest.fixture(params=[2, 5, 10, 200])
def case(request: pytest.FixtureRequest) -> Case:
    """Labels and logits over k classes; of more than two, one has no image and one is never predicted."""
    labels, logits = simulate(request.param, 500, request.param, absent=request.param > 2)
    if request.param > 2:
        logits[:, 1] -= 20
    return labels, logits, request.param


def soften(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64) / TEMPERATURE)
    return exponents / exponents.sum(axis=1, keepdims=True)


def measure_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=15)
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    return float((counts[counts > 0] * np.abs(accuracy - mean_confidence)).sum() / len(correct))


def test_overall_figures_equal_scikit_learn(case: Case) -> None:
    labels, logits, k = case
    probabilities, predicted = soften(logits), logits.argmax(axis=1)
    found = {name: one.value for name, one in estimate_metrics(logits, labels, temperature=TEMPERATURE).overall.items()}
    with warnings.catch_warnings(action="ignore"):  # of the absent class
        expected = {
            "accuracy": oracle.accuracy_score(labels, predicted),
            "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
            "macro_f1": oracle.f1_score(labels, predicted, average="macro", zero_division=0),
            "weighted_f1": oracle.f1_score(labels, predicted, average="weighted", zero_division=0),
            "log_loss": oracle.log_loss(labels, probabilities, labels=range(k)),
            "brier": oracle.brier_score_loss(labels, probabilities, labels=range(k), scale_by_half=False),
            "ece": measure_calibration_error(predicted == labels, probabilities.max(axis=1)),
            "roc_auc": np.mean([oracle.roc_auc_score(labels == at, probabilities[:, at]) for at in set(labels)]),
        }
    if k >= 5:
        guesses = 5 if k >= 20 else 3
        expected[f"top_{guesses}"] = oracle.top_k_accuracy_score(labels, probabilities, k=guesses, labels=range(k))
    assert found == pytest.approx(expected)


def test_figures_of_classes_equal_scikit_learn(case: Case) -> None:
    labels, logits, k = case
    probabilities, predicted = soften(logits), logits.argmax(axis=1)
    assert np.array_equal(
        count_confusion(labels, predicted, k), oracle.confusion_matrix(labels, predicted, labels=range(k))
    )
    classes = estimate_metrics(logits, labels, temperature=TEMPERATURE).classes
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=range(k), zero_division=0)
    for at, scores in enumerate(classes):
        found = (scores.precision.value, scores.recall.value, scores.f1.value, scores.support)
        assert found == pytest.approx([column[at] for column in expected])
        if scores.support == 0:
            assert scores.recall == Estimate(0.0, 0.0, 1.0)
            assert scores.roc_auc is None
        else:
            assert scores.roc_auc
            assert scores.roc_auc.value == pytest.approx(oracle.roc_auc_score(labels == at, probabilities[:, at]))


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (3, 3), (81, 263), (9_999, 10_000)])
def test_interval_of_a_share_is_wilsons(hits: int, total: int) -> None:
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert astuple(estimate_share(hits, total)) == pytest.approx((hits / total, expected.low, expected.high), abs=1e-12)


def test_intervals_hold_the_true_figure_about_as_often_as_they_say() -> None:
    repeats = 100
    labels, logits = simulate(10_000, 40_000, 5)
    whole = estimate_metrics(logits, labels)
    covered: Counter[str] = Counter()
    for seed in range(repeats):
        labels, logits = simulate(seed, 400, 5)
        found = estimate_metrics(logits, labels)
        pairs = {name: (one, whole.overall[name].value) for name, one in found.overall.items()}
        for name in ("precision", "recall", "f1", "roc_auc"):  # of the rarest class, 27 images
            pairs[f"class {name}"] = getattr(found.classes[0], name), getattr(whole.classes[0], name).value
        for name, (estimate, truth) in pairs.items():
            covered[name] += estimate.low <= truth <= estimate.high
    assert len(covered) == 13
    shares = {name: count / repeats for name, count in covered.items()}
    assert {name: share for name, share in shares.items() if not 0.9 <= share <= 0.99} == {}


def test_no_mistake_is_no_proof_of_perfection() -> None:
    labels = np.arange(60) % 3
    metrics = estimate_metrics(20 * np.eye(3, dtype=np.float32)[labels], labels)
    assert metrics.overall["accuracy"] == estimate_share(60, 60)
    for name in "balanced_accuracy", "macro_f1", "weighted_f1", "roc_auc":
        assert metrics.overall[name] == metrics.overall["accuracy"]
    assert metrics.classes[0].f1.low < 0.95
    assert metrics.classes[0].roc_auc
    assert metrics.classes[0].roc_auc.low < 0.98


def test_images_of_one_class_have_no_curve() -> None:
    metrics = estimate_metrics(np.zeros((4, 2), np.float32), np.ones(4, np.int64))
    assert "roc_auc" not in metrics.overall
    assert metrics.classes[1].roc_auc is None


def test_large_logits_give_finite_figures() -> None:
    metrics = estimate_metrics(np.array([[1e4, -1e4]] * 2, np.float32), np.array([1, 0]))
    assert metrics.overall["log_loss"].value == pytest.approx(1e4)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(broken: float) -> None:
    with pytest.raises(InputError, match="expected finite logits, found others for 1 images"):
        estimate_metrics(np.array([[0, broken], [0, 1]], np.float32), np.array([0, 1]))


def test_memory_is_a_few_times_that_of_the_probabilities() -> None:
    labels, logits = simulate(0, 1_000, 1_000)
    tracemalloc.start()
    metrics = estimate_metrics(logits, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * logits.size
    assert metrics.overall["top_5"].value > metrics.overall["accuracy"].value


def test_files_hold_every_figure_with_its_ends(tmp_path: Path) -> None:
    labels, logits = simulate(0, 300, 5, absent=True)
    metrics = estimate_metrics(logits, labels, temperature=TEMPERATURE)
    assert estimate_metrics(logits, labels, temperature=TEMPERATURE) == metrics
    figures = list_figures(metrics, measure_probabilities(logits, labels, temperature=1.0), TEMPERATURE)
    assert figures["test"]["images"] == 300
    assert figures["temperature"] == TEMPERATURE
    for name, estimate in metrics.overall.items():
        found = [figures[part][name] for part in ("low", "test", "high")]
        assert found == pytest.approx([estimate.low, estimate.value, estimate.high], abs=1e-6)
        assert found == sorted(found)
    plain = estimate_metrics(logits, labels).overall
    assert figures["uncalibrated"] == pytest.approx(
        {name: plain[name].value for name in ("log_loss", "brier", "ece")}, abs=1e-6
    )

    write_class_metrics(metrics, ["a,b", "NA", "c", "d", "e"], tmp_path / "classes.csv")
    table = pd.read_csv(tmp_path / "classes.csv", index_col="class", keep_default_na=False, na_values=[""])
    assert table.index.tolist() == ["a,b", "NA", "c", "d", "e"]
    assert table.filter(like="roc_auc").loc["a,b"].isna().all()
    f1 = metrics.classes[2].f1
    assert list(table.loc["c", ["f1", "f1_low", "f1_high"]]) == pytest.approx(astuple(f1), abs=1e-6)


def test_confusions_are_ranked_by_their_number_and_leave_out_the_diagonal() -> None:
    confusion = np.array([[90, 1, 0], [5, 80, 5], [0, 7, 0]])
    assert rank_confusions(confusion) == [(2, 1), (1, 0), (1, 2), (0, 1)]
