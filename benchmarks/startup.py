"""What a run costs before any work: imports of each stage, `imclass --help`, DVC where nothing is to be done."""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.programs import Program, alternate, copy_checkout, divide, run, run_timed
from benchmarks.report import RESULTS, format_spread, write_report

STAGES = ("prepare", "build", "train", "evaluate", "gate", "export")
REPRO = [sys.executable, "-m", "dvc", "repro"]
NOTHING, TORCH, EMPTY, IMPORTS = "Python alone", "`import torch`", "no-op, empty project", "imports of all stages"
# What each is compared with.
AGAINST = {
    "imports of prepare": NOTHING,
    "imports of build": NOTHING,
    "imports of train": TORCH,
    "imports of evaluate": TORCH,
    "imports of gate": NOTHING,
    "imports of export": TORCH,
    "`imclass --help`": NOTHING,
    "no-op `dvc repro`": EMPTY,
    "`dvc repro` of the digits": IMPORTS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = alternate(list_programs(Path(folder)), rounds=options.rounds)
    imports = (seconds[f"imports of {stage}"] for stage in STAGES)
    seconds[IMPORTS] = [sum(round_) for round_ in zip(*imports, strict=True)]
    rows, ratios = [], {}
    for name, measured in seconds.items():
        other = AGAINST.get(name)
        row = [name, format_spread(measured)]
        if other:
            ratios[f"{name} / {other}"] = divide(measured, seconds[other])
            seconds_more = statistics.median(measured) - statistics.median(seconds[other])
            row += [format_spread(ratios[f"{name} / {other}"]), other, f"{seconds_more:+.2f}"]
        rows.append([*row, "", "", ""][:5])
    write_report(
        options.out,
        title="Start-up",
        conditions=[f"Wall time of whole processes in {options.rounds} alternating rounds. Median (quartiles)."],
        header=["", "seconds", "ratio", "to", "seconds more"],
        rows=rows,
        spreads=ratios,
        axis="ratio of wall times",
    )


def list_programs(folder: Path) -> dict[str, Program]:
    done, empty = folder / "done", folder / "empty"
    make_project(done)
    run(REPRO, done)
    make_empty_project(empty)
    run(REPRO, empty)

    def python(code: str) -> Callable[[], float]:
        return partial(run_timed, [sys.executable, "-c", code], done)

    return {
        NOTHING: python("pass"),
        TORCH: python("import torch"),
        **{f"imports of {stage}": python(f"import runpy; runpy.run_path('stages/{stage}.py')") for stage in STAGES},
        "`imclass --help`": python("import sys; sys.argv[1:] = ['--help']; from imclass.cli import main; main()"),
        EMPTY: partial(run_timed, REPRO, empty),
        "no-op `dvc repro`": partial(run_timed, REPRO, done),
        "`dvc repro` of the digits": partial(repro_from_nothing, folder),
    }


def repro_from_nothing(folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as project:
        make_project(Path(project))
        return run_timed(REPRO, Path(project))


def make_project(folder: Path) -> None:
    """This checkout as a clone has it: without results and without a cache."""
    copy_checkout(folder, {})
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)


def make_empty_project(folder: Path) -> None:
    """A project with the same stages, dependencies, parameters and outputs, whose files are all empty."""
    make_project(folder)
    stages: dict[str, Any] = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    outs = {stage: list_names(body.get("outs", []) + body.get("metrics", [])) for stage, body in stages.items()}
    made = {out for names in outs.values() for out in names}
    for stage, body in stages.items():
        folders = " ".join(sorted({str(Path(out).parent) for out in outs[stage]}))
        body["cmd"] = f"mkdir -p {folders} && touch {' '.join(outs[stage])}"
        for dep in body["deps"]:
            if dep not in made and (folder / dep).is_file():
                (folder / dep).write_bytes(b"")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "dvc.lock").unlink()


def list_names(entries: list[Any]) -> list[str]:
    """Paths of outs, which have options or have none."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


if __name__ == "__main__":
    main()
