"""Training by several processes: seconds of an epoch beside those of one process with two threads.

An epoch is timed between the checkpoints after the first and after the second, validation counted.
"""

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import FASHION_FIT, add_data_options, make_fashion_zip
from benchmarks.programs import Program, alternate, copy_checkout, divide, read_command, run, set_params
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.training.history import read_history

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"lr": 0.05, "model": {"name": "mlp"}},
    "cnn": {"lr": 0.1, "model": {"name": "cnn"}},
}
BATCH_SIZES = (64, 512)
BASE = (1, 2)  # processes and threads of each
Case = tuple[str, int, int, int]
SPREADS = (BASE, (1, 1), (2, 1), (4, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "ranks.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    source = make_fashion_zip(options.folder, options.idx).resolve()
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        changes = {"data": {"path": str(source), "test_fraction": 0.6}, "build": FASHION_FIT.model_dump(), "epochs": 2}
        project = copy_checkout(Path(folder), changes)
        for stage in ("prepare", "build"):
            run(read_command(project, stage), project)
        cases = [(network, size, *spread) for network in NETWORKS for size in BATCH_SIZES for spread in SPREADS]
        losses: dict[Case, float] = {}
        names = {describe(case): case for case in cases}
        programs: dict[str, Program] = {
            name: partial(time_epoch, project, case, losses) for name, case in names.items()
        }
        seconds = alternate(programs, rounds=options.rounds)
    for name, case in names.items():
        network, size, processes, threads = case
        base = (network, size, *BASE)
        ratios[name] = divide(seconds[describe(base)], seconds[name])
        loss = losses[case] - losses[base]
        row = [
            network,
            str(size),
            str(processes),
            str(threads),
            format_spread(seconds[name]),
            format_spread(ratios[name]),
        ]
        rows.append([*row, f"{losses[case]:.4f}", f"{loss:+.5f}"])
    write_report(
        options.out,
        title="Training by several processes",
        conditions=[
            f"Seconds of an epoch of Fashion-MNIST, float32, over loopback; {options.rounds} alternating rounds.",
            "Speed: the seconds of one process with two threads, in the same round, divided by these. Validation loss",
            "after two epochs. Median (quartiles).",
        ],
        header=["", "batch", "processes", "threads", "seconds", "speed", "val loss", "to one process"],
        rows=rows,
        spreads=ratios,
        axis="speed as a ratio to one process with two threads",
    )


def describe(case: Case) -> str:
    network, size, processes, threads = case
    return f"{network}, batch {size}: {processes} x {threads}"


def time_epoch(project: Path, case: Case, losses: dict[Case, float]) -> float:
    network, size, processes, threads = case
    recipe = {**NETWORKS[network], "batch_size": size, "processes": processes, "threads": threads}
    set_params(project, recipe)
    shutil.rmtree(project / ".checkpoints", ignore_errors=True)
    run(read_command(project, "train"), project)
    losses[case] = read_history(project / "reports/history.csv")[-1].val_loss
    first, second = sorted(project.glob(".checkpoints/*/00000?-000000000.safetensors"))
    return second.stat().st_mtime - first.stat().st_mtime


if __name__ == "__main__":
    main()
