"""model.safetensors + packed set -> metrics, predictions, a page and a picture of the test split, read once."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.packed import open_packed, read_names
from imclass.device import describe_device, make_deterministic, select_device
from imclass.evaluation.metrics import (
    count_confusion,
    estimate_metrics,
    list_figures,
    measure_probabilities,
    write_class_metrics,
    write_reliability,
)
from imclass.evaluation.predictions import write_predictions
from imclass.evaluation.terminal import print_summary
from imclass.evaluation.verdict import doubt_test
from imclass.files import hash_file, write_text
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.params import Params
from imclass.stage import run
from imclass.training.history import find_best, read_history


def evaluate(
    params: Params,
    packed: Path,
    model_file: Path,
    history_file: Path,
    metrics_file: Path,
    classes_file: Path,
    predictions_file: Path,
    reliability_file: Path,
    report_file: Path,
    figure_file: Path,
) -> dict[str, object]:
    make_deterministic(params.threads)
    device = select_device(params.device)
    data = open_packed(packed)
    test = data.splits["test"]
    model = load_model(model_file).to(device).to(memory_format=torch.channels_last)
    logits = compute_logits(model, test.images)
    temperature = model.config.temperature
    probabilities = torch.softmax(logits / temperature, dim=1).numpy()

    metrics = estimate_metrics(logits.numpy(), test.labels, temperature=temperature)
    uncalibrated = measure_probabilities(logits.numpy(), test.labels, temperature=1.0)
    figures = list_figures(metrics, uncalibrated, temperature)
    write_text(metrics_file, json.dumps(figures, indent=2) + "\n")
    write_class_metrics(metrics, data.classes, classes_file)
    names = read_names(data, "test")
    write_predictions(
        predictions_file, names=names, labels=test.labels, probabilities=probabilities, classes=data.classes
    )
    write_reliability(reliability_file, probabilities, test.labels)
    history = read_history(history_file)
    predicted = probabilities.argmax(axis=1)
    best, val_images = find_best(history), len(data.splits["val"].labels)
    doubts = doubt_test(metrics, test.labels, probabilities, data.classes, best=best, val_images=val_images)

    # Imported when the figures are safe: drawing takes longer to load than all else here but PyTorch.
    from imclass.evaluation.figure import draw_summary
    from imclass.evaluation.report.page import Report, write_report

    report = Report(data, names, model, hash_file(model_file), history, metrics, doubts, logits.numpy())
    write_report(report_file, report)
    draw_summary(
        figure_file,
        history=history,
        confusion=count_confusion(test.labels, predicted, len(data.classes)),
        classes=data.classes,
        images=test.images,
        labels=test.labels,
        probabilities=probabilities,
    )
    print_summary(metrics, test.labels, predicted, data.classes, doubts)
    return {"images": len(test.images), **describe_device(device)}


if __name__ == "__main__":
    run(evaluate)
