"""Logits and labels -> figures with 95 % intervals (numpy: scikit-learn takes longer to import than to train).

Shapes: n images, k classes, b resamples of the images. Rows of a confusion matrix are true classes, columns predicted
ones. docs/evaluation.md says what each figure and its interval mean, and where they come from.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from imclass.errors import InputError
from imclass.files import write_rows

Z = 1.959963984540054  # of a normal distribution, 95 % lie within this many standard deviations
NUM_RESAMPLES = 1_000
CHUNK_NUMBERS = 2**19  # of the weights of images that are held at once
NUM_BINS = 15  # of the confidence, in the expected calibration error
MANY_CLASSES = 20  # from here on the first five guesses count, below the first three


@dataclass(frozen=True)
class Estimate:
    """A figure of the test images, and the ends of its 95 % interval for images of the same kind."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """Of one class against the rest. `support` counts its test images.

    A share of nothing is 0, and its interval all of 0 to 1; ROC-AUC is None where one side has no image.
    """

    precision: Estimate
    recall: Estimate
    f1: Estimate
    roc_auc: Estimate | None
    support: int


@dataclass(frozen=True)
class Metrics:
    """Of all classes together, by name, and of each class in their order."""

    overall: dict[str, Estimate]
    classes: list[ClassMetrics]


@dataclass(frozen=True)
class Reliability:
    """Bins of the confidence that hold images: means of their confidence and accuracy, and their images."""

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    images: Int64[np.ndarray, " bins"]


def estimate_metrics(
    logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"], *, temperature: float = 1.0
) -> Metrics:
    """All figures of probabilities softmax(logits / temperature); equal inputs give equal figures.

    Overall: accuracy, balanced_accuracy, macro_f1, weighted_f1, top_3 (from 5 classes on) or top_5 (from 20 on),
    log_loss, brier, ece, and roc_auc unless all images are of one class. Raises InputError for logits that are no
    numbers.
    """
    if not np.isfinite(logits).all():
        raise InputError(f"expected finite logits, found others for {(~np.isfinite(logits)).any(axis=1).sum()} images")
    count, num_classes = logits.shape
    log_probabilities = compute_log_probabilities(logits, temperature)
    predicted = logits.argmax(axis=1)
    hits = int((predicted == labels).sum())
    overall = {"accuracy": estimate_share(hits, count)}
    resampled = _bootstrap(_describe(log_probabilities, labels, predicted))
    if hits == count:  # resamples without a mistake have none either
        resampled |= dict.fromkeys(("balanced_accuracy", "macro_f1", "weighted_f1"), overall["accuracy"])
    overall |= resampled
    if num_classes >= 5:
        guesses = 5 if num_classes >= MANY_CLASSES else 3
        higher = (log_probabilities > log_probabilities[np.arange(count), labels][:, None]).sum(axis=1)
        overall[f"top_{guesses}"] = estimate_share(int((higher < guesses).sum()), count)
    aucs, macro_auc = _estimate_aucs(log_probabilities, labels)
    if macro_auc:
        overall["roc_auc"] = macro_auc
    confusion = count_confusion(labels, predicted, num_classes)
    rights, supports, all_winners = (
        column.tolist() for column in (confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))
    )
    classes = [
        ClassMetrics(
            precision=estimate_share(right, winners),
            recall=estimate_share(right, support),
            f1=_estimate_f1(right, support + winners),
            roc_auc=auc,
            support=support,
        )
        for right, support, winners, auc in zip(rights, supports, all_winners, aucs, strict=True)
    ]
    return Metrics(overall, classes)


def count_confusion(
    labels: Int64[np.ndarray, " n"], predicted: Int64[np.ndarray, " n"], num_classes: int
) -> Int64[np.ndarray, "k k"]:
    """How often each class was taken for each."""
    pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def rank_confusions(confusion: Int64[np.ndarray, "k k"]) -> list[tuple[int, int]]:
    """Pairs (true, predicted) that occur among the mistakes, the most frequent first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    rows, columns = wrong.nonzero()
    order = np.argsort(-wrong[rows, columns], kind="stable")
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


def compute_log_probabilities(logits: Float[np.ndarray, "n k"], temperature: float = 1.0) -> Float[np.ndarray, "n k"]:
    """Natural logarithm of softmax(logits / temperature), in float64."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def estimate_share(hits: int, total: int) -> Estimate:
    """hits / total with Wilson's score interval (1927)."""
    if total == 0:
        return Estimate(0.0, 0.0, 1.0)
    share = hits / total
    middle = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    reach = Z * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    # At the ends rounding could leave the value just outside.
    low, high = min(share, float(middle - reach)), max(share, float(middle + reach))
    return Estimate(share, max(0.0, low), min(1.0, high))


def measure_probabilities(
    logits: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"], *, temperature: float
) -> dict[str, float]:
    """log_loss, brier and ece alone, without their intervals: what a temperature changes."""
    log_probabilities = compute_log_probabilities(logits, temperature)
    found = _weigh(_describe(log_probabilities, labels, logits.argmax(axis=1)), np.ones((1, len(labels))))
    return {name: float(found[name][0]) for name in ("log_loss", "brier", "ece")}


def list_figures(metrics: Metrics, uncalibrated: dict[str, float], temperature: float) -> dict[str, Any]:
    """The content of metrics.json: figures, ends of their intervals, and what `uncalibrated` says of temperature 1."""
    overall = metrics.overall
    images = sum(scores.support for scores in metrics.classes)
    return {
        "test": {name: round(estimate.value, 6) for name, estimate in overall.items()} | {"images": images},
        "low": {name: round(estimate.low, 6) for name, estimate in overall.items()},
        "high": {name: round(estimate.high, 6) for name, estimate in overall.items()},
        "temperature": round(temperature, 6),
        "uncalibrated": {name: round(value, 6) for name, value in uncalibrated.items()},
    }


def write_class_metrics(metrics: Metrics, classes: list[str], path: Path) -> None:
    """Write one row per class: class, support, then each figure with its ends; whole or not at all."""
    names = ("precision", "recall", "f1", "roc_auc")
    header = ["class", "support", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    rows = []
    for label, scores in zip(classes, metrics.classes, strict=True):
        found: list[Estimate | None] = [getattr(scores, name) for name in names]
        cells = [[""] * 3 if one is None else [f"{end:.6f}" for end in astuple(one)] for one in found]
        rows.append([label, scores.support, *(cell for three in cells for cell in three)])
    write_rows(path, header, rows)


def write_reliability(path: Path, probabilities: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> None:
    """Write one row per bin that holds images: confidence and accuracy (means of its images) and their count."""
    found = measure_reliability(probabilities, labels)
    means = (mean.round(6).tolist() for mean in (found.confidence, found.accuracy))
    write_rows(path, ["confidence", "accuracy", "images"], zip(*means, found.images.tolist(), strict=True))


def measure_reliability(probabilities: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]) -> Reliability:
    """How often the likeliest class is the true one, by its probability (Guo and others 2017)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = group_confidence(confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    used = np.flatnonzero(counts)
    confidences = np.bincount(bins, confidence, NUM_BINS)[used] / counts[used]
    accuracies = np.bincount(bins, probabilities.argmax(axis=1) == labels, NUM_BINS)[used] / counts[used]
    return Reliability(confidences, accuracies, counts[used])


def group_confidence(confidence: Float[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The bin of each confidence: 15 of equal width over 0..1, each with its upper end."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


@dataclass(frozen=True)
class _Images:
    """What figures are made of, for images in the order of their cells: same label, prediction and bin of confidence.

    `starts` are the first images of the cells; `labels`, `predicted` and `bins` have one number for each cell, the
    others one for each image. `gap` is 1 for a right image and 0 for a wrong one, less the confidence.
    """

    num_classes: int
    starts: Int64[np.ndarray, " cells"]
    labels: Int64[np.ndarray, " cells"]
    predicted: Int64[np.ndarray, " cells"]
    bins: Int64[np.ndarray, " cells"]
    log_loss: Float[np.ndarray, " n"]
    brier: Float[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"]


def _describe(
    log_probabilities: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"], predicted: Int64[np.ndarray, " n"]
) -> _Images:
    rows, num_classes = np.arange(len(labels)), log_probabilities.shape[1]
    probabilities = np.exp(log_probabilities)
    confidence = probabilities[rows, predicted]
    cells = (labels * num_classes + predicted) * NUM_BINS + group_confidence(confidence)
    order = np.argsort(cells, kind="stable")
    found, starts = np.unique(cells[order], return_index=True)
    pairs, bins = np.divmod(found, NUM_BINS)
    brier = np.square(probabilities).sum(axis=1) - 2 * probabilities[rows, labels] + 1
    return _Images(
        num_classes=num_classes,
        starts=starts,
        labels=pairs // num_classes,
        predicted=pairs % num_classes,
        bins=bins,
        log_loss=-log_probabilities[rows, labels][order],
        brier=brier[order],
        gap=((predicted == labels) - confidence)[order],
    )


def _bootstrap(images: _Images) -> dict[str, Estimate]:
    """Figures of the images; their ends are percentiles of the figures of resampled images (Efron 1979).

    Some figures of a sample are off in one direction, as the calibration error, to which noise only adds. Those of its
    resamples are off once more, by about as much. So both percentiles are moved back by what the resamples added, and
    the one that thereby goes away from the value once more, by what the sample itself had added.
    """
    count = len(images.gap)
    values = {name: float(figure[0]) for name, figure in _weigh(images, np.ones((1, count))).items()}
    chunks = [_weigh(images, weights) for weights in _resample(count)]
    estimates = {}
    for name, value in values.items():
        drawn = np.concatenate([chunk[name] for chunk in chunks])
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        off = float(drawn.mean()) - value
        low, high = low - off - max(off, 0.0), high - off - min(off, 0.0)
        most = np.inf if name in ("log_loss", "brier") else 1.0
        estimates[name] = Estimate(value, max(0.0, min(low, value)), min(most, max(high, value)))
    return estimates


def _resample(count: int) -> Iterator[Float[np.ndarray, "b n"]]:
    """How often each image is drawn, in chunks of resamples."""
    chance = np.random.default_rng(0)
    size = max(1, CHUNK_NUMBERS // count)
    for start in range(0, NUM_RESAMPLES, size):
        rows = min(size, NUM_RESAMPLES - start)
        drawn = chance.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _weigh(images: _Images, weights: Float[np.ndarray, "b n"]) -> dict[str, Float[np.ndarray, " b"]]:
    """Figures for each row of weights, which sum to the number of images."""
    count, num_classes = weights.shape[1], images.num_classes
    cells = np.add.reduceat(weights, images.starts, axis=1)
    supports = _sum_groups(cells, images.labels, num_classes)
    winners = _sum_groups(cells, images.predicted, num_classes)
    hits = _sum_groups(cells * (images.labels == images.predicted), images.labels, num_classes)
    f1 = _divide(2 * hits, supports + winners)
    gaps = _sum_groups(np.add.reduceat(weights * images.gap, images.starts, axis=1), images.bins, NUM_BINS)
    return {
        "balanced_accuracy": np.nanmean(_divide(hits, supports), axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "weighted_f1": np.nansum(f1 * supports, axis=1) / count,
        # Not by matrix product: the order of its sums, and so their last bits, follows the number of threads.
        "log_loss": np.einsum("bn,n->b", weights, images.log_loss) / count,
        "brier": np.einsum("bn,n->b", weights, images.brier) / count,
        "ece": np.abs(gaps).sum(axis=1) / count,
    }


def _sum_groups(
    values: Float[np.ndarray, "b cells"], groups: Int64[np.ndarray, " cells"], num_groups: int
) -> Float[np.ndarray, "b groups"]:
    order = np.argsort(groups, kind="stable")
    found, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(values), num_groups))
    sums[:, found] = np.add.reduceat(values[:, order], starts, axis=1)
    return sums


def _divide(parts: np.ndarray, totals: np.ndarray) -> Float[np.ndarray, "b k"]:
    """Their ratio, NaN where there is nothing to divide by."""
    return np.divide(parts, totals, out=np.full(parts.shape, np.nan), where=totals > 0)


def _estimate_f1(hits: int, total: int) -> Estimate:
    """2 hits / total, where total is support + predicted.

    J = hits / (hits + misses + false alarms) is a share of images with Wilson's interval, and F1 = 2 J / (1 + J) rises
    with it (Lam and others 2023, "Wilson indirect").
    """
    jaccard = estimate_share(hits, total - hits)
    return Estimate(*(2 * end / (1 + end) for end in (jaccard.value, jaccard.low, jaccard.high)))


def _estimate_aucs(
    scores: Float[np.ndarray, "n k"], labels: Int64[np.ndarray, " n"]
) -> tuple[list[Estimate | None], Estimate | None]:
    """Areas under the ROC curves of each class against the rest, and their mean.

    The mean has DeLong's standard error (1988), on the scale of the logit.
    """
    count = len(labels)
    supports = np.bincount(labels, minlength=scores.shape[1])
    found = np.flatnonzero((supports > 0) & (supports < count))
    if len(found) == 0:
        return [None] * len(supports), None
    values = np.zeros(len(found))
    pulls = np.zeros(count)  # how much each image moves the mean area
    for row, at in enumerate(found.tolist()):
        inside = labels == at
        above = _rank(scores[inside, at], np.sort(scores[~inside, at]))
        below = 1 - _rank(scores[~inside, at], np.sort(scores[inside, at]))
        values[row] = above.mean()
        pulls[inside] += (above - values[row]) / (len(above) * len(found))
        pulls[~inside] += (below - values[row]) / (len(below) * len(found))
    lows, highs = _enclose_aucs(values, supports[found], count - supports[found])
    classes: list[Estimate | None] = [None] * len(supports)
    for at, *ends in zip(found.tolist(), values.tolist(), lows.tolist(), highs.tolist(), strict=True):
        classes[at] = Estimate(*ends)

    mean = float(values.mean())
    deviation = float(np.sqrt(np.square(pulls).sum()))
    if deviation == 0:  # each class stands apart from its rest: as an accuracy without a mistake
        return classes, estimate_share(count, count)
    logit, reach = np.log(mean / (1 - mean)), Z * deviation / (mean * (1 - mean))
    return classes, Estimate(mean, *(float(1 / (1 + np.exp(-end))) for end in (logit - reach, logit + reach)))


def _rank(values: Float[np.ndarray, " a"], others: Float[np.ndarray, " b"]) -> Float[np.ndarray, " a"]:
    """The share of the sorted others that each value exceeds, equal ones counted by half."""
    return (others.searchsorted(values, "left") + others.searchsorted(values, "right")) / (2 * len(others))


def _enclose_aucs(
    values: Float[np.ndarray, " k"], inside: Int64[np.ndarray, " k"], outside: Int64[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The areas from which each value is Z standard deviations away (Newcombe 2006, method 5), by bisection."""
    mean_counts = (inside + outside) / 2
    ends = []
    for outermost in 0.0, 1.0:
        far, near = np.full_like(values, outermost), values
        for _ in range(50):
            area = (far + near) / 2
            spread = 1 + (mean_counts - 1) * ((1 - area) / (2 - area) + area / (1 + area))
            is_far = (values - area) ** 2 * (inside * outside) > Z**2 * area * (1 - area) * spread
            far, near = np.where(is_far, area, far), np.where(is_far, near, area)
        ends.append(near)
    return ends[0], ends[1]
