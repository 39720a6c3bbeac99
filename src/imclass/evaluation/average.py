"""Runs of one training with other seeds -> mean and standard deviation of each metric of the test images."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imclass.errors import InputError
from imclass.tensors import read_tensors


def average_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample: divided by n - 1), and the number of seeds.

    A run is a folder with model.safetensors and metrics.json. Raises InputError for fewer than two, and for models that
    differ in more than their seed.
    """
    if len(runs) < 2:
        raise InputError(f"expected two runs or more, found {', '.join(map(str, runs)) or 'none'}")
    trained = [read_tensors(run / "model.safetensors")[1]["config"]["trained"] for run in runs]
    seeds = [one["params"].pop("seed") for one in trained]
    for run, one, seed in zip(runs[1:], trained[1:], seeds[1:], strict=True):
        if one != trained[0] or seeds.count(seed) > 1:
            raise InputError(f"{run}: not the same training as {runs[0]} with another seed: remove the one left over")
    metrics = [json.loads((run / "metrics.json").read_text("utf-8"))["test"] for run in runs]
    figures = {name: [one[name] for one in metrics] for name in metrics[0] if name != "images"}
    return {
        "mean": {name: round(statistics.fmean(values), 6) for name, values in figures.items()},
        "std": {name: round(statistics.stdev(values), 6) for name, values in figures.items()},
        "seeds": len(runs),
    }
