"""model.safetensors + packed set -> metrics, predictions and a picture of the test split, read once."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.packed import open_packed, read_names
from imclass.device import make_deterministic, select_device
from imclass.errors import InputError
from imclass.evaluation.metrics import count_confusion, mean_log_loss, summarise, write_class_scores
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
    figure_file: Path,
) -> None:
    make_deterministic(params.threads)
    data = open_packed(packed)
    test = data.splits["test"]
    model = load_model(model_file).to(select_device(params.device)).to(memory_format=torch.channels_last)
    logits = compute_logits(model, test.images)
    if not logits.isfinite().all():
        raise InputError(f"{model_file}: expected finite logits for every test image, found others")
    probabilities = torch.softmax(logits, dim=1).numpy()

    confusion = count_confusion(test.labels, probabilities.argmax(axis=1), len(data.classes))
    metrics = summarise(confusion, mean_log_loss(logits.numpy(), test.labels))
    write_text(metrics_file, json.dumps({"test": metrics}, indent=2) + "\n")
    write_class_scores(confusion, data.classes, classes_file)
    write_predictions(
        predictions_file,
        names=read_names(data, "test"),
        labels=test.labels,
        probabilities=probabilities,
        classes=data.classes,
    )
    # Imported when the figures are safe: drawing takes longer to load than all else here but PyTorch.
    from imclass.evaluation.figure import draw_summary

    draw_summary(
        figure_file,
        history=read_history(history_file),
        confusion=confusion,
        classes=data.classes,
        images=test.images,
        labels=test.labels,
        probabilities=probabilities,
    )
    print(
        f"accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}, macro F1 {metrics['macro_f1']:.4f} "
        f"on {metrics['images']} test images"
    )


if __name__ == "__main__":
    run(evaluate)
