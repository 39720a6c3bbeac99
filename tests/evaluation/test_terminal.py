import os
import pty
import subprocess
import sys

import pytest

from imclass.evaluation.metrics import Estimate
from imclass.evaluation.terminal import BAR, draw_bar

CODE = """
import numpy as np
from imclass.evaluation.metrics import count_confusion, estimate_metrics
from imclass.evaluation.terminal import print_summary
labels = np.arange(40) % 2
predicted = np.where(np.arange(40) < 3, 1 - labels, labels)
metrics = estimate_metrics(3 * np.eye(2)[predicted].astype(np.float32), labels)
print_summary(metrics, count_confusion(labels, predicted, 2), ["[red]cat", "dog"], ["too [bold]few"])
"""


def test_piped_summary_is_plain_lines() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "accuracy 0.9250 (0.8014 to 0.9742)"
    assert lines[-1] == "doubtful: too [bold]few"
    assert done.stdout.isascii()


def test_summary_on_a_terminal_fits_one_screen() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    subprocess.run([sys.executable, "-c", CODE], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    text = ""
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123
        try:
            while read := terminal.read(4096):
                text += read.decode(errors="replace")
        except OSError:  # the other end is closed
            pass
    assert "0.9250" in text
    assert "┃" in text
    assert "[red]cat" in text
    assert "too [bold]few" in text
    assert len(text.splitlines()) <= 24


@pytest.mark.parametrize(
    ("estimate", "bar"),
    [
        (Estimate(0.5, 0.5, 0.5), "─" * 12 + "┃" + "─" * 11),
        (Estimate(1.0, 0.0, 1.0), "━" * 23 + "┃"),
        (Estimate(0.0, -1.0, 2.0), "┃" + "━" * 23),
    ],
)
def test_bar_shows_interval_and_value(estimate: Estimate, bar: str) -> None:
    assert draw_bar(estimate, 0.0, 1.0) == bar
    assert len(bar) == BAR
