"""The learning rate as a pure function of the step."""

from collections.abc import Callable
from functools import partial

WARMUP = 0.25  # share of the steps in which a one-cycle schedule rises


def build_schedule(name: str, *, num_steps: int, peak: float) -> Callable[[int], float]:
    """The learning rate of each step, counted from 0: constant or one-cycle."""
    shapes = {"constant": constant, "one-cycle": one_cycle}
    return partial(shapes[name], num_steps=num_steps, peak=peak)


def constant(step: int, *, num_steps: int, peak: float) -> float:  # noqa: ARG001
    """`peak` at every step."""
    return peak


def one_cycle(step: int, *, num_steps: int, peak: float) -> float:
    """Linear rise to `peak` over the first quarter of the steps, then linear fall to nearly 0 at the last.

    `step` counts from 0. After Smith, "Super-convergence" (2018), without its change of momentum.
    """
    warmup = WARMUP * num_steps
    done = step + 1
    if done <= warmup:
        return peak * done / warmup
    return peak * (num_steps - step) / (num_steps + 1 - warmup)
