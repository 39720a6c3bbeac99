from pathlib import Path

import pytest
import torch
from pipeline import Reproduced

from imclass.data.packed import Packed, open_packed
from imclass.errors import InputError
from imclass.params import Params, load_params
from imclass.training.lr_range import HIGHEST, LOWEST, NUM_STEPS, Point, measure_losses, propose_rate
from imclass.training.setup import Training, set_up


def start(params: Params, packed: Packed) -> Training:
    return set_up(params, packed, Path("no weights"), torch.device("cpu"))


def learn(training: Training, rate: float) -> float:
    """Training loss over the last half of an epoch at one rate."""
    state = training.state
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    for images, targets in training.batches:
        training.learn(state, images, targets, len(images))
    return state.losses[len(state.losses) // 2 :].mean().item()


def test_rates_rise_by_one_factor_and_the_test_is_the_same_again(reproduced: Reproduced) -> None:
    params, packed = load_params(reproduced.project / "params.yaml"), open_packed(reproduced.project / "data/packed")
    points = list(measure_losses(start(params, packed)))
    assert points == list(measure_losses(start(params, packed)))
    assert 50 < len(points) <= NUM_STEPS
    for at, point in enumerate(points):
        assert point.rate == pytest.approx(LOWEST * (HIGHEST / LOWEST) ** (at / (NUM_STEPS - 1)))


def test_the_rate_proposed_learns_faster_than_much_lower_and_much_higher_ones(reproduced: Reproduced) -> None:
    params, packed = load_params(reproduced.project / "params.yaml"), open_packed(reproduced.project / "data/packed")
    rate = propose_rate(list(measure_losses(start(params, packed))))
    losses = [learn(start(params, packed), factor * rate) for factor in (1, 1 / 100, 100)]
    assert losses[0] == min(losses)


def test_a_third_of_the_rate_of_the_lowest_loss_is_proposed() -> None:
    points = [Point(0.01, 2.0), Point(0.03, 1.0), Point(0.1, 1.5)]
    assert propose_rate(points) == pytest.approx(0.01)
    with pytest.raises(InputError, match="the loss is no number at the first step, at lr 1e-05"):
        propose_rate([])
