"""Decisions of two models on the same images -> whether one is better than the other, beyond chance.

Only images that the two decide differently tell them apart: those newly right and those newly wrong.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from math import ceil, log, sqrt
from typing import Literal

import numpy as np

from imclass.errors import InputError
from imclass.evaluation.metrics import Estimate, Z, estimate_share
from imclass.evaluation.predictions import Decision

LEVEL = 0.05  # chance of seeing a difference where there is none
POWER_Z = 0.8416212335729143  # of a normal distribution, 80 % lie below so many standard deviations
NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class ClassChange:
    """Images of one class."""

    images: int
    right_before: int
    right_after: int


@dataclass(frozen=True)
class Comparison:
    """Two models on `images` test images. Accuracies have Wilson's interval, their difference that of a bootstrap.

    `p_value` is the chance of a split at least as uneven of the images that changed sides, were both models equally
    good; `p_worse` that of so few newly right among them.
    """

    images: int
    newly_right: list[str]
    newly_wrong: list[str]
    before: Estimate
    after: Estimate
    difference: Estimate
    p_value: float
    p_worse: float
    classes: dict[str, ClassChange]

    @property
    def verdict(self) -> Literal["better", "worse", "not distinguishable"]:
        """Two-sided, at the level of 5 %."""
        if self.p_value >= LEVEL:
            return "not distinguishable"
        return "better" if self.difference.value > 0 else "worse"

    @property
    def images_needed(self) -> int | None:
        """How many images would show a difference like this one with a chance of 80 %; None where there is none."""
        if self.difference.value == 0:
            return None
        changed = (len(self.newly_right) + len(self.newly_wrong)) / self.images
        return count_images_needed(changed, self.difference.value)


def find_shared(before: Mapping[str, Decision], after: Mapping[str, Decision]) -> list[str]:
    """Names of the images that both judged under the same label, in the order of `after`."""
    return [image for image, one in after.items() if image in before and before[image].label == one.label]


def describe_unshared(before: Mapping[str, Decision], after: Mapping[str, Decision]) -> str:
    """A sentence on the images that were left out, empty where there is none."""
    relabelled = len(before.keys() & after.keys()) - len(find_shared(before, after))
    counts = {
        "only before": len(before.keys() - after.keys()),
        "only after": len(after.keys() - before.keys()),
        "with another label": relabelled,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"the test images differ: left out {', '.join(parts)}" if parts else ""


def compare_decisions(before: Mapping[str, Decision], after: Mapping[str, Decision]) -> Comparison:
    """Compare on the images of `find_shared`. Raises InputError where there is none."""
    shared = find_shared(before, after)
    if not shared:
        raise InputError("no test image in common: nothing to compare")
    labels = [after[image].label for image in shared]
    was_right = [before[image].predicted == label for image, label in zip(shared, labels, strict=True)]
    is_right = [after[image].predicted == label for image, label in zip(shared, labels, strict=True)]
    newly_right = [image for image, was, now in zip(shared, was_right, is_right, strict=True) if now and not was]
    newly_wrong = [image for image, was, now in zip(shared, was_right, is_right, strict=True) if was and not now]
    gained, lost = len(newly_right), len(newly_wrong)
    rights = (Counter(compress(labels, chosen)) for chosen in (was_right, is_right))
    counts, right_before, right_after = Counter(labels), *rights
    classes = {name: ClassChange(counts[name], right_before[name], right_after[name]) for name in sorted(counts)}
    return Comparison(
        images=len(shared),
        newly_right=newly_right,
        newly_wrong=newly_wrong,
        before=estimate_share(sum(was_right), len(shared)),
        after=estimate_share(sum(is_right), len(shared)),
        difference=estimate_difference(gained, lost, len(shared)),
        p_value=min(1.0, 2 * min(sum_below(gained, gained + lost), sum_below(lost, gained + lost))),
        p_worse=sum_below(gained, gained + lost),
        classes=classes,
    )


def estimate_difference(gained: int, lost: int, count: int) -> Estimate:
    """The difference of two accuracies on the same images, with the 95 % interval of a paired bootstrap.

    One image more is taken as gained and one as lost (Bonett and Price 2012): where few or none changed sides, chance
    could have changed some. Drawing how many of each kind a resample holds is the same as drawing its images.
    """
    value = (gained - lost) / count
    shares = np.array([gained + 1, lost + 1, count - gained - lost]) / (count + 2)
    drawn = np.random.default_rng(0).multinomial(count + 2, shares, NUM_RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / (count + 2), [0.025, 0.975]).tolist()
    return Estimate(value, min(low, value), max(high, value))


def sum_below(hits: int, total: int) -> float:
    """The chance of fewer than `hits` heads in `total` throws of a coin, and half of that of just as many.

    McNemar's test (1947) in its exact form with the mid-p value, which Fagerland and others (2013) advise.
    """
    steps = np.log(np.arange(total, 0, -1) / np.arange(1, total + 1))
    chances = np.exp(np.concatenate([[0.0], np.cumsum(steps)]) - total * log(2))
    return float(chances[:hits].sum() + chances[hits] / 2)


def count_images_needed(changed: float, difference: float) -> int:
    """Images for which McNemar's two-sided test at 5 % finds a difference of accuracies with a chance of 80 %.

    `changed` is the share of images that change sides. Formula of Connor (1987), Biometrics 43, 207-211.
    """
    reach = Z * sqrt(changed) + POWER_Z * sqrt(changed - difference**2)
    return ceil(reach**2 / difference**2)
