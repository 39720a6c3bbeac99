"""All that a training has come to, so that it can be stopped and go on."""

import copy
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
    their numbers would wait for the device. `average` holds averaged weights, where they are asked for; `scaler` keeps
    the gradients of float16 within its range, and does nothing for other precisions.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    losses: Tensor
    correct: Tensor
    scaler: torch.amp.GradScaler
    average: Classifier | None = None
    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def judged(self) -> Classifier:
        """The model that is validated and kept."""
        return self.model if self.average is None else self.average

    @property
    def steps_per_epoch(self) -> int:
        """One for each batch."""
        return len(self.losses)

    @property
    def num_steps(self) -> int:
        """Steps since the start of training."""
        return len(self.history) * self.steps_per_epoch + self.step


def start_training(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    *,
    num_batches: int,
    averaged: bool = False,
    scaled: bool = False,
) -> State:
    """The state before the first step of an epoch of `num_batches`."""
    device = model.pixel_mean.device
    return State(
        model=model,
        optimizer=optimizer,
        losses=torch.zeros(num_batches, device=device),
        correct=torch.zeros((), dtype=torch.int64, device=device),
        scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        average=copy.deepcopy(model).requires_grad_(False) if averaged else None,
    )
