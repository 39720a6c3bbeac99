"""Features learnt on nine classes of Fashion-MNIST, the tenth learnt from 50 images -> accuracy beside from scratch.

By the stages themselves: `train` on all images of nine classes; then, for 50 images of each of the ten classes, `train`
with `model.weights` and `model.freeze`, and without. The official test images judge.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import FASHION_FIT, read_idx
from benchmarks.programs import copy_checkout, run, set_params
from benchmarks.report import RESULTS, format_mean, format_spread, write_report
from imclass.data.division import Division
from imclass.data.packed import Split, write_packed
from imclass.models.blocks import freeze
from imclass.models.classifier import Classifier
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.training.optimizer import build_optimizer
from imclass.training.state import start_training
from imclass.training.step import Learner

TENTH = 9  # ankle boots
PER_CLASS = 50  # images to learn ten classes from
NUM_VAL = 20  # more of each class, by which the epoch is chosen
MANY = {"epochs": 2, "batch_size": 128, "lr": 0.25}
FEW = {"epochs": 20, "batch_size": 32}
BATCH, STEPS = 64, 12  # timed, of which the first two are thrown away
START = "nine.safetensors"
# From scratch at the rate of params.yaml: 0.05 gave 1.3 points less, 50 epochs no more.
WAYS: dict[str, dict[str, Any]] = {
    "from scratch": {"lr": 0.2, "model": {"weights": None, "freeze": 0}},
    "weights of nine classes": {"lr": 0.05, "model": {"weights": START, "freeze": 0}},
    "the same, all but the head frozen": {"lr": 0.05, "model": {"weights": START, "freeze": "backbone"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idx", type=Path, required=True, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    fashion, test = read_idx(options.idx, "train"), read_idx(options.idx, "t10k")
    accuracies: dict[str, list[float]] = {way: [] for way in WAYS}
    recalls: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        project = copy_checkout(
            Path(temporary, "project"), {"build": FASHION_FIT.model_dump(), "augment": {"flip": True}}
        )
        for seed in options.seeds:
            draw_sets(fashion, project, seed)
            train(project, "nine", {**MANY, "seed": seed, "model": {"weights": None, "freeze": 0}})
            (project / "models/nine.safetensors").rename(project / "weights" / START)
            for way, params in WAYS.items():
                train(project, "ten", {**FEW, **params, "seed": seed})
                found = load_model(project / "models/ten.safetensors").to(memory_format=torch.channels_last)
                right, tenth = judge(found, test)
                accuracies[way].append(right)
                recalls[way].append(tenth)
            for way, taken in time_steps(project / "models/ten.safetensors", fashion).items():
                seconds[way] += taken
    scratch = statistics.median(seconds["from scratch"])
    write_report(
        options.out,
        title="Transfer: nine classes of Fashion-MNIST to ten",
        conditions=[
            f"The given cnn learns nine classes from all their training images ({MANY['epochs']} epochs), then ten "
            f"from {PER_CLASS} images of each, the tenth, ankle boots, being new; from scratch: the latter only. "
            f"{NUM_VAL} more images of each class choose the epoch. Balanced, since a new head rarely names a class of "
            f"a hundredth of the images. {len(options.seeds)} seeds, of weights and of the images drawn: mean +/- "
            f"standard deviation on the official 10,000 test images. A step is one of batch {BATCH} on one thread, the "
            "ways taking turns: median (quartiles)."
        ],
        header=["", "accuracy", "recall of the tenth", "ms a step", "of from scratch"],
        rows=[
            [
                way,
                format_mean(accuracies[way], ".2%"),
                format_mean(recalls[way], ".2%"),
                format_spread([1000 * value for value in seconds[way]], 1),
                f"{statistics.median(seconds[way]) / scratch:.2f}",
            ]
            for way in WAYS
        ],
        spreads=accuracies,
        axis="test accuracy",
    )


def draw_sets(train: Split, project: Path, seed: int) -> None:
    """Write the packed sets `nine` and `ten` of a seed into a project."""
    order = np.random.default_rng(seed).permutation(len(train.labels))
    by_class = [order[train.labels[order] == label] for label in range(10)]
    others = order[train.labels[order] != TENTH]
    sets = {
        "nine": (others[NUM_VAL * 9 :], others[: NUM_VAL * 9]),
        "ten": (
            np.concatenate([rows[:PER_CLASS] for rows in by_class]),
            np.concatenate([rows[PER_CLASS : PER_CLASS + NUM_VAL] for rows in by_class]),
        ),
    }
    for name, (learnt, val) in sets.items():
        at = np.concatenate([learnt, val])
        splits = ["train"] * len(learnt) + ["val"] * len(val)
        rows = [
            (f"{number:06}", str(train.labels[row]), split)
            for number, (row, split) in enumerate(zip(at, splits, strict=True))
        ]
        write_packed(project / name, rows, [([row[0] for row in rows], train.images[at])], FASHION_FIT.model_dump())


def train(project: Path, name: str, params: Mapping[str, Any]) -> None:
    set_params(project, params)
    paths = [name, "weights", f"models/{name}.safetensors", f"{name}.csv"]
    run([sys.executable, "stages/train.py", *paths], project)


def judge(model: Classifier, test: Split) -> tuple[float, float]:
    """Accuracy, and recall of the tenth class."""
    right = compute_logits(model, test.images).argmax(1).numpy() == test.labels
    return float(right.mean()), float(right[test.labels == TENTH].mean())


def time_steps(model_file: Path, split: Split) -> dict[str, list[float]]:
    """Seconds of some steps of each way, which take turns; the first are thrown away."""
    torch.set_num_threads(1)
    images, labels = torch.from_numpy(split.images[:BATCH]), torch.from_numpy(split.labels[:BATCH])
    learn = Learner(nn.CrossEntropyLoss(reduction="sum"), Division(BATCH))
    states = {}
    for way, params in WAYS.items():
        model = load_model(model_file).to(memory_format=torch.channels_last)
        freeze(model.network, params["model"]["freeze"])
        optimizer = build_optimizer(model, name="sgd", lr=1e-4, momentum=0.9, weight_decay=0.0)
        states[way] = start_training(model.train(), optimizer, num_batches=STEPS)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(STEPS):
        for way, state in states.items():
            start = time.perf_counter()
            learn(state, images, labels, BATCH)
            seconds[way].append(time.perf_counter() - start)
    return {way: taken[2:] for way, taken in seconds.items()}


if __name__ == "__main__":
    main()
