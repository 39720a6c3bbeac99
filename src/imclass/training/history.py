"""History of a training <-> history.csv, one row per epoch."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from imclass.errors import InputError
from imclass.files import read_checked_rows, write_checked_rows


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave. Losses are means over images, accuracies lie in 0..1.

    The training figures are those of the batches as they were learnt, with augmentation, dropout and label smoothing.
    `val_brier` is the Brier score: the squared distance of the probabilities from the one-hot target, 0..2.
    `learning_rate` is that of the last step.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_brier: float
    val_accuracy: float
    learning_rate: float


COLUMNS = [field.name for field in fields(Epoch)]


def find_best(history: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are kept: that of the lowest Brier score on validation images, the later of equals.

    The loss has no bound, so that a few mistakes of which late epochs are sure outweigh all that they decide better;
    the accuracy is coarse where there are few images, and still where one class has nearly all.
    """
    return min(reversed(history), key=lambda epoch: epoch.val_brier)


def has_settled(history: Sequence[Epoch], patience: int) -> bool:
    """Whether the last `patience` epochs brought no lower Brier score; never where patience is 0."""
    lowest = min(history, key=lambda epoch: epoch.val_brier).epoch if history else 0
    return 0 < patience <= len(history) - lowest


def write_history(history: list[Epoch], path: Path) -> None:
    """Write all epochs, whole or not at all."""
    write_checked_rows(path, COLUMNS, list(map(astuple, history)))


def read_history(path: Path) -> list[Epoch]:
    """Read what `write_history` wrote. Raises InputError where the file is not such a table, or has changed since."""
    rows = read_checked_rows(path, COLUMNS)
    if not rows:
        raise InputError(f"{path}: expected at least one epoch, found none")
    return [Epoch(int(epoch), *map(float, figures)) for epoch, *figures in rows]
