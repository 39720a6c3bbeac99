"""Some of the faults of benchmarks/faults.py, which has them all: the same command ends with the same bytes."""

import random
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.corruption import READERS, damage, list_artifacts, list_attacks, refuse
from benchmarks.faults import REPRO, kill_until_done
from benchmarks.injection import Fault, list_faults, survive
from benchmarks.programs import read_command
from benchmarks.project import Project, prepare_projects

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project before its first run, and the same after it."""
    return prepare_projects(tmp_path_factory.mktemp("faults"), {"epochs": 2}, keep_checkpoints=True)


@pytest.fixture
def after(projects: tuple[Project, Project], tmp_path: Path) -> Iterator[Project]:
    project = projects[1].copy(tmp_path / "project")
    yield project
    project.kill("")


def test_killed_at_random_moments(projects: tuple[Project, Project], tmp_path: Path) -> None:
    project = projects[0].copy(tmp_path / "project")
    kills = list(kill_until_done(project, REPRO, random.Random(1), most=4, window=5))
    assert len(kills) >= 2
    project.check(projects[1].read_outs())


def test_dvc_alone_is_killed_and_its_stage_lives_on(after: Project) -> None:
    """The next run waits for what the last one left running, and no bytes of the two are mixed."""
    expected = after.read_outs()
    (after.folder / "data/annotations.csv").unlink()
    shutil.rmtree(after.folder / "data/packed")
    command = shlex.join(read_command(after.folder, "prepare"))
    left = after.start(f"exec {command}")
    again = subprocess.run(command, shell=True, cwd=after.folder, capture_output=True, text=True, check=True)
    assert left.wait() == 0
    assert "waiting for it" in again.stderr + after.output.read_text()
    after.run(REPRO)
    after.check(expected)


@needs_strace
@pytest.mark.parametrize(("stage", "most"), [("prepare", 3), ("build", 3), ("train", 2)])
def test_failing_system_calls(stage: str, most: int, after: Project) -> None:
    expected = after.read_outs()
    faults = list(list_faults(after, stage))
    assert {fault.kind for fault in faults} >= {"SIGKILL", "ENOSPC", "EIO"}
    for fault in random.Random(0).sample(faults, most):
        assert survive(after, fault, expected), fault


@needs_strace
def test_full_disk_is_told_with_its_free_space_also_where_images_are_mapped(after: Project) -> None:
    assert survive(after, Fault("build", "fallocate", 1, "ENOSPC"), after.read_outs())


@pytest.mark.parametrize("name", READERS)
def test_damaged_and_hostile_files_are_refused_by_name(name: str, after: Project, tmp_path: Path) -> None:
    path = list_artifacts(after.folder)[name]
    sound, chance, canary = path.read_bytes(), random.Random(name), tmp_path / "canary"
    for content in (*(damage(sound, chance) for _ in range(10)), *list_attacks(canary)):
        refuse(name, path, content)
        assert not canary.exists(), "code from the file was run"


@pytest.mark.parametrize(
    "command",
    [
        "umask 077 && env -u HOME dvc repro train",
        "find . -path ./.git -prune -o -exec touch -d '2 days' {} + && dvc repro train",
        "dvc repro train & dvc repro train; wait; dvc repro train",
    ],
    ids=["no-home", "files-from-the-future", "two-at-once"],
)
def test_unusual_surroundings(command: str, projects: tuple[Project, Project], tmp_path: Path) -> None:
    project = projects[0].copy(tmp_path / "project")
    project.run(command)
    found = project.read_outs()
    assert "models/model.safetensors" in found
    made = {name for name in found if name.startswith(("data/", "models/")) or name == "reports/history.csv"}
    assert {name: found[name] for name in made} == {name: projects[1].read_outs()[name] for name in made}
