"""Predictions of the work tree -> the accepted model's, with which the gate compares every later one."""

from pathlib import Path

from imclass.evaluation.predictions import read_decisions, write_decisions
from imclass.team.compare import PREDICTIONS

ACCEPTED = Path("reports/accepted.csv")


def accept() -> int:
    """Write image, label and predicted class of every test image to reports/accepted.csv -> number of images.

    Raises InputError where the predictions are not such a table.
    """
    decisions = read_decisions(PREDICTIONS.read_text(encoding="utf-8"), str(PREDICTIONS))
    write_decisions(ACCEPTED, decisions)
    return len(decisions)
