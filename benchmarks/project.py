"""A copy of this checkout under git, in which DVC runs with nobody's settings, to be treated badly."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.programs import copy_checkout, make_environment

PATIENCE = 300  # seconds


class FaultError(Exception):
    """A promise that did not hold."""


class Project:
    """A copy of this checkout, under git, in which DVC runs with nobody's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".output")
        self.killed: set[int] = set()

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
            process.kill()
            process.wait()
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
                self.killed.add(process)
        return bool(found)

    def wait_until_gone(self, pattern: str) -> None:
        until = time.monotonic() + PATIENCE
        while self.list_processes(pattern):
            if time.monotonic() > until:
                raise FaultError(f"still running: {self.list_processes(pattern)}")
            time.sleep(0.05)

    def wait_until_buried(self) -> None:
        """Wait until the system has forgotten what was killed: DVC takes a dead process for one that still works."""
        until = time.monotonic() + 10
        while any(Path(f"/proc/{process}").exists() for process in self.killed) and time.monotonic() < until:
            time.sleep(0.05)
        self.killed.clear()

    def read_outs(self) -> dict[str, bytes]:
        """dvc.lock and all files of all outs, by path."""
        lock = self.folder / "dvc.lock"
        return {**({lock.name: lock.read_bytes()} if lock.exists() else {}), **read_outs(self.folder)}

    def check(self, expected: dict[str, bytes]) -> None:
        """Raise FaultError unless dvc.lock and outs are as expected and nothing half-written is left."""
        found = self.read_outs()
        different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
        left = [str(path) for path in find_temporary_files(self.folder)]
        if different or left:
            raise FaultError(f"different: {different}, left behind: {left}\n{self.output.read_text()}")

    def count_saved_epochs(self) -> int:
        """Epochs in the newest checkpoint."""
        return max((int(path.name[:6]) for path in self.folder.glob(".checkpoints/*/*.safetensors")), default=0)


def read_outs(project: Path) -> dict[str, bytes]:
    """Content by path of every file that is or lies in an out of a stage."""
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"].values()
    listed = [out for stage in stages for kind in ("outs", "metrics") for out in stage.get(kind, [])]
    outs = [name for out in listed for name in ([out] if isinstance(out, str) else out)]
    files = [file for out in outs for file in [project / out, *(project / out).rglob("*")] if file.is_file()]
    return {file.relative_to(project).as_posix(): file.read_bytes() for file in files}


def find_temporary_files(project: Path) -> list[Path]:
    """What a write that did not end has left."""
    return [file for folder in ("data", "models", "reports") for file in (project / folder).rglob("*.tmp")]


def prepare_projects(
    folder: Path, changes: dict[str, Any], *, keep_checkpoints: bool = False
) -> tuple[Project, Project]:
    """A project before its first run, and the same after it."""
    before = Project(copy_checkout(folder / "before", changes))
    (before.folder / "dvc.lock").unlink()
    before.run("git init -q && git config user.name T && git config user.email t@example.org")
    before.run("git add -A && git commit -qm before")
    after = before.copy(folder / "after")
    after.run("dvc repro")
    after.run("git add -A && git commit -qm after")
    if not keep_checkpoints:
        shutil.rmtree(after.folder / ".checkpoints")
    return before, after
