"""model.safetensors + packed set -> metrics, predictions, a page and a picture of the test split, read once."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.findings import read_findings
from imclass.data.packed import open_packed, read_names
from imclass.data.sizes import read_sizes
from imclass.device import describe_device, make_deterministic, select_device
from imclass.evaluation.gate import judge
from imclass.evaluation.metrics import (
    compute_log_probabilities,
    count_confusion,
    estimate_metrics,
    list_figures,
    measure_probabilities,
    write_class_metrics,
    write_reliability,
)
from imclass.evaluation.predictions import list_decisions, read_decisions, write_predictions
from imclass.evaluation.verdict import doubt_test
from imclass.files import hash_file, write_text
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.params import Params
from imclass.ranks import find_ranks
from imclass.stage import run_in_ranks
from imclass.training.history import find_best, read_history


def evaluate(
    params: Params,
    packed: Path,
    model_file: Path,
    history_file: Path,
    findings_file: Path,
    sizes_file: Path,
    accepted_file: Path,
    metrics_file: Path,
    classes_file: Path,
    predictions_file: Path,
    reliability_file: Path,
    report_file: Path,
    figure_file: Path,
) -> dict[str, object]:
    make_deterministic(params.threads)
    ranks = find_ranks()
    device = select_device(params.device, ranks)
    data = open_packed(packed, workers=params.workers, ranks=ranks)
    test, classes = data.splits["test"], data.classes
    model = load_model(model_file).to(device).to(memory_format=torch.channels_last)
    logits = compute_logits(model, test.images, ranks).numpy()
    if not ranks.leads:
        return {}
    temperature, labels = model.config.temperature, test.labels
    metrics = estimate_metrics(logits, labels, temperature=temperature)
    probabilities = np.exp(compute_log_probabilities(logits, temperature))
    uncalibrated = measure_probabilities(logits, labels, temperature=1.0)
    write_text(metrics_file, json.dumps(list_figures(metrics, uncalibrated, temperature), indent=2) + "\n")
    write_class_metrics(metrics, classes, classes_file)
    names = read_names(data, "test")
    write_predictions(predictions_file, names=names, labels=labels, probabilities=probabilities, classes=classes)
    write_reliability(reliability_file, probabilities, labels)
    history, predicted = read_history(history_file), probabilities.argmax(axis=1)
    confusion = count_confusion(labels, predicted, len(classes))
    best, val_images = find_best(history), len(data.splits["val"].labels)
    decisions = list_decisions(names, labels, predicted, classes)
    accepted = read_decisions(accepted_file.read_text("utf-8"), str(accepted_file))
    verdict = judge(decisions, accepted, classes, **params.gate.model_dump())
    doubts = doubt_test(metrics, labels, probabilities, classes, best=best, val_images=val_images)

    # Imported when the figures are safe: drawing takes longer to load than all else here but PyTorch.
    from imclass.evaluation.figure import draw_summary
    from imclass.evaluation.report.page import Report, write_report
    from imclass.evaluation.terminal import print_summary

    sizes, (findings, policies), sha256 = read_sizes(sizes_file), read_findings(findings_file), hash_file(model_file)
    report = Report(data, sizes, findings, policies, names, model, sha256, history, metrics, doubts, verdict, logits)
    write_report(report_file, report)
    draw_summary(
        figure_file,
        history=history,
        confusion=confusion,
        classes=classes,
        images=test.images,
        labels=labels,
        probabilities=probabilities,
    )
    print_summary(metrics, confusion, classes, doubts)
    return {"images": len(test.images), "processes": ranks.size, **describe_device(device)}


if __name__ == "__main__":
    run_in_ranks(evaluate)
