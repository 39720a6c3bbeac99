"""The learning-rate range test: the loss while the rate rises step by step (Smith 2017)."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from imclass.data.loader import ShuffledBatches
from imclass.device import explain_out_of_memory
from imclass.errors import InputError
from imclass.training.fit import set_rate
from imclass.training.setup import Training

LOWEST, HIGHEST = 1e-5, 10.0
NUM_STEPS = 200
SMOOTHING = 0.9  # decay of the average of losses
DIVERGED = 4.0  # times the lowest loss, at which the test ends
MARGIN = 3.0  # between the rate proposed and that of the lowest loss


class Point(NamedTuple):
    """The loss that was reached at a learning rate, averaged over the steps before."""

    rate: float
    loss: float


def measure_losses(training: Training) -> Iterator[Point]:
    """Train at rates from 1e-5 to 10 in 200 equal factors, until the loss has grown to four times its lowest.

    Raises InputError when memory does not suffice.
    """
    dataset = training.batches.dataset
    assert isinstance(dataset, ShuffledBatches)
    with explain_out_of_memory(f"batch_size {dataset.batch_size}", "try a smaller one, or train.accumulation"):
        yield from _measure_losses(training, dataset)


def propose_rate(points: list[Point]) -> float:
    """A third of the rate of the lowest loss: past the steepest fall, and clear of where the loss rises again.

    Raises InputError where there are no points.
    """
    if not points:
        raise InputError(f"the loss is no number at the first step, at lr {LOWEST:g}: expected finite weights")
    return min(points, key=lambda point: point.loss).rate / MARGIN


def _measure_losses(training: Training, dataset: ShuffledBatches) -> Iterator[Point]:
    state = training.state
    state.model.train()
    average, lowest, step = 0.0, math.inf, 0
    for epoch in range(NUM_STEPS):
        dataset.start(epoch)
        state.step = 0
        for images, targets in training.batches:
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
            set_rate(state.optimizer, rate)
            training.learn(state, images, targets, dataset.sizes[state.step])
            step += 1
            average = SMOOTHING * average + (1 - SMOOTHING) * state.losses[state.step - 1].item()
            loss = average / (1 - SMOOTHING**step)
            lowest = min(lowest, loss)
            if not loss <= DIVERGED * lowest:
                return
            yield Point(rate, loss)
            if step == NUM_STEPS:
                return
