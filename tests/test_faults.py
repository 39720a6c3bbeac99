"""Some of the faults of benchmarks/faults.py, which has them all: the same command ends with the same bytes."""

import random
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.corruption import READERS, list_artifacts, list_attacks, refuse
from benchmarks.faults import kill_until_done
from benchmarks.fuzz import damage
from benchmarks.injection import list_faults, survive
from benchmarks.programs import read_command
from benchmarks.project import FaultError, Project, prepare_projects
from imclass.files import hold_lock
from imclass.models.modelfile import load_model, save_model

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


def read_trained(project: Project) -> dict[str, bytes]:
    """What `dvc repro train` makes."""
    names = ("data/", "models/model.safetensors", "reports/history.csv")
    return {name: content for name, content in project.read_outs().items() if name.startswith(names)}


def test_killed_at_random_moments(projects: tuple[Project, Project], tmp_path: Path) -> None:
    project = projects[0].copy(tmp_path / "project")
    # Not DVC itself, which may then leave a file of its own half-written. Within 3 s, since the whole takes but 4 where
    # nothing else runs.
    kills = list(kill_until_done(project, "dvc repro train", random.Random(1), targets=["the stage"], most=3, window=3))
    assert kills
    assert read_trained(project) == read_trained(projects[1])


def test_two_at_once_without_a_home_and_with_files_from_the_future(
    projects: tuple[Project, Project], tmp_path: Path
) -> None:
    project = projects[0].copy(tmp_path / "project")
    project.run("find . -path ./.git -prune -o -exec touch -d '2 days' {} +")
    project.run("umask 077; unset HOME; dvc repro train & dvc repro train; wait; dvc repro train")
    assert read_trained(project) == read_trained(projects[1])


def test_stage_that_was_left_running_is_waited_for(after: Project) -> None:
    """As where DVC alone was killed: the bytes of two runs of a stage are never mixed."""
    expected = after.read_outs()
    with hold_lock(after.folder, "the test"):
        stage = after.start(shlex.join(read_command(after.folder, "prepare")))
        while "waiting for it" not in after.output.read_text():
            assert stage.poll() is None, "it ran beside another"
            time.sleep(0.05)
    assert stage.wait() == 0
    after.check(expected)


def test_logits_that_are_not_numbers_are_refused(after: Project) -> None:
    path = after.folder / "models/model.safetensors"
    model = load_model(path)
    for parameter in model.parameters():
        parameter.data *= 1e30
    save_model(model, path)
    with pytest.raises(FaultError, match="evaluate: expected finite logits, found others for"):
        after.run(shlex.join(read_command(after.folder, "evaluate")))


@needs_strace
@pytest.mark.parametrize(("stage", "most"), [("prepare", 2), ("build", 1), ("train", 1)])
def test_failing_system_calls(stage: str, most: int, after: Project) -> None:
    expected = after.read_outs()
    faults = list(list_faults(after, stage))
    assert {fault.kind for fault in faults} >= {"SIGKILL", "ENOSPC", "EIO"}
    for fault in random.Random(0).sample(faults, most):
        assert survive(after, fault, expected), fault


@pytest.mark.parametrize("name", READERS)
def test_damaged_and_hostile_files_are_refused_by_name(name: str, after: Project, tmp_path: Path) -> None:
    path = list_artifacts(after.folder)[name]
    sound, chance, canary = path.read_bytes(), random.Random(name), tmp_path / "canary"
    for content in (*(damage(sound, chance) for _ in range(10)), *list_attacks(canary)):
        refuse(name, path, content)
        assert not canary.exists(), "code from the file was run"
