"""model.safetensors + packed set -> metrics, predictions and a picture of the test split, read once."""

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
from imclass.files import write_text
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.params import Params
from imclass.stage import run
from imclass.training.history import read_history


def evaluate(
    params: Params,
    packed: Path,
    model_file: Path,
    history_file: Path,
    metrics_file: Path,
    classes_file: Path,
    predictions_file: Path,
    reliability_file: Path,
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
    write_predictions(
        predictions_file,
        names=read_names(data, "test"),
        labels=test.labels,
        probabilities=probabilities,
        classes=data.classes,
    )
    write_reliability(reliability_file, probabilities, test.labels)
    # Imported when the figures are safe: drawing takes longer to load than all else here but PyTorch.
    from imclass.evaluation.figure import draw_summary

    draw_summary(
        figure_file,
        history=read_history(history_file),
        confusion=count_confusion(test.labels, probabilities.argmax(axis=1), len(data.classes)),
        classes=data.classes,
        images=test.images,
        labels=test.labels,
        probabilities=probabilities,
    )
    for name, estimate in metrics.overall.items():
        print(f"{name} {estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})")
    return {"images": len(test.images), **describe_device(device)}


if __name__ == "__main__":
    run(evaluate)
