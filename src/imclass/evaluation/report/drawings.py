"""History, labels and probabilities -> the charts of the page. Shapes: n images, k classes."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int64

from imclass.evaluation.metrics import measure_reliability
from imclass.evaluation.report.charts import Axis, Bars, Chart, Line, draw_chart, enclose, find_start
from imclass.evaluation.report.curves import GRID, accuracy_by_coverage, measure_detection
from imclass.training.history import Epoch, find_best

NUM_BARS = 20  # of a histogram
GAP = 0.003  # beside a bar
NONE, ROOM = 0.7, 1.3  # where the axis of counts starts, and by how much it exceeds the highest bar
MANY_TIMES = 5  # from there on pixels are on a logarithmic scale
CURVES = 4  # classes with a curve of their own


def draw_learning(history: list[Epoch]) -> list[Chart]:
    """Loss, accuracy and learning rate by epoch."""
    epochs = [float(entry.epoch) for entry in history]
    best = find_best(history)
    x = Axis("epoch", epochs[0], epochs[-1], whole=True)

    def draw(title: str, text: str, label: str, names: dict[str, str], kept: float | None, log: bool = False) -> Chart:
        columns = {name: [getattr(entry, field) for entry in history] for name, field in names.items()}
        values = [value for column in columns.values() for value in column]
        y = Axis(label, *enclose(values, log=log), log=log)
        lines = [Line(name, f"line-{name.split()[0]}", epochs, column) for name, column in columns.items()]
        return draw_chart(title, text, x, y, lines=lines, ring=None if kept is None else (float(best.epoch), kept))

    losses = [loss for entry in history for loss in (entry.train_loss, entry.val_loss, entry.val_brier)]
    log = min(losses) > 0 and max(losses) > 3 * min(losses)
    scale = ", logarithmic scale" if log else ""
    return [
        draw(
            "Loss",
            f"On training and validation images by epoch{scale}; the ring is the epoch kept, by the Brier score.",
            "loss",
            {"train": "train_loss", "validation": "val_loss", "Brier score": "val_brier"},
            best.val_brier,
            log,
        ),
        draw(
            "Accuracy",
            "On training images as they were learnt, with augmentation, and on validation images.",
            "accuracy",
            {"train": "train_accuracy", "validation": "val_accuracy"},
            best.val_accuracy,
        ),
        draw("Learning rate", "At the end of each epoch.", "learning rate", {"model": "learning_rate"}, None),
    ]


def draw_confidence(
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    uncalibrated: Float[np.ndarray, "n k"],
) -> list[Chart]:
    """Reliability, histogram of the confidence, and accuracy on the surest images."""
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    scaled = measure_reliability(probabilities, labels)
    lines = [Line("ideal", "line-ideal", [0.0, 1.0], [0.0, 1.0])]
    text = "A confidence of 0.8 should be right in 80 of 100 images."
    if not np.array_equal(probabilities, uncalibrated):
        raw = measure_reliability(uncalibrated, labels)
        lines.append(Line("before temperature scaling", "line-train", raw.confidence.tolist(), raw.accuracy.tolist()))
    lines.append(Line("the model", "line-model", scaled.confidence.tolist(), scaled.accuracy.tolist()))
    x = Axis("confidence", 0.0, 1.0)
    images, bars = _count({"right": confidence[right], "wrong": confidence[~right]}, x)
    coverage, accuracy = accuracy_by_coverage(confidence, right)
    return [
        draw_chart("Is the confidence right?", text, x, Axis("share right", 0.0, 1.0), lines=lines),
        draw_chart(
            "How sure is the model?",
            "Images by the probability of the predicted class, logarithmic scale.",
            x,
            images,
            bars=bars,
        ),
        draw_chart(
            "What if it answers only when sure?",
            "Accuracy on the images that it is surest of, by their share.",
            Axis("share of images answered", 0.0, 1.0),
            Axis("accuracy", find_start(accuracy.tolist()), 1.0),
            lines=[Line("accuracy", "line-model", coverage.tolist(), accuracy.tolist())],
        ),
    ]


def draw_detection(
    labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n k"], classes: list[str]
) -> list[Chart]:
    """Each class against the rest: precision, recall and ROC of the worst and on average; what the true class got."""
    detection = measure_detection(labels, probabilities)
    areas = detection.precision.mean(axis=1)
    measured = np.flatnonzero(~np.isnan(areas))
    if not len(measured):
        return []
    worst = [at for at in measured[np.argsort(areas[measured], kind="stable")][:CURVES] if areas[at] < 1 - 1e-9]
    curves = [("mean of the classes", detection.precision[measured].mean(0), detection.false_alarms[measured].mean(0))]
    curves += [(classes[at], detection.precision[at], detection.false_alarms[at]) for at in worst]
    lowest = float(10.0 ** np.floor(np.log10(1 / len(labels))))
    x = Axis("probability", 0.0, 1.0)
    images, bars = _count({"images": probabilities[np.arange(len(labels)), labels]}, x)
    which = f"each class against the rest: their mean{' and the worst' if worst else ''}"
    return [
        draw_chart(
            "Precision and recall",
            f"By threshold of the probability, {which}.",
            Axis("recall", 0.0, 1.0),
            Axis("precision", 0.0, 1.0),
            lines=[
                Line(name, f"line-{at}", GRID[1:].tolist(), precision[1:].tolist())
                for at, (name, precision, _) in enumerate(curves)
            ],
        ),
        draw_chart(
            "ROC",
            f"False alarms on a logarithmic scale, {which}.",
            Axis("false positive rate", lowest, 1.0, log=True),
            Axis("true positive rate", 0.0, 1.0),
            lines=[
                Line(name, f"line-{at}", false_alarms.tolist(), GRID.tolist())
                for at, (name, _, false_alarms) in enumerate(curves)
            ],
        ),
        draw_chart(
            "Probability of the true class",
            "Images by what the model gave the right answer, logarithmic scale.",
            x,
            images,
            bars=bars,
        ),
    ]


def draw_sizes(sizes: Int64[np.ndarray, "sizes 3"]) -> Chart:
    """Histograms of the widths and heights that pictures have in their files."""
    sides = {"width": sizes[:, 0], "height": sizes[:, 1]}
    low, high = (float(end(sizes[:, :2])) for end in (np.min, np.max))
    log = high > MANY_TIMES * low
    x = Axis("pixels", *enclose([low, high], log=log), log=log)
    images, bars = _count(sides, x, sizes[:, 2])
    text = f"Pictures by width and height in their files; counts{' and pixels' if log else ''} on a logarithmic scale."
    return draw_chart("Original sizes", text, x, images, bars=bars)


def _count(
    groups: Mapping[str, Float[np.ndarray, " _"] | Int64[np.ndarray, " _"]],
    x: Axis,
    weights: Int64[np.ndarray, " _"] | None = None,
) -> tuple[Axis, list[Bars]]:
    """Histograms of numbers on `x` beside each other, and a logarithmic axis for their heights."""
    shares = np.linspace(0, 1, NUM_BARS + 1)
    edges = x.spread(shares)
    width = 1 / NUM_BARS / len(groups)
    bars, most = [], 10 / ROOM
    for at, (name, values) in enumerate(groups.items()):
        counts = np.histogram(values, edges, weights=weights)[0]
        starts = shares[:-1] + at * width
        bars.append(
            Bars(
                name,
                f"bar-{name}",
                x.spread(starts + GAP),
                x.spread(starts + width - GAP),
                np.maximum(counts, NONE).tolist(),
                [
                    f"{n:,} {name}, {x.label} {a:.4g} to {b:.4g}"
                    for n, (a, b) in zip(counts, pairwise(edges), strict=True)
                ],
            )
        )
        most = max(most, float(counts.max()))
    return Axis("images", NONE, ROOM * most, log=True), bars
