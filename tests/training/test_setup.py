"""Keys of the recipe, from params.yaml to the weights after two steps, beside a loop of plain PyTorch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from imclass.data.packed import Packed, open_packed, write_packed
from imclass.device import select_precision
from imclass.errors import InputError
from imclass.params import load_params
from imclass.team.recipe import change_params
from imclass.training.schedule import build_schedule
from imclass.training.setup import Training, set_up

PARAMS = Path(__file__).parents[2] / "params.yaml"
COUNTS = 80, 30, 10  # images of each class
PLAIN: dict[str, Any] = {
    "batch_size": 30,
    "lr": 0.1,
    "model": {"name": "mlp", "mirror": False, "mlp": {"hidden": [8]}},
    "train": {"momentum": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0},
}
CPU = torch.device("cpu")
CLASS_WEIGHTS = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(range(3), COUNTS))

Loss = Callable[[Tensor, Tensor], Tensor]
Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Three classes of noise, each about a level of its own."""
    folder = tmp_path_factory.mktemp("data") / "packed"
    labels = np.tile(np.repeat(range(3), COUNTS), 2)
    noise = np.random.default_rng(0).integers(0, 100, (len(labels), 1, 8, 8))
    images = (noise + 70 * labels[:, None, None, None]).astype(np.uint8)
    names = [f"{number:03}" for number in range(len(labels))]
    splits = ["train"] * sum(COUNTS) + ["val"] * sum(COUNTS)
    rows = list(zip(names, map(str, labels), splits, strict=True))
    write_packed(
        folder, rows, [(names, images)], {"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255}
    )
    return open_packed(folder)


@pytest.fixture
def start(packed: Packed, tmp_path: Path) -> Callable[..., Training]:
    def start(**changes: Any) -> Training:
        path = tmp_path / "params.yaml"
        path.write_text(PARAMS.read_text())
        change_params(path, PLAIN, origin=path)
        change_params(path, changes, origin=path)
        return set_up(load_params(path), packed, tmp_path, CPU)

    return start


def learn(training: Training, steps: int = 2) -> list[Tensor]:
    state = training.state
    state.model.train()
    batches = iter(training.batches)
    for _ in range(steps):
        images, targets = next(batches)
        training.learn(state, images, targets, 30)
    return [parameter.detach() for parameter in state.judged.parameters()]


def learn_plainly(
    training: Training,
    loss: Loss = nn.functional.cross_entropy,
    optimizer: Optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    *,
    longest: float = float("inf"),
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    model = copy.deepcopy(training.state.model).train()
    stepper = optimizer(model)
    batches = iter(training.batches)
    for _ in range(2):
        images, labels = next(batches)
        stepper.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(images)
        loss(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), longest)
        stepper.step()
    return [parameter.detach() for parameter in model.parameters()]


def smooth(logits: Tensor, labels: Tensor) -> Tensor:
    return -(logits.log_softmax(1) * (0.7 * nn.functional.one_hot(labels, 3) + 0.1)).sum(1).mean()


def weigh(logits: Tensor, labels: Tensor) -> Tensor:
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (losses * torch.from_numpy(CLASS_WEIGHTS).float()[labels]).mean()


def decay_matrices(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": [p], "weight_decay": 0.5 if p.ndim > 1 else 0.0} for p in model.parameters()]
    return torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize(
    ("train", "plain"),
    [
        ({}, {}),
        ({"label_smoothing": 0.3}, {"loss": smooth}),
        ({"balance": "loss"}, {"loss": weigh}),
        ({"clip_norm": 0.01}, {"longest": 0.01}),
        (
            {"momentum": 0.9},
            {"optimizer": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True)},
        ),
        ({"weight_decay": 0.5}, {"optimizer": decay_matrices}),
        ({"optimizer": "adamw"}, {"optimizer": lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.0)}),
        ({"precision": "bfloat16"}, {"dtype": torch.bfloat16}),
    ],
    ids=lambda options: "-".join(options),
)
def test_two_steps_are_those_of_plain_pytorch(
    train: dict[str, Any], plain: dict[str, Any], start: Callable[..., Training]
) -> None:
    if "precision" in train:
        try:
            select_precision("bfloat16", CPU)
        except InputError:
            pytest.skip("this CPU has no bfloat16")
    training = start(train=train)
    expected, without = learn_plainly(training, **plain), learn_plainly(start())
    found = learn(training)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not train or not all(map(torch.equal, found, without)), "the key changes nothing: the test shows nothing"


def test_parts_of_a_batch_and_averages_of_weights_are_as_asked_for(start: Callable[..., Training]) -> None:
    plain = learn(start())
    parts = start(train={"accumulation": 4})
    assert parts.learn.division.parts == 4
    for ours, theirs in zip(learn(parts), plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    averaged = start(train={"ema": 0.05})  # below the decay of the first steps, so that it alone counts
    first, *_ = averaged.state.model.parameters()
    fresh = first.detach().clone()
    average, after = learn(averaged, steps=1)[0], learn(start(), steps=1)[0]
    torch.testing.assert_close(average, fresh + 0.95 * (after - fresh))


def test_dropout_hides_units_in_training_only(start: Callable[..., Training]) -> None:
    dropped, plain = start(model={"mlp": {"dropout": 0.5}}).state.model, start().state.model
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dropped.eval()(images), plain.eval()(images))
    hidden: list[Tensor] = []
    dropout = next(part for part in dropped.modules() if isinstance(part, nn.Dropout))
    dropout.register_forward_hook(lambda _, given, output: hidden.append((output == 0)[given[0] > 0]))
    dropped.train()(images)
    assert 0.4 < hidden[0].double().mean() < 0.6


def test_the_sampler_draws_all_classes_alike(start: Callable[..., Training]) -> None:
    drawn = torch.cat([labels for _, labels in start(train={"balance": "sampler"}).batches])
    assert drawn.bincount(minlength=3).min() > 25, "of 120; one class has 10 images"


@pytest.mark.parametrize(
    "augment",
    [{"flip": True}, {"shift": 2}, {"rotate": 20.0}, {"crop": 0.5}, {"erase": 0.5}, {"color": 0.5}],
    ids=lambda options: "-".join(options),
)
def test_views_are_those_asked_for(augment: dict[str, Any], start: Callable[..., Training]) -> None:
    (plain, labels), (images, same_labels) = (
        next(iter(start(**change).batches)) for change in ({}, {"augment": augment})
    )
    assert torch.equal(labels, same_labels)
    changed = (images != plain).flatten(1).any(1)
    assert changed.double().mean() > 0.2
    if augment == {"flip": True}:
        assert torch.equal(images[changed], plain[changed].flip(3))


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_targets(mix: str, start: Callable[..., Training]) -> None:
    _, targets = next(iter(start(augment={"mix": mix}).batches))
    assert targets.shape == (30, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(30))
    assert ((targets > 0).sum(1) == 2).any()


def test_the_model_has_the_options_of_its_section(start: Callable[..., Training]) -> None:
    model = start(model={"mirror": True, "mean": [0.25], "std": [0.5], "mlp": {"hidden": [5, 6]}}).state.model
    assert model.config.mirror
    assert (model.config.mean, model.config.std) == ([0.25], [0.5])
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [5, 6, 3]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", [1.0] * 40),
        ("cosine", [0.5, *[(1 + np.cos(np.pi * step / 39)) / 2 for step in range(39)]]),
        ("one-cycle", [*[step / 10 for step in range(1, 11)], *[step / 31 for step in range(30, 0, -1)]]),
    ],
)
def test_a_schedule_goes_by_its_name(name: str, rates: list[float]) -> None:
    schedule = build_schedule(name, num_steps=40, peak=1.0)
    assert [schedule(step) for step in range(40)] == pytest.approx(rates)
