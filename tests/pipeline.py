"""Projects in which tests run the real DVC: copies of this checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
STAGES = ["prepare", "build", "train", "evaluate", "gate", "export"]

ShareFolder = Callable[[str, Callable[[Path], None]], Path]


class Reproduced(NamedTuple):
    project: Path
    output: str


def run(project: Path, *command: str, fails: bool | None = False, **environment: str) -> str:
    """What a command prints, run in `project` with this Python's tools and nobody's settings."""
    settings = str(project.parent / "settings")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CI": "1",  # DVC looks for no update
        "DVC_SITE_CACHE_DIR": settings,
        "DVC_GLOBAL_CONFIG_DIR": settings,
        "DVC_SYSTEM_CONFIG_DIR": settings,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **environment,
    }
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert fails is None or (done.returncode != 0) == fails, output
    assert "Traceback" not in output
    return output


def commit(project: Path) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "test")


def list_run_stages(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def replace(file: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, file.read_text(), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}\n{line}\n")


def read_records(project: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / "runs.jsonl").read_text().splitlines()]


def write_images(folder: Path, classes: Iterable[str], count: int) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")


def copy_checkout(project: Path) -> None:
    """Copy what Git tracks or would track, as a first commit of its own."""
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
    run(project, "git", "init", "--quiet")
    run(project, "git", "config", "user.name", "Tester")
    run(project, "git", "config", "user.email", "tester@example.org")


def copy_project(project: Path, to: Path) -> Path:
    return Path(shutil.copytree(project, to / "project", ignore=shutil.ignore_patterns("tmp")))
