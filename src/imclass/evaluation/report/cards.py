"""Labels and probabilities -> which images stand on the page, and what is said of each. Shapes: n images, k classes."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from imclass.evaluation.report.sheets import SMALL_PIXELS

MOST_MISTAKES, MOST_RIGHT = 400, 120
RIGHT_PER_CLASS = 8
TOP = 3  # probabilities beside an image


def choose_shown(labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n k"]) -> Int64[np.ndarray, " s"]:
    """Rows of the images on the page: mistakes, the surest first, then right ones of each class, the least sure
    first.

    Where there are too many mistakes, half of those shown are the surest, the others the surest of each confusion.
    """
    predicted = probabilities.argmax(axis=1)
    true_probability = probabilities[np.arange(len(labels)), labels]
    order = np.argsort(true_probability, kind="stable")
    wrong, right = order[predicted[order] != labels[order]], order[predicted[order] == labels[order]]
    if len(wrong) > MOST_MISTAKES:
        first, others = np.split(wrong, [MOST_MISTAKES // 2])
        ranks = _rank_within(labels[others] * probabilities.shape[1] + predicted[others])
        others = others[np.argsort(ranks, kind="stable")][: MOST_MISTAKES - len(first)]
        wrong = np.concatenate([first, others])
        wrong = wrong[np.argsort(true_probability[wrong], kind="stable")]
    ranks = _rank_within(labels[right])
    right = right[np.argsort(ranks, kind="stable")]
    right = right[np.sort(ranks) < RIGHT_PER_CLASS][:MOST_RIGHT]
    return np.concatenate([wrong, right[np.argsort(true_probability[right], kind="stable")]])


def describe_cards(
    shown: Int64[np.ndarray, " s"],
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    names: list[str],
    classes: list[str],
) -> tuple[list[dict[str, Any]], dict[tuple[int, int], int]]:
    """Cards in the order of the sheet, and the number of the first card of each (true, predicted)."""
    predicted = probabilities.argmax(axis=1)
    cards: list[dict[str, Any]] = []
    firsts: dict[tuple[int, int], int] = {}
    for at, row in enumerate(shown.tolist()):
        true, winner = int(labels[row]), int(predicted[row])
        top = np.argsort(-probabilities[row], kind="stable")[:TOP].tolist()
        listed = top if true in top else [*top[: TOP - 1], true]
        first = firsts.setdefault((true, winner), at) == at
        bars = [(classes[k], float(probabilities[row, k]), k == true) for k in listed]
        card = {"true": true, "predicted": winner, "wrong": true != winner, "first": first}
        cards.append({**card, "name": names[row], "bars": bars})
    return cards, firsts


def choose_width(width: int, height: int, most: int) -> int:
    """Pixels on the screen: a multiple of those of a small image, so that all of them look alike."""
    side = max(width, height)
    times = max(1, most // side) if side <= SMALL_PIXELS else most / side
    return round(width * times)


def _rank_within(groups: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many earlier elements have the same value."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(groups)])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return ranks
