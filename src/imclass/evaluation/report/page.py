"""What a test gave -> report.html: one file that asks for no other, with pictures, charts and tables.

The page holds no time, version or device, so that equal inputs give equal bytes. It is read without JavaScript too;
page.js adds filters, sorting and the keys of the matrix.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imclass.data.packed import Packed
from imclass.evaluation.metrics import Metrics, count_confusion
from imclass.evaluation.report.cards import choose_width, describe_cards
from imclass.evaluation.report.charts import find_start
from imclass.evaluation.report.drawings import draw_confidence, draw_detection, draw_learning
from imclass.evaluation.report.sheets import SMALL_PIXELS, draw_saliency, draw_sheet
from imclass.evaluation.report.tables import (
    LOSSES,
    SHARES,
    describe_classes,
    describe_matrix,
    describe_samples,
    list_pairs,
    scale_estimates,
)
from imclass.files import write_text
from imclass.models.classifier import ModelConfig
from imclass.training.history import Epoch, find_best

PAGE, MACROS, STYLE, SCRIPT = "page.html", "charts.html", "page.css", "page.js"
SHORT_TABLE = 20  # rows that are seen at first


@dataclass(frozen=True)
class Report:
    """What stands on the page, of `n` test images, `k` classes and the `s` images of `choose_shown`.

    `names` are those of the test images. `probabilities` are calibrated, `uncalibrated` are those of temperature 1.
    `saliency` has values in 0..1. `model_hash` is the sha256 of the model file.
    """

    data: Packed
    names: list[str]
    config: ModelConfig
    model_hash: str
    history: list[Epoch]
    metrics: Metrics
    doubts: list[str]
    probabilities: Float[np.ndarray, "n k"]
    uncalibrated: Float[np.ndarray, "n k"]
    shown: Int64[np.ndarray, " s"]
    saliency: Float[np.ndarray, "s h w"]

    @property
    def classes(self) -> list[str]:
        return self.data.classes

    @property
    def images(self) -> UInt8[np.ndarray, "n c h w"]:
        return self.data.splits["test"].images

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        return self.data.splits["test"].labels


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all."""
    folder = Path(__file__).parent
    script = (folder / SCRIPT).read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,  # names of classes and files are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=format_share, percent=format_percent, count=format_count)
    page = environment.get_template(PAGE).render(
        _describe(report),
        style=(folder / STYLE).read_text("utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, page)


def format_share(value: float) -> str:
    """A number of 0..1 with four decimals."""
    return f"{value:.4f}"


def format_percent(value: float) -> str:
    """A share as per cent, with as many digits as tell it from 100 %."""
    digits = 2 if 0.9 < value < 1 else 0 if value in (0, 1) else 1
    return f"{100 * value:.{digits}f}\u202f%"  # no line ends in this space


def format_count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def _describe(report: Report) -> dict[str, Any]:
    predicted = report.probabilities.argmax(axis=1)
    confusion = count_confusion(report.labels, predicted, len(report.classes))
    cards, first_cards = describe_cards(report.shown, report.labels, report.probabilities, report.names, report.classes)
    mistakes = int((predicted != report.labels).sum())
    return {
        "report": report,
        "accuracy": report.metrics.overall["accuracy"],
        "num_images": len(report.labels),
        "num_mistakes": mistakes,
        "shares": scale_estimates(report.metrics.overall, SHARES),
        "losses": scale_estimates(report.metrics.overall, LOSSES),
        "learning": draw_learning(report.history),
        "best": find_best(report.history),
        "confidence": draw_confidence(report.labels, report.probabilities, report.uncalibrated),
        "mean_confidence": float(report.probabilities.max(axis=1).mean()),
        "detection": draw_detection(report.labels, report.probabilities, report.classes),
        "matrix": describe_matrix(confusion, report.classes),
        "pairs": list_pairs(confusion, first_cards),
        "cards": cards,
        "shown_mistakes": sum(card["wrong"] for card in cards),
        "sheet": draw_sheet(report.images[report.shown]),
        "saliency": draw_saliency(report.saliency),
        "card_width": choose_width(report.images.shape[3], report.images.shape[2]),
        "pixelated": max(report.images.shape[2:]) <= SMALL_PIXELS,
        "class_rows": describe_classes(report.metrics, confusion),
        "class_scale": find_start(min(one.recall.low, one.precision.low, one.f1.low) for one in report.metrics.classes),
        "samples": describe_samples(report.data),
        "short": SHORT_TABLE,
        "details": {
            **_flatten(report.config.trained.get("params", {})),
            "temperature": f"{report.config.temperature:.4f}",
            "sha256 of the data": report.data.fingerprint,
            "sha256 of the model": report.model_hash,
        },
    }


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as rows of a dotted name and a text."""
    rows: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            rows |= _flatten(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return rows
