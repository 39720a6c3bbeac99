import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from imclass.evaluation.report.curves import GRID, accuracy_by_coverage, measure_detection


def test_accuracy_by_coverage_takes_the_surest_first() -> None:
    coverage, accuracy = accuracy_by_coverage(np.array([0.9, 0.4, 0.8, 0.7]), np.array([True, False, True, False]))
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 0.5])


def test_detection_lies_on_the_curves_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    scores = np.round(rng.random((500, 3)) + 0.4 * np.eye(3)[labels], 2)  # with many equal ones
    found = measure_detection(labels, scores)
    for at in range(3):
        false, true, _ = roc_curve(labels == at, scores[:, at], drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(labels == at, scores[:, at])
        for column, needed in enumerate(GRID[1:], 1):
            np.testing.assert_allclose(found.false_alarms[at, column], false[true >= needed - 1e-9].min())
            first = np.flatnonzero(recall >= needed - 1e-9)[-1]  # recall falls with the threshold's rise
            positives = (labels == at).sum()
            hits = np.ceil(needed * positives - 1e-9)
            false_alarms = recall[first] * positives / precision[first] - recall[first] * positives
            np.testing.assert_allclose(found.precision[at, column], hits / (hits + false_alarms))


def test_class_without_images_has_no_curve() -> None:
    found = measure_detection(np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]))
    assert np.isnan(found.precision[2]).all()
    assert (found.precision[:2] == 1).all()
    assert (found.false_alarms[:2] == 0).all()
