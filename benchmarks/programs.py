"""Whole programs -> their wall time and memory, in alternation; and copies of this checkout for them to run in."""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from imclass.team.recipe import change_params

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
POLLS_PER_SUM = 5  # adding up the memory of all workers takes some milliseconds
MEGABYTE = 1_000_000

Program = Callable[[], float]


@dataclass(frozen=True)
class Usage:
    """What one run took. Peaks are in MB: resident of the program itself, and proportional of it and its workers."""

    seconds: float
    own_peak: float
    total_peak: float


def alternate(programs: Mapping[str, Program], *, rounds: int) -> dict[str, list[float]]:
    """Run all programs one after another, `rounds` times -> the seconds that each returned."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            seconds[name].append(program())
    return seconds


def divide(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios round by round, so that what slows both down in a round cancels out."""
    return [one / other for one, other in zip(seconds, others, strict=True)]


def run_timed(command: Sequence[str], folder: Path) -> float:
    """Wall time of a program that runs in `folder`, in seconds."""
    start = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - start


def run(command: Sequence[str], folder: Path) -> str:
    """What a program prints that runs in `folder`."""
    done = subprocess.run(command, cwd=folder, env=make_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def run_watched(command: Sequence[str], folder: Path) -> Usage:
    """Run a program and look at its memory, and that of its workers, some times a second."""
    start = time.perf_counter()
    own_peak = total_peak = 0.0
    with (folder / "output.tmp").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=make_environment(), stdout=output, stderr=output)
        for poll in itertools.count():
            if process.poll() is not None:
                break
            own_peak = max(own_peak, _read_field(process.pid, "status", "VmHWM:"))
            if poll % POLLS_PER_SUM == 0:
                family = _list_family(process.pid)
                total_peak = max(total_peak, sum(_read_field(pid, "smaps_rollup", "Pss:") for pid in family))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{shlex.join(command)}: status {process.returncode}\n{output.read()}")
    return Usage(seconds, own_peak, total_peak)


def copy_checkout(to: Path, changes: Mapping[str, Any]) -> Path:
    """The files of this checkout that git does not ignore, as they are now, with `changes` to params.yaml."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    set_params(to, changes)
    return to


def set_params(project: Path, changes: Mapping[str, Any]) -> None:
    """Change values in params.yaml, as DVC reads and writes it."""
    change_params(project / "params.yaml", changes, origin=project / "params.yaml")


def read_command(project: Path, stage: str) -> list[str]:
    """The command of a stage, as DVC would run it."""
    command = yaml.safe_load((project / "dvc.yaml").read_text())["stages"][stage]["cmd"]
    source = YAML().load(project / "params.yaml")["data"]["path"]
    python, *arguments = shlex.split(command.replace("${data.path}", shlex.quote(source)))
    assert python == "python"
    return [sys.executable, *arguments]


def make_environment() -> dict[str, str]:
    """This Python's tools first, and no look for updates by DVC."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "CI": "1", "DVC_NO_ANALYTICS": "1"}


def _list_family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _read_field(pid: int, file: str, field: str) -> float:
    """A figure in kB of a file in /proc, in MB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    found = [float(line.split()[1]) * 1024 / MEGABYTE for line in lines if line.startswith(field)]
    return found[0] if found else 0.0
