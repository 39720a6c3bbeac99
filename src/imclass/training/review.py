"""History and predictions of a training -> what makes its result doubtful."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from imclass.training.history import Epoch, find_best

FEW_STEPS = 100  # a training of fewer has hardly begun


def review(
    history: Sequence[Epoch],
    labels: Int64[np.ndarray, " n"],
    predicted: Int64[np.ndarray, " n"],
    classes: list[str],
    *,
    batches_per_epoch: int,
) -> str:
    """The epoch kept and every doubt, a line each; arguments are those of `find_doubts`."""
    doubts = find_doubts(history, labels, predicted, classes, batches_per_epoch=batches_per_epoch)
    return "\n".join([describe_best(history), *(f"doubtful: {doubt}" for doubt in doubts)])


def describe_best(history: Sequence[Epoch]) -> str:
    """A sentence on the epoch whose weights are kept."""
    best = find_best(history)
    figures = f"val Brier score {best.val_brier:.4f}, loss {best.val_loss:.4f}, accuracy {best.val_accuracy:.4f}"
    return f"kept epoch {best.epoch} of {len(history)}: {figures}"


def find_doubts(
    history: Sequence[Epoch],
    labels: Int64[np.ndarray, " n"],
    predicted: Int64[np.ndarray, " n"],
    classes: list[str],
    *,
    batches_per_epoch: int,
) -> list[str]:
    """Sentences, none where all is well; `labels` and `predicted` are those of the validation split."""
    doubts = []
    num_steps = batches_per_epoch * len(history)
    if num_steps < FEW_STEPS:
        doubts.append(f"only {num_steps} steps of training: a lower batch_size or more epochs give more")
    if min(epoch.train_loss for epoch in history[1:] or history) >= history[0].train_loss and len(history) > 1:
        doubts.append("the training loss never fell below that of the first epoch")
    if len(set(labels.tolist())) == 1:
        doubts.append(f"the validation split holds one class only, {classes[labels[0]]!r}")
    never = [name for at, name in enumerate(classes) if at in labels and at not in predicted]
    if never:
        doubts.append(f"never predicted on the validation split: {', '.join(map(repr, never))}")
    return doubts
