"""Model + batches -> trained model and its history: PyTorch's training loop."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from imclass.data.loader import Batch, ShuffledBatches, derive_seed
from imclass.data.packed import Split
from imclass.errors import InputError
from imclass.models.classifier import Classifier
from imclass.models.inference import compute_logits
from imclass.training.history import Epoch


def fit(
    model: Classifier,
    batches: DataLoader[Batch],
    val: Split,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    label_smoothing: float,
    seed: int,
) -> list[Epoch]:
    """Train, and leave the model with the weights of the epoch whose validation loss was lowest.

    `schedule` gives the learning rate of each step, counted from 0 over all epochs.
    Raises InputError when the loss is no longer a number.
    """
    dataset = batches.dataset
    assert isinstance(dataset, ShuffledBatches)
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    history: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    with tqdm(total=epochs * len(dataset.labels), unit="img", unit_scale=True, disable=None) as progress:
        for epoch in range(epochs):
            dataset.epoch = epoch
            torch.manual_seed(derive_seed(seed, epoch))  # for dropout
            progress.set_description(f"epoch {epoch + 1}/{epochs}")
            rates = map(schedule, range(epoch * len(dataset), (epoch + 1) * len(dataset)))
            train_loss, train_accuracy, rate = train_epoch(model, batches, criterion, optimizer, rates, progress)
            val_loss, val_accuracy = validate(model, val)
            history.append(Epoch(epoch + 1, train_loss, train_accuracy, val_loss, val_accuracy, rate))
            if val_loss <= min(entry.val_loss for entry in history):
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_weights)
    return history


def train_epoch(
    model: Classifier,
    batches: DataLoader[Batch],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: Iterator[float],
    progress: "tqdm[Any]",
) -> tuple[float, float, float]:
    """One pass over the batches -> mean loss, accuracy and the last learning rate."""
    model.train()
    device = model.pixel_mean.device
    # Summed on the device: asking for a number would wait for it at every step.
    loss_sum = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    rate = 0.0
    for images, labels in batches:
        rate = next(rates)
        for group in optimizer.param_groups:
            group["lr"] = rate
        logits = model(images)
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.detach().argmax(1) == labels).sum()
        seen += len(labels)
        if progress.update(len(labels)):
            progress.set_postfix(loss=f"{loss_sum.item() / seen:.4f}", accuracy=f"{correct.item() / seen:.4f}")
    if not loss_sum.isfinite():
        raise InputError(f"the training loss is no longer a number at lr {rate:.3g}: try a lower lr")
    return loss_sum.item() / seen, correct.item() / seen, rate


def validate(model: Classifier, val: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a split."""
    logits = compute_logits(model, val.images)
    labels = torch.from_numpy(val.labels)
    loss = nn.functional.cross_entropy(logits.double(), labels)
    return loss.item(), (logits.argmax(1) == labels).double().mean().item()
