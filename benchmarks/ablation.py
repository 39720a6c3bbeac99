"""Each key of the recipe changed on its own -> what that does to accuracy on Fashion-MNIST, and to the cost of it.

Differences are to the base with the same seed; cost is CPU time of the whole train stage. Accuracies are those of the
validation split, by which recipes are chosen.
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import FASHION_FIT, add_data_options, make_fashion_zip
from benchmarks.programs import ROOT, copy_checkout, make_environment, read_command, run, set_params
from benchmarks.report import RESULTS, format_mean, write_report
from imclass.data.annotations import read_annotations, write_annotations
from imclass.data.packed import open_packed
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.params import read_yaml

BASE = "base"
KNOBS: dict[str, dict[str, Any]] = {
    BASE: {},
    "train.optimizer: adamw, lr: 0.005": {"lr": 0.005, "train": {"optimizer": "adamw", "weight_decay": 0.05}},
    "train.schedule: cosine": {"train": {"schedule": "cosine"}},
    "train.schedule: constant, lr: 0.05": {"lr": 0.05, "train": {"schedule": "constant"}},
    "train.weight_decay: 0": {"train": {"weight_decay": 0.0}},
    "train.label_smoothing: 0": {"train": {"label_smoothing": 0.0}},
    "train.clip_norm: 1": {"train": {"clip_norm": 1.0}},
    "train.accumulation: 4": {"train": {"accumulation": 4}},
    "train.ema: 0.99": {"train": {"ema": 0.99}},
    "train.precision: bfloat16": {"train": {"precision": "bfloat16"}},
    "train.compile: true": {"train": {"compile": True}},
    "model.mirror: false": {"model": {"mirror": False}},
    "model.cnn.dropout: 0.2": {"model": {"cnn": {"dropout": 0.2}}},
    "augment.flip: false": {"augment": {"flip": False}},
    "augment.shift: 1": {"augment": {"shift": 1}},
    "augment.rotate: 10": {"augment": {"rotate": 10.0}},
    "augment.crop: 0.8": {"augment": {"crop": 0.8}},
    "augment.color: 0.2": {"augment": {"color": 0.2}},
    "augment.erase: 0.3": {"augment": {"erase": 0.3}},
    "augment.mix: mixup": {"augment": {"mix": "mixup"}},
    "augment.mix: cutmix": {"augment": {"mix": "cutmix"}},
}
BALANCE: dict[str, dict[str, Any]] = {
    BASE: {},
    "train.balance: loss": {"train": {"balance": "loss"}},
    "train.balance: sampler": {"train": {"balance": "sampler"}},
}
RARE = ("Pullover", "Sandal")
RARE_SHARE = 0.05


class Result(NamedTuple):
    """What one training came to: balanced accuracy, recall of the rare classes, CPU seconds."""

    accuracy: float
    rare: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time, one thread each")
    parser.add_argument("--skewed", action="store_true", help=f"{' and '.join(RARE)} with 5 %% of their images")
    parser.add_argument("--out", type=Path, help="Markdown file; the plot beside it")
    options = parser.parse_args()
    knobs = BALANCE if options.skewed else KNOBS
    with tempfile.TemporaryDirectory() as temporary:
        source = make_fashion_zip(options.folder, options.idx).resolve()
        base = prepare_base(Path(temporary, "base"), source, epochs=options.epochs, skewed=options.skewed)
        runs = list(itertools.product(options.seeds, knobs))
        with ThreadPoolExecutor(options.jobs) as pool:
            results = dict(zip(runs, pool.map(partial(train, base), runs), strict=True))
    by_knob = {knob: [results[seed, knob] for seed in options.seeds] for knob in knobs}
    report(by_knob, options.out, epochs=options.epochs, seeds=options.seeds, skewed=options.skewed)


def prepare_base(folder: Path, source: Path, *, epochs: int, skewed: bool) -> Path:
    """A copy of this checkout with the recipe `fast`, fewer epochs and one thread, up to the packed set."""
    recipe = read_yaml(ROOT / "params" / "fast.yaml")
    changes = {"data": {"path": str(source)}, "build": FASHION_FIT.model_dump(), "epochs": epochs, "threads": 1}
    project = copy_checkout(folder, {**recipe, **changes})
    run(read_command(project, "prepare"), project)
    if skewed:
        thin_out(project / "data" / "annotations.csv")
    run(read_command(project, "build"), project)
    return project


def thin_out(annotations: Path) -> None:
    """Leave 5 % of the rare classes' training images, the first by name, which are any."""
    table = read_annotations(annotations)
    rare = (table.split == "train") & table.label.isin(RARE)
    place = table[rare].groupby("label").cumcount()
    count = table[rare].groupby("label").image.transform("size")
    write_annotations(table.drop(place[place >= RARE_SHARE * count].index), annotations)


def train(base: Path, run_of: tuple[int, str]) -> Result:
    """Train in a folder of its own, and judge the model on the validation split."""
    seed, knob = run_of
    with tempfile.TemporaryDirectory(dir=base.parent) as temporary:
        project = Path(temporary, "project")
        shutil.copytree(base, project, ignore=shutil.ignore_patterns("packed", ".checkpoints"))
        (project / "data" / "packed").symlink_to(base / "data" / "packed")
        set_params(project, {**{**BALANCE, **KNOBS}[knob], "seed": seed})
        process = subprocess.Popen(
            read_command(project, "train"), cwd=project, env=make_environment(), stdout=subprocess.DEVNULL
        )
        seconds = watch(process)
        val = open_packed(project / "data" / "packed").splits["val"]
        model = load_model(project / "models" / "model.safetensors")
        right = compute_logits(model, val.images).argmax(1).numpy() == val.labels
        recalls = {name: right[val.labels == at].mean() for at, name in enumerate(model.config.classes)}
    return Result(float(np.mean(list(recalls.values()))), float(np.mean([recalls[name] for name in RARE])), seconds)


def watch(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a program and its children, once it has ended well."""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"training ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def report(
    by_knob: Mapping[str, Sequence[Result]], out: Path | None, *, epochs: int, seeds: Sequence[int], skewed: bool
) -> None:
    base = by_knob[BASE]
    gains = {
        knob: [100 * (one.accuracy - other.accuracy) for one, other in zip(results, base, strict=True)]
        for knob, results in by_knob.items()
    }
    rows = []
    for knob, results in by_knob.items():
        cost = statistics.median(one.seconds / other.seconds for one, other in zip(results, base, strict=True))
        cells = [knob, format_mean([100 * result.accuracy for result in results]), format_mean(gains[knob])]
        rare = [format_mean([100 * result.rare for result in results])] if skewed else []
        rows.append([*cells, *rare, f"{cost:.2f}"])
    data = f"{' and '.join(RARE)} have 5 % of their training images. " if skewed else ""
    write_report(
        out or RESULTS / ("balance.md" if skewed else "ablation.md"),
        title="Balance of classes, Fashion-MNIST" if skewed else "One key at a time, Fashion-MNIST",
        conditions=[
            f"{data}The recipe `fast` with {epochs} epochs is the base; each row changes what it names. "
            f"Validation split; balanced accuracy in %; mean +/- standard deviation over the seeds "
            f"{', '.join(map(str, seeds))}. Gain: to the base of the same seed. Cost: CPU time of the train stage."
        ],
        header=["", "accuracy", "gain", *(["recall of the rare"] if skewed else []), "cost"],
        rows=rows,
        spreads=gains,
        axis="gain in accuracy, in points",
    )


if __name__ == "__main__":
    main()
