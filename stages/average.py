"""runs of one training with other seeds -> mean and standard deviation of each metric."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.evaluation.average import average_runs
from imclass.files import write_text
from imclass.params import Params
from imclass.stage import run


def average(_params: Params, runs: Path, averages_file: Path) -> None:
    averages = average_runs(sorted(runs.iterdir()))
    write_text(averages_file, json.dumps(averages, indent=2) + "\n")
    print(
        f"{averages['seeds']} seeds: accuracy {averages['mean']['accuracy']:.4f} +/- {averages['std']['accuracy']:.4f}"
    )


if __name__ == "__main__":
    run(average)
