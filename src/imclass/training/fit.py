"""Model + batches -> trained model and its history: PyTorch's training loop, which can be stopped and go on."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from imclass.data.loader import Batch, ShuffledBatches
from imclass.data.packed import Split
from imclass.device import explain_out_of_memory
from imclass.errors import InputError
from imclass.models.inference import compute_logits
from imclass.ranks import ALONE, Ranks
from imclass.training.history import Epoch, find_best, has_settled
from imclass.training.state import State


@runtime_checkable
class Saver(Protocol):
    """Where `fit` leaves its state."""

    def is_due(self) -> bool:
        """Asked after every step: whether to save before the epoch has ended."""
        ...

    def save(self, state: State) -> None: ...


class DivergedError(InputError):
    """The loss is no longer a number. `rows` are the training images of the batch where that was first so."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def fit(
    state: State,
    batches: DataLoader[Batch],
    val: Split,
    saver: Saver,
    *,
    epochs: int,
    schedule: Callable[[int], float],
    learn: Callable[[State, Tensor, Tensor, int], None],
    patience: int = 0,
    ranks: Ranks = ALONE,
) -> None:
    """Train from where the state is to the end, and leave the model with the weights of the best epoch.

    `schedule` gives the learning rate of each step, counted from 0 over all epochs; `learn` takes a step with
    images, targets and the size of the batch. The end comes earlier after `patience` epochs without a better one;
    0: never. The state is saved after each epoch, and after a step where `saver` says so. All `ranks` come to the
    same state, and share the work. Raises DivergedError when the loss is no longer a number, and InputError when
    memory does not suffice.
    """
    dataset = batches.dataset
    assert isinstance(dataset, ShuffledBatches)
    total = epochs * len(dataset)
    size = dataset.batch_size
    advice = (
        f"try batch_size {size // 2}, or train.accumulation 2"
        if size > 1
        else "try smaller images or a smaller network"
    )
    quiet = None if ranks.leads else True  # None: where standard error is no terminal
    with (
        explain_out_of_memory(f"batch_size {size}", f"{advice}; the checkpoint stays, for a run with more memory"),
        tqdm(total=total, initial=state.num_steps, unit="batch", unit_scale=True, disable=quiet) as progress,
    ):
        for epoch in range(len(state.history), epochs):
            if has_settled(state.history, patience):
                break
            progress.set_description(f"epoch {epoch + 1}/{epochs}")
            dataset.start(epoch, first=state.step)
            state.model.train()
            for images, labels in batches:
                set_rate(state.optimizer, schedule(state.num_steps))
                learn(state, images, labels, dataset.sizes[state.step])
                if saver.is_due():
                    check_losses(state, dataset)
                    saver.save(state)
                if progress.update():
                    progress.set_postfix(loss=f"{state.losses[: state.step].mean().item():.4f}")
            check_losses(state, dataset)
            end_epoch(state, dataset, val, ranks)
            saver.save(state)
    state.model.load_state_dict(state.best_weights)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_losses(state: State, dataset: ShuffledBatches) -> None:
    """Raise DivergedError, naming the first step of the epoch whose loss is not a number."""
    broken = (~state.losses.isfinite()).nonzero()
    if len(broken):
        step = int(broken[0])
        raise DivergedError(
            f"the loss is {state.losses[step].item()} at step {step + 1} of epoch {len(state.history) + 1}, "
            f"at lr {state.optimizer.param_groups[0]['lr']:.3g}: try a lower lr",
            dataset.list_rows(step),
        )


def end_epoch(state: State, dataset: ShuffledBatches, val: Split, ranks: Ranks) -> None:
    """Judge the model on the validation split, and enter the epoch into the history."""
    # Batches differ in size: a mean of their means would not be the mean over images.
    sizes = torch.tensor(dataset.sizes, dtype=torch.float64)
    val_logits = compute_logits(state.judged, val.images, ranks).double()
    labels = torch.from_numpy(val.labels)
    val_loss = nn.functional.cross_entropy(val_logits, labels).item()
    if not math.isfinite(val_loss):
        raise InputError(f"the validation loss is {val_loss} after epoch {len(state.history) + 1}: try a lower lr")
    entry = Epoch(
        epoch=len(state.history) + 1,
        train_loss=(state.losses.cpu().double() @ sizes / sizes.sum()).item(),
        train_accuracy=state.correct.item() / len(dataset.labels),
        val_loss=val_loss,
        val_brier=measure_brier(val_logits, labels),
        val_accuracy=(val_logits.argmax(1) == labels).double().mean().item(),
        learning_rate=state.optimizer.param_groups[0]["lr"],
    )
    state.history.append(entry)
    if find_best(state.history) is entry:
        state.best_weights = {name: tensor.clone() for name, tensor in state.judged.state_dict().items()}
    state.step = 0
    state.losses.zero_()
    state.correct.zero_()


def measure_brier(logits: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Mean over images of the squared distance from softmax to the one-hot target, 0..2 (Brier 1950)."""
    target = nn.functional.one_hot(labels, logits.shape[1])
    return (logits.softmax(1) - target).square().sum(1).mean().item()
