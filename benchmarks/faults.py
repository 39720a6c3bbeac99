"""Runs that are killed, or whose system calls fail -> whether the same command then gives the same bytes as ever.

Every case starts from a copy of a prepared project, runs a command until it ends well, and is then compared with the
run that nothing happened to: dvc.lock and each file of each out.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.programs import copy_checkout, make_environment

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = {"all processes": "", "the stage": r"python stages/", "DVC": r"bin/dvc (repro|exp|queue)"}
EXPERIMENT = "dvc exp run --force --name killed -S lr=0.1"
APPLY = "dvc exp apply killed"
# A command, and what brings its result into the workspace. The worker of a queue runs in the background.
COMMANDS = {
    "dvc repro": ("dvc repro", "true"),
    "dvc exp run": (EXPERIMENT, "true"),
    "dvc exp run --temp": (f"{EXPERIMENT} --temp", APPLY),
    "dvc queue start": (
        f"{EXPERIMENT} --queue && dvc queue start && until git for-each-ref | grep -q /killed$; do sleep 0.2; done",
        APPLY,
    ),
}
IN_A_ROW = 6  # kills until a command may end
EPOCHS = 10  # of digits: some seconds, so that many kills meet a training
PATIENCE = 120  # seconds


class FaultError(Exception):
    """A promise that did not hold."""


class Project:
    """A copy of this checkout, under git, in which DVC runs with nobody's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".output")

    def copy(self, to: Path) -> "Project":
        shutil.rmtree(to, ignore_errors=True)
        return Project(Path(shutil.copytree(self.folder, to, symlinks=True)))

    def start(self, command: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a shell command whose output goes to a file."""
        settings = str(self.folder.parent / "settings")
        names = ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")
        environment = {**make_environment(), **dict.fromkeys(names, settings), **environment}
        with self.output.open("wb") as out:
            return subprocess.Popen(
                command, shell=True, cwd=self.folder, env=environment, stdout=out, stderr=out, start_new_session=True
            )

    def run(self, command: str, **environment: str) -> str:
        """What a command prints, which must end well."""
        process = self.start(command, **environment)
        try:
            status: object = process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            status = error
        if status != 0:
            raise FaultError(f"{command}: {status}\n{self.output.read_text()}")
        return self.output.read_text()

    def list_processes(self, pattern: str = "") -> list[int]:
        """Ids of all processes that work in the project, or in a temporary checkout of it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # where it has ended
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (process / "cwd").readlink().is_relative_to(self.folder) and re.search(pattern, line):
                    found.append(int(process.name))
        return found

    def kill(self, pattern: str, number: int = signal.SIGKILL) -> bool:
        """Send a signal to the processes of the project -> whether there was one."""
        found = self.list_processes(pattern)
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        return bool(found)

    def wait_until_gone(self, pattern: str) -> None:
        until = time.monotonic() + PATIENCE
        while self.list_processes(pattern):
            if time.monotonic() > until:
                raise FaultError(f"still running: {self.list_processes(pattern)}")
            time.sleep(0.05)

    def read_outs(self) -> dict[str, bytes]:
        """dvc.lock and all files of all outs, by path."""
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text())["stages"].values()
        outs = [out for stage in stages for out in stage["outs"]]
        outs += [path for stage in stages for metrics in stage.get("metrics", []) for path in metrics]
        paths = [path for out in outs for path in (self.folder / out, *(self.folder / out).rglob("*"))]
        files = [self.folder / "dvc.lock", *(path for path in paths if path.is_file())]
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files if file.exists()}

    def check(self, expected: dict[str, bytes]) -> None:
        """Raise FaultError unless dvc.lock and outs are as expected and nothing half-written is left."""
        found = self.read_outs()
        different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
        left = [str(path) for top in ("data", "models", "reports") for path in (self.folder / top).rglob("*.tmp")]
        if different or left:
            raise FaultError(f"different: {different}, left behind: {left}\n{self.output.read_text()}")

    def count_saved_epochs(self) -> int:
        """Epochs in the newest checkpoint."""
        return max((int(path.name[:6]) for path in self.folder.glob(".checkpoints/*/*.safetensors")), default=0)


def prepare_projects(folder: Path, changes: dict[str, Any]) -> tuple[Project, Project]:
    """A project before its first run, and the same after it."""
    before = Project(copy_checkout(folder / "before", changes))
    (before.folder / "dvc.lock").unlink()
    before.run("git init -q && git config user.name T && git config user.email t@example.org")
    before.run("git add -A && git commit -qm before")
    after = before.copy(folder / "after")
    after.run("dvc repro")
    after.run("git add -A && git commit -qm after")
    shutil.rmtree(after.folder / ".checkpoints")
    return before, after


def kill_at_random(folder: Path, kills: int, seed: int) -> Iterator[str]:
    """Kill all commands at random moments -> lines of a table."""
    before, after = prepare_projects(folder, {"epochs": EPOCHS})
    expected, seconds = {}, {}
    for name, project in ("dvc repro", before.copy(folder / "whole")), ("dvc exp run", after.copy(folder / "whole")):
        start = time.monotonic()
        project.run(COMMANDS[name][0])
        seconds[name] = time.monotonic() - start
        expected[name] = project.read_outs()
    chance = random.Random(seed)
    done: Counter[tuple[str, str]] = Counter()
    while done.total() < kills:
        [name] = chance.choices(list(COMMANDS), (8, 4, 2, 1))
        command, apply = COMMANDS[name]
        known = "dvc repro" if name == "dvc repro" else "dvc exp run"
        project = (before if name == "dvc repro" else after).copy(folder / "killed")
        try:
            for target, number in kill_until_done(project, command, seconds[known], chance):
                done[name, f"{number.name} to {target}"] += 1
            project.run(apply)
            project.check(expected[known])
        except FaultError as error:
            yield f"FAILED {name}: {error}"
        project.kill("")
        yield f"{done.total()} {dict(done)}"
    for key, count in sorted(done.items()):
        yield f"{key}: {count}"


def kill_until_done(
    project: Project, command: str, seconds: float, chance: random.Random
) -> Iterator[tuple[str, signal.Signals]]:
    """Start a command again and again, and kill it at random moments -> to whom what was sent, until it ends well."""
    queued = "--queue" in command
    for _ in range(IN_A_ROW):
        process = project.start(command)
        target, number = chance.choice(list(TARGETS)), chance.choice(SIGNALS)
        until = time.monotonic() + chance.uniform(0, seconds)
        while process.poll() is None and (time.monotonic() < until or not project.kill(TARGETS[target], number)):
            time.sleep(0.02)
        if process.poll() is None:
            yield target, number
        elif process.returncode == 0:
            return
        if queued:
            process.kill()  # the shell, which waits for an experiment that may never come
        project.wait_until_gone("exp exec-run" if queued else "" if target == "all processes" else TARGETS["DVC"])
    saved = project.count_saved_epochs()
    told = project.run(command)
    if saved and "'train'" in told and not queued:
        found = re.search(r"going on after (\d+) epochs", told)
        if found is None or int(found[1]) < saved:
            raise FaultError(f"expected to go on after {saved} epochs\n{told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in kill_at_random(Path(folder), options.kills, options.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
