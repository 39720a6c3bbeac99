"""What a test gave -> report.html: one file that asks for no other, with pictures, charts and tables.

The page holds no time, version or device, so that equal inputs give equal bytes. It is read without JavaScript too;
page.js adds filters, sorting and the keys of the matrix.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from imclass.data.findings import Finding
from imclass.data.packed import Packed
from imclass.evaluation.gate import Verdict
from imclass.evaluation.metrics import Metrics, compute_log_probabilities, count_confusion
from imclass.evaluation.report.cards import choose_shown, choose_width, describe_cards
from imclass.evaluation.report.charts import find_start
from imclass.evaluation.report.drawings import draw_confidence, draw_detection, draw_learning, draw_sizes
from imclass.evaluation.report.sheets import SMALL_PIXELS, draw_saliency, draw_sheet
from imclass.evaluation.report.tables import (
    LOSSES,
    MOST_FINDINGS,
    SHARES,
    describe_classes,
    describe_findings,
    describe_matrix,
    describe_samples,
    describe_sizes,
    list_pairs,
    scale_estimates,
)
from imclass.evaluation.saliency import compute_saliency
from imclass.files import write_text
from imclass.models.classifier import Classifier
from imclass.pages import render_page
from imclass.params import flatten
from imclass.training.history import Epoch, find_best

PAGE, MACROS, STYLE, SCRIPT = "page.html", "charts.html", "page.css", "page.js"
SHORT_TABLE, SHORT_FINDINGS = 20, 10  # rows that are seen at first
CARD_PIXELS, SAMPLE_PIXELS = 96, 32  # of the longer side of an image on the screen


@dataclass(frozen=True)
class Report:
    """What stands on the page, of `n` test images and `k` classes.

    `names` and `logits` are those of the test images, `model_hash` is the sha256 of the model file. `sizes` are rows of
    width, height and pictures that have it in their files; `findings` come worst first, `policies` are by kind.
    """

    data: Packed
    sizes: Int64[np.ndarray, "sizes 3"]
    findings: Sequence[Finding]
    policies: Mapping[str, str]
    names: list[str]
    model: Classifier
    model_hash: str
    history: list[Epoch]
    metrics: Metrics
    doubts: list[str]
    verdict: Verdict
    logits: Float[np.ndarray, "n k"]


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all."""
    folder = Path(__file__).parent
    script = (folder / SCRIPT).read_text("utf-8")
    page = render_page(
        folder / PAGE,
        filters={"share": format_share, "percent": format_percent, "count": format_count},
        **_describe(report),
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
    percent = f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.{2 if value > 0.9 else 1}f}"
    if value < 1 and float(percent) == 100:
        percent = f"{100 * value:.6f}".rstrip("0")
    return f"{percent}\u202f%"  # no line ends in this space


def format_count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def _describe(report: Report) -> dict[str, Any]:
    classes, config = report.data.classes, report.model.config
    test = report.data.splits["test"]
    size = report.data.fit["width"], report.data.fit["height"]
    probabilities, uncalibrated = (
        np.exp(compute_log_probabilities(report.logits, heat)) for heat in (config.temperature, 1.0)
    )
    predicted = probabilities.argmax(axis=1)
    confusion = count_confusion(test.labels, predicted, len(classes))
    shown = choose_shown(test.labels, probabilities)
    cards, first_cards = describe_cards(shown, test.labels, probabilities, report.names, classes)
    return {
        "report": report,
        "classes": classes,
        "accuracy": report.metrics.overall["accuracy"],
        "num_images": len(test.labels),
        "num_mistakes": int((predicted != test.labels).sum()),
        "shares": scale_estimates(report.metrics.overall, SHARES),
        "losses": scale_estimates(report.metrics.overall, LOSSES),
        "learning": draw_learning(report.history),
        "best": find_best(report.history),
        "confidence": draw_confidence(test.labels, probabilities, uncalibrated),
        "mean_confidence": float(probabilities.max(axis=1).mean()),
        "detection": draw_detection(test.labels, probabilities, classes),
        "matrix": describe_matrix(confusion, classes),
        "pairs": list_pairs(confusion, first_cards),
        "cards": cards,
        "shown_mistakes": sum(card["wrong"] for card in cards),
        "sheet": draw_sheet(test.images[shown]),
        "saliency": draw_saliency(compute_saliency(report.model, test.images[shown], predicted[shown])),
        "card_width": choose_width(*size, CARD_PIXELS),
        "sample_width": choose_width(*size, SAMPLE_PIXELS),
        "pixelated": max(size) <= SMALL_PIXELS,
        "class_rows": describe_classes(report.metrics, confusion),
        "class_scale": find_start(min(one.recall.low, one.precision.low, one.f1.low) for one in report.metrics.classes),
        "samples": describe_samples(report.data),
        "sizes": describe_sizes(report.sizes),
        "size_chart": draw_sizes(report.sizes) if len(report.sizes) > 1 else None,
        "findings": describe_findings(report.data, report.findings, report.policies),
        "most_findings": MOST_FINDINGS,
        "verdict": report.verdict,
        "short": SHORT_TABLE,
        "short_findings": SHORT_FINDINGS,
        "details": {
            **{
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in flatten(config.trained.get("params", {})).items()
            },
            "temperature": f"{config.temperature:.4f}",
            "sha256 of the data": report.data.fingerprint,
            "sha256 of the model": report.model_hash,
        },
    }
