import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torch import nn

from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import Split
from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.models.inference import compute_logits
from imclass.training.fit import DivergedError, fit
from imclass.training.history import Epoch, read_history, write_history
from imclass.training.optimizer import build_optimizer
from imclass.training.schedule import one_cycle
from imclass.training.state import State, start_training
from imclass.training.step import Learner

CONFIG = ModelConfig(
    classes=["dark", "bright"],
    fit={"channels": 1, "height": 4, "width": 4, "fit": "crop", "background": 255},
    mean=[0.5],
    mirror=False,
    network={"name": "mlp", "hidden": [8], "dropout": 0.0},
    std=[0.5],
)


def make_split(count: int, seed: int = 0) -> Split:
    """Dark pictures of class 0, bright ones of class 1."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 2, count)
    images = chance.integers(0, 156, (count, 1, 4, 4)) + 100 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


CPU = torch.device("cpu")
VAL = make_split(40, seed=1)


class NoSaver:
    """Keeps nothing."""

    def is_due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass


def train(
    model: Classifier,
    val: Split = VAL,
    *,
    epochs: int = 3,
    lr: float = 0.1,
    shift: int = 0,
    seed: int = 0,
    patience: int = 0,
) -> list[Epoch]:
    split = make_split(100)
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=16,
        augment=partial(flip_and_shift, flip=False, shift=shift),
        seed=seed,
        device=CPU,
    )
    optimizer = build_optimizer(model, name="sgd", lr=lr, momentum=0.9, weight_decay=0.0)
    state = start_training(model, optimizer, num_batches=len(dataset))
    schedule = partial(one_cycle, num_steps=epochs * len(dataset), peak=lr)
    fit(
        state,
        load_batches(dataset),
        val,
        NoSaver(),
        epochs=epochs,
        schedule=schedule,
        learn=Learner(nn.CrossEntropyLoss(reduction="sum"), dataset.division, seed=seed),
        patience=patience,
    )
    return state.history


def make_model(seed: int = 0, **network: object) -> Classifier:
    torch.manual_seed(seed)
    return build_model(replace(CONFIG, network={**CONFIG.network, **network}))


def test_learns_what_can_be_learnt() -> None:
    history = train(make_model(), epochs=10)
    assert history[-1].val_accuracy > 0.95
    assert history[-1].train_loss < history[0].train_loss


def test_equals_a_loop_written_out_by_hand() -> None:
    model = make_model()
    twin = copy.deepcopy(model)
    history = train(model, epochs=1, lr=0.05)
    split = make_split(100)
    dataset = ShuffledBatches(split.images, split.labels, batch_size=16, augment=lambda x, draws: x, seed=0, device=CPU)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses, hits = [], 0
    for step, (images, labels) in enumerate(dataset):
        optimizer.param_groups[0]["lr"] = one_cycle(step, num_steps=7, peak=0.05)
        logits = twin(images)
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses += loss.tolist()
        hits += int((logits.argmax(1) == labels).sum())
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    # The mean over images, not over batches of 16 and 4.
    assert history[0].train_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert history[0].train_accuracy == hits / 100
    assert history[0].learning_rate == one_cycle(6, num_steps=7, peak=0.05)


def test_keeps_the_epoch_of_the_lowest_brier_score() -> None:
    # Some labels are wrong: the surer the model the higher the loss, though it decides better.
    val = make_split(60, seed=1)
    val = replace(val, labels=np.where(np.arange(60) % 8, val.labels, 1 - val.labels))
    model = make_model()
    history = train(model, val, epochs=8, lr=0.05)
    losses, scores = [epoch.val_loss for epoch in history], [epoch.val_brier for epoch in history]
    assert np.argmin(losses) != np.argmin(scores) != len(history) - 1, "both rules agree: the test shows nothing"
    bright = compute_logits(model, val.images).softmax(1)[:, 1].numpy()
    assert min(scores) == pytest.approx(2 * brier_score_loss(val.labels, bright), rel=1e-5)


def test_patience_ends_the_training() -> None:
    # Labels that have nothing to do with the images: what is learnt makes them worse.
    val = replace(VAL, labels=np.random.default_rng(2).integers(0, 2, 40))
    losses = [epoch.val_brier for epoch in train(make_model(), val, epochs=8, lr=0.02)]
    assert len(losses) == 8
    assert losses[0] == min(losses), "the first epoch is not the best: the test shows nothing"
    assert len(train(make_model(), val, epochs=8, lr=0.02, patience=2)) == 3


@pytest.mark.parametrize("network", [{}, {"dropout": 0.5}], ids=["plain", "dropout"])
def test_same_seed_same_weights_and_another_seed_others(network: dict[str, object]) -> None:
    weights = []
    for seed in 0, 0, 1:
        model = make_model(seed=0, **network)
        train(model, shift=1, seed=seed)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_label_smoothing_is_that_of_the_paper() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    smooth = nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels), expected)


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step() -> None:
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step 2 of epoch 1, at lr .*: try a lower lr"
    ) as found:
        train(make_model(), lr=1e38)
    assert len(found.value.rows) == 16


def test_is_quiet_when_not_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    train(make_model(), epochs=1)
    assert capfd.readouterr() == ("", "")


def test_validation_needs_no_gradients_and_does_not_change_the_model() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    compute_logits(model, make_split(10).images)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_history_round_trip_and_refusal(tmp_path: Path) -> None:
    history = train(make_model())
    write_history(history, tmp_path / "history.csv")
    assert read_history(tmp_path / "history.csv") == history
    (tmp_path / "history.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match=r"history\.csv: expected a table with columns epoch,"):
        read_history(tmp_path / "history.csv")
