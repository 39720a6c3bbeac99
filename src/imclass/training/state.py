"""All that a training has come to, so that it can be stopped and go on."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from imclass.models.classifier import Classifier
from imclass.training.history import Epoch


@dataclass
class State:
    """A model in training.

    `step` counts the batches of the epoch under way; `losses` are their mean losses so far and 0 for the rest of the
    epoch, `correct` counts their images that were classified rightly. Both lie where the model does, since asking for
    their numbers would wait for the device.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    losses: Tensor
    correct: Tensor
    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def start_training(model: Classifier, optimizer: torch.optim.Optimizer, *, num_batches: int) -> State:
    """The state before the first step of an epoch of `num_batches`."""
    device = model.pixel_mean.device
    return State(
        model=model,
        optimizer=optimizer,
        losses=torch.zeros(num_batches, device=device),
        correct=torch.zeros((), dtype=torch.int64, device=device),
    )
