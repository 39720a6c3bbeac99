"""The learning rate as a pure function of the step."""

import math
from collections.abc import Callable
from functools import partial

WARMUP = 0.25  # share of the steps in which a one-cycle schedule rises
COSINE_WARMUP = 0.05


def build_schedule(name: str, *, num_steps: int, peak: float) -> Callable[[int], float]:
    """The learning rate of each step, counted from 0: constant, cosine or one-cycle."""
    shapes = {"constant": constant, "cosine": cosine, "one-cycle": one_cycle}
    return partial(shapes[name], num_steps=num_steps, peak=peak)


def constant(step: int, *, num_steps: int, peak: float) -> float:  # noqa: ARG001
    """`peak` at every step."""
    return peak


def cosine(step: int, *, num_steps: int, peak: float) -> float:
    """Linear rise to `peak` over the first twentieth of the steps, then half a cosine down to nearly 0 at the last.

    `step` counts from 0. After Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """
    warmup = COSINE_WARMUP * num_steps
    done = step + 1
    if done <= warmup:
        return peak * done / warmup
    return peak * (1 + math.cos(math.pi * (done - warmup) / (num_steps + 1 - warmup))) / 2


def one_cycle(step: int, *, num_steps: int, peak: float) -> float:
    """Linear rise to `peak` over the first quarter of the steps, then linear fall to nearly 0 at the last.

    `step` counts from 0. After Smith, "Super-convergence" (2018), without its change of momentum.
    """
    warmup = WARMUP * num_steps
    done = step + 1
    if done <= warmup:
        return peak * done / warmup
    return peak * (num_steps - step) / (num_steps + 1 - warmup)
