"""Recipes as params files -> test accuracy on Fashion-MNIST and the time of the whole train stage.

Time is that of a process with its start-up, as a ratio to the notes' program (notes.py) in the same round. The accuracy
is computed afterwards, from the written model.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks import notes
from benchmarks.data import FASHION_FIT, add_data_options, make_fashion_zip, unpack_idx
from benchmarks.programs import Program, alternate, copy_checkout, divide, read_command, run, run_timed, set_params
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.data.packed import open_packed
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model

NOTES = "the notes' program"
NOTES_SCRIPT = Path(notes.__file__).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument(
        "--recipe", type=Path, nargs="+", required=True, help="params.yaml, or a file with the keys that differ from it"
    )
    parser.add_argument("--set", type=YAML(typ="safe").load, default={}, help="further keys that differ, as YAML")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    root = unpack_idx(options.folder, options.idx).resolve()
    source = make_fashion_zip(options.folder, options.idx).resolve()
    seconds: dict[str, list[float]] = {}
    accuracies: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        projects = {
            path.stem: prepare_project(folder / path.stem, path, options.set, source) for path in options.recipe
        }
        for seed in options.seeds:
            programs: dict[str, Program] = {NOTES: partial(run_notes, root, folder / "model.pth", seed)}
            programs |= {name: partial(run_train, project, seed) for name, project in projects.items()}
            for name, (taken,) in alternate(programs, rounds=1).items():
                seconds.setdefault(name, []).append(taken)
            accuracies.setdefault(NOTES, []).append(test_notes(root, folder / "model.pth"))
            for name, project in projects.items():
                accuracies.setdefault(name, []).append(test_model(project))
    ratios = {name: divide(taken, seconds[NOTES]) for name, taken in seconds.items()}
    write_report(
        options.out,
        title="Accuracy and time, Fashion-MNIST",
        conditions=[
            "Official 10,000 test images, seen by no training of imclass. Wall time of the whole process, start-up "
            f"counted; seeds {', '.join(map(str, options.seeds))}, in each round after {NOTES}. Median (quartiles)."
        ],
        header=["", "test accuracy", "lowest", "seconds", f"of {NOTES}"],
        rows=[
            [
                name,
                f"{statistics.median(accuracies[name]):.2%}",
                f"{min(accuracies[name]):.2%}",
                format_spread(seconds[name], 1),
                format_spread(ratio, 3),
            ]
            for name, ratio in ratios.items()
        ],
        spreads=ratios,
        axis=f"wall time as a ratio to {NOTES}",
    )


def prepare_project(folder: Path, recipe: Path, more: Mapping[str, Any], source: Path) -> Path:
    """A copy of this checkout with the recipe and `more` in its params.yaml, up to the packed set."""
    project = copy_checkout(folder, {"data": {"path": str(source)}, "build": FASHION_FIT.model_dump()})
    set_params(project, YAML(typ="safe").load(recipe))
    set_params(project, more)
    for stage in ("prepare", "build"):
        run(read_command(project, stage), project)
    return project


def run_notes(root: Path, model_file: Path, seed: int) -> float:
    return run_timed([sys.executable, str(NOTES_SCRIPT), str(root), str(model_file), str(seed)], model_file.parent)


def run_train(project: Path, seed: int) -> float:
    set_params(project, {"seed": seed})
    return run_timed(read_command(project, "train"), project)


def test_notes(root: Path, model_file: Path) -> float:
    model = notes.NeuralNetwork()
    model.load_state_dict(torch.load(model_file, weights_only=True))
    with contextlib.redirect_stdout(None):
        return notes.test(notes.load_split(str(root), train=False), model, torch.nn.CrossEntropyLoss())


def test_model(project: Path) -> float:
    test = open_packed(project / "data" / "packed").splits["test"]
    model = load_model(project / "models" / "model.safetensors").to(memory_format=torch.channels_last)
    return float((compute_logits(model, test.images).argmax(1).numpy() == test.labels).mean())


if __name__ == "__main__":
    main()
