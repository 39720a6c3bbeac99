"""What other threads and another level of the processor change: trainings of the digits, all else being equal.

Each training is compared with that on one thread at the highest level that this processor has: the weights, and the
probabilities that both models give to the test images, computed by one process in the same way.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.programs import copy_checkout, read_command, run, set_params
from benchmarks.report import RESULTS, write_report
from imclass.data.packed import Split, open_packed
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model

BEST = torch.backends.cpu.get_cpu_capability()
LEVELS = {"DEFAULT": "default", "AVX2": "avx2", "AVX512": "avx512"}  # what it is called -> how it is asked for


class Outcome(NamedTuple):
    weights: np.ndarray
    probabilities: np.ndarray
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, help="of training; those of params.yaml without it")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "differences.md", help="Markdown file; the plot beside it"
    )
    options = parser.parse_args()
    levels = list(LEVELS)[: list(LEVELS).index(BEST) + 1]
    variants = [(threads, BEST) for threads in options.threads] + [(1, level) for level in levels if level != BEST]
    rows, spreads = [], {}
    with tempfile.TemporaryDirectory() as folder:
        project = prepare_project(Path(folder), options.epochs)
        references = {seed: train(project, seed, 1, BEST) for seed in options.seeds}
        for threads, level in variants:
            pairs = [(references[seed], train(project, seed, threads, level)) for seed in options.seeds]
            name = f"{threads} thread{'s' if threads > 1 else ''}, {level}"
            spreads[name] = [float(np.abs(one.probabilities - other.probabilities).max()) for one, other in pairs]
            weights = [float(np.abs(one.weights - other.weights).max()) for one, other in pairs]
            changed = [
                int((one.probabilities.argmax(1) != other.probabilities.argmax(1)).sum()) for one, other in pairs
            ]
            accuracies = [other.accuracy for _, other in pairs]
            rows.append(
                [
                    name + (", again" if (threads, level) == (1, BEST) else ""),
                    f"{max(weights):.2g}",
                    f"{max(spreads[name]):.2g}",
                    " + ".join(map(str, changed)),
                    f"{statistics.mean(accuracies):.2%}",
                ]
            )
    count = len(next(iter(references.values())).probabilities)
    write_report(
        options.out,
        title="Differences between threads and processor levels",
        conditions=[
            f"Digits, seeds {', '.join(map(str, options.seeds))}, beside the training on 1 thread with {BEST}; "
            f"{count} test images. Largest difference over all seeds, changed decisions seed by seed. "
            "A level below the processor's own is set by ATEN_CPU_CAPABILITY."
        ],
        header=["", "of weights", "of probabilities", "changed decisions", "mean accuracy"],
        rows=rows,
        spreads=spreads,
        axis="largest difference of a probability",
    )


def prepare_project(folder: Path, epochs: int | None) -> Path:
    """A copy of this checkout up to the packed set."""
    project = copy_checkout(folder / "project", {"device": "cpu", **({"epochs": epochs} if epochs else {})})
    for stage in ("prepare", "build"):
        run(read_command(project, stage), project)
    return project


def train(project: Path, seed: int, threads: int, level: str) -> Outcome:
    """A training from its first step, and what its model says on the test images."""
    set_params(project, {"seed": seed, "threads": threads})
    with tempfile.TemporaryDirectory() as root:  # of checkpoints: none to go on from
        # Waiting threads let others run: on a busy machine, or one of fewer cores, it would take minutes else.
        settings = [f"DVC_ROOT={root}", f"ATEN_CPU_CAPABILITY={LEVELS[level]}", "OMP_WAIT_POLICY=passive"]
        run(["env", *settings, *read_command(project, "train")], project)
    print(f"seed {seed}, {threads} threads, {level}: done", file=sys.stderr, flush=True)
    model = load_model(project / "models/model.safetensors")
    test: Split = open_packed(project / "data/packed").splits["test"]
    probabilities = torch.softmax(compute_logits(model, test.images), dim=1).numpy()
    weights = torch.cat([tensor.detach().double().flatten() for tensor in model.parameters()]).numpy()
    return Outcome(weights, probabilities, float((probabilities.argmax(1) == test.labels).mean()))


if __name__ == "__main__":
    main()
