import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imclass.data.division import Division
from imclass.device import select_precision
from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.training.history import Epoch, has_settled
from imclass.training.optimizer import build_optimizer
from imclass.training.state import State, start_training
from imclass.training.step import Learner, weigh_classes

CPU = torch.device("cpu")
NETWORKS = {
    "mlp": {"name": "mlp", "hidden": [16], "dropout": 0.0},
    "cnn": {"name": "cnn", "widths": [8], "dropout": 0.0},
}
LOSS = nn.CrossEntropyLoss(reduction="sum")
WHOLE = Division(64)


def start(network: str = "mlp", *, averaged: bool = False, scaled: bool = False, lr: float = 0.1) -> State:
    config = ModelConfig(
        classes=["a", "b", "c"],
        fit={"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255},
        mean=[0.5],
        mirror=False,
        network=NETWORKS[network],
        std=[0.25],
    )
    torch.manual_seed(0)
    model = build_model(config)
    optimizer = build_optimizer(model, name="sgd", lr=lr, momentum=0.9, weight_decay=0.01)
    return start_training(model, optimizer, num_batches=100, averaged=averaged, scaled=scaled)


class Overflowing(nn.Module):
    """A loss whose gradients are infinite."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return LOSS(logits, labels) * torch.inf


def make_batch(seed: int, count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 3, (count,), generator=generator)


def learn(state: State, learner: Learner, steps: int = 5, count: int = 64) -> Classifier:
    for step in range(steps):
        learner(state, *make_batch(step, count), count)
    return state.model


def assert_close(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [64, 61])
def test_parts_of_a_batch_equal_the_batch(count: int) -> None:
    whole, parts = start(), start()
    assert_close(
        learn(whole, Learner(LOSS, WHOLE), count=count), learn(parts, Learner(LOSS, Division(64, parts=4)), count=count)
    )
    torch.testing.assert_close(whole.losses, parts.losses)
    assert whole.correct == parts.correct


def test_more_parts_than_images_are_one_image_each() -> None:
    assert_close(
        learn(start(), Learner(LOSS, WHOLE), count=3), learn(start(), Learner(LOSS, Division(64, parts=32)), count=3)
    )


def test_long_gradients_are_cut_to_the_norm_and_short_ones_kept() -> None:
    state = start()
    Learner(LOSS, WHOLE)(state, *make_batch(0), 64)
    free = [p.grad.clone() for p in state.model.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in free]).norm().item()
    for limit in norm / 3, norm * 3:
        state = start()
        Learner(LOSS, WHOLE, clip_norm=limit)(state, *make_batch(0), 64)
        for p, gradient in zip(state.model.parameters(), free, strict=True):
            torch.testing.assert_close(p.grad, gradient * min(1.0, limit / norm))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_average_of_weights_is_that_of_pytorch(network: str) -> None:
    state = start(network, averaged=True)
    # PyTorch's copies the weights at its first update, and counts from then on.
    reference = AveragedModel(
        state.model,
        avg_fn=lambda average, weight, count: average + (weight - average) * (1 - min(0.9, count / (9 + count))),
    )
    reference.update_parameters(state.model)
    for step in range(20):
        Learner(LOSS, WHOLE, ema=0.9)(state, *make_batch(step), 64)
        reference.update_parameters(state.model)
    assert state.average is not None
    for ours, theirs in zip(state.average.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for copied, original in zip(state.average.buffers(), state.model.buffers(), strict=True):
        assert torch.equal(copied, original)
    assert state.judged is state.average


def test_weights_of_classes_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 3], [5, 70, 25])
    weights = weigh_classes(torch.from_numpy(labels).bincount(minlength=5))
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, rtol=1e-6)
    assert weights[[2, 4]].tolist() == [0, 0]
    assert weights[labels].mean().item() == pytest.approx(1)


def test_precision_changes_little() -> None:
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    exact, rounded = start("cnn", lr=0.01), start("cnn", lr=0.01)
    learn(exact, Learner(LOSS, WHOLE))
    learn(rounded, Learner(LOSS, WHOLE, precision=select_precision("bfloat16", CPU)))
    assert not torch.equal(exact.losses, rounded.losses)
    torch.testing.assert_close(exact.losses, rounded.losses, atol=0.05, rtol=0)
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}


def test_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"train\.precision: expected one that cpu computes in, found float16"):
        select_precision("float16", CPU)


COMPILED = """
import torch
from test_step import LOSS, WHOLE, learn, start
from imclass.training.step import Learner

plain, compiled = start(), start()
learn(plain, Learner(LOSS, WHOLE), steps=3)
learn(compiled, Learner(LOSS, WHOLE, forward=torch.compile(compiled.model)), steps=3)
for ours, theirs in zip(plain.model.state_dict().values(), compiled.model.state_dict().values(), strict=True):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for the CPU by a C++ compiler")
def test_compiled_steps_equal_plain_ones() -> None:
    # In a process where no shapes are checked: the compiler cannot read the checks.
    subprocess.run([sys.executable, "-c", COMPILED], cwd=Path(__file__).parent, check=True)


def test_targets_may_be_shares_of_classes() -> None:
    hard, soft = start(), start()
    images, labels = make_batch(0)
    Learner(LOSS, WHOLE)(hard, images, labels, 64)
    Learner(LOSS, WHOLE)(soft, images, nn.functional.one_hot(labels, 3).float(), 64)
    assert_close(hard.model, soft.model)
    assert hard.correct == soft.correct


def test_scaled_gradients_give_the_same_steps_and_one_out_of_range_gives_none() -> None:
    plain, scaled = start(), start(scaled=True)
    clipped = Learner(LOSS, WHOLE, clip_norm=0.1)  # the norm of the gradients as they are, not as they are scaled
    assert_close(learn(scaled, clipped), learn(plain, clipped))
    before, scale = copy.deepcopy(scaled.model.state_dict()), scaled.scaler.get_scale()
    Learner(Overflowing(), WHOLE)(scaled, *make_batch(0), 64)
    assert all(torch.equal(before[name], value) for name, value in scaled.model.state_dict().items())
    assert scaled.scaler.get_scale() == scale / 2


def test_parts_of_one_image_are_refused_where_batch_norm_has_one_value_of_each_channel() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    state = start()
    state.model.network = network
    with pytest.raises(
        InputError, match=r"^batch_size, train\.accumulation, .* at least 2 images, for batch norm, found 1"
    ):
        Learner(LOSS, Division(64, parts=32))(state, *make_batch(0, 3), 3)


def test_weight_of_a_class_counts_as_so_many_copies_of_its_images() -> None:
    weighed, copied = start(), start()
    images, labels = make_batch(0, 30)
    Learner(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 1.0]), reduction="sum"), WHOLE)(weighed, images, labels, 30)
    twice = torch.cat([torch.arange(30), (labels == 1).nonzero().flatten()])
    Learner(nn.CrossEntropyLoss(reduction="sum"), WHOLE)(copied, images[twice], labels[twice], len(twice))
    for ours, theirs in zip(weighed.model.parameters(), copied.model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad * 30, theirs.grad * len(twice))


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 1, False),
        ([3.0, 2.0, 2.5], 1, True),
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.2], 2, True),
        ([3.0, 2.0, 2.0], 1, True),
    ],
)
def test_patience_ends_a_training_that_has_settled(losses: list[float], patience: int, expected: bool) -> None:
    history = [Epoch(number, 0.0, 0.0, -loss, loss, 0.0, 0.1) for number, loss in enumerate(losses, 1)]
    assert has_settled(history, patience) is expected
    assert not has_settled(history, 0)
