from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imclass.errors import InputError
from imclass.evaluation.figure import draw_summary
from imclass.evaluation.metrics import count_confusion, write_reliability
from imclass.evaluation.predictions import Decision, read_classes, read_decisions, write_decisions, write_predictions
from imclass.training.history import Epoch

HISTORY = [Epoch(1, 2.0, 0.3, 1.5, 1.4, 0.4, 0.1), Epoch(2, 1.0, 0.6, 0.9, 0.8, 0.7, 0.05)]


def make_probabilities(count: int, k: int) -> np.ndarray:
    weights = np.random.default_rng(0).random((count, k)).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)


def test_predictions_hold_labels_and_probabilities(tmp_path: Path) -> None:
    probabilities = np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)
    write_predictions(
        tmp_path / "p.csv",
        names=["a.png", "b, c.png"],
        labels=np.array([0, 0]),
        probabilities=probabilities,
        classes=["NA", "b"],
    )
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert table.columns.tolist() == ["image", "label", "predicted", "p_NA", "p_b"]
    assert table.image.tolist() == ["a.png", "b, c.png"]
    assert table.predicted.tolist() == ["b", "NA"]
    np.testing.assert_allclose(table[["p_NA", "p_b"]], probabilities, atol=1e-6)

    text = (tmp_path / "p.csv").read_text()
    decisions = {"a.png": Decision("NA", "b"), "b, c.png": Decision("NA", "NA")}
    assert read_decisions(text, "p.csv") == decisions
    assert read_classes(text) == ["NA", "b"]
    write_decisions(tmp_path / "d.csv", decisions)
    assert read_decisions((tmp_path / "d.csv").read_text(), "d.csv") == decisions
    assert read_decisions("image,label,predicted\n", "d.csv") == {}


@pytest.mark.parametrize("text", ["", "image,label\na,b\n", "<html>"])
def test_another_table_is_not_taken_for_predictions(text: str) -> None:
    with pytest.raises(InputError, match=r"p\.csv: expected a table of predictions with columns image,label,predicted"):
        read_decisions(text, "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: expected 3 fields in each row, found 2 in row 2"):
        read_decisions("image,label,predicted\n1.png,a,b\n2.png,a\n", "p.csv")


def test_reliability_has_a_row_for_each_bin_with_images(tmp_path: Path) -> None:
    probabilities = np.array([[0.95, 0.05], [0.97, 0.03], [0.4, 0.6]], np.float32)
    write_reliability(tmp_path / "r.csv", probabilities, np.array([0, 1, 1]))
    assert (tmp_path / "r.csv").read_text() == "confidence,accuracy,images\n0.6,1.0,1\n0.96,0.5,2\n"


def draw(path: Path, k: int, channels: int) -> None:
    probabilities = make_probabilities(60, k)
    labels = np.random.default_rng(1).integers(0, k, 60)
    draw_summary(
        path,
        history=HISTORY,
        confusion=count_confusion(labels, probabilities.argmax(axis=1), k),
        classes=[f"class {at}" for at in range(k)],
        images=np.random.default_rng(2).integers(0, 256, (60, channels, 9, 7), np.uint8),
        labels=labels,
        probabilities=probabilities,
    )


def test_summary_is_a_picture_with_stable_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 3, 1)
    draw(tmp_path / "b.png", 3, 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1100, 800)
        assert not picture.info.get("Software")


def test_summary_of_many_classes_and_colour_pictures(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 200, 3)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_summary_without_a_mistake(tmp_path: Path) -> None:
    draw_summary(
        tmp_path / "a.png",
        history=HISTORY[:1],
        confusion=np.array([[1, 0], [0, 1]]),
        classes=["$a_b$", "b"],
        images=np.zeros((2, 1, 4, 4), np.uint8),
        labels=np.array([0, 1]),
        probabilities=np.eye(2, dtype=np.float32),
    )
    assert (tmp_path / "a.png").exists()
