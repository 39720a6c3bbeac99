"""Every fault in a copy of this checkout that is sound otherwise, with the real DVC; each mended as the doctor says."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline import Reproduced, append, commit, copy_project, replace, run


@pytest.fixture(scope="module")
def shared(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all it made in a remote."""
    project = copy_project(reproduced.project, tmp_path_factory.mktemp("doctor"))
    run(project, "dvc", "remote", "add", "--default", "store", str(project.parent / "remote"))
    run(project, "dvc", "push")
    commit(project)
    return project


@pytest.fixture
def project(shared: Path, tmp_path: Path) -> Path:
    return copy_project(shared, tmp_path)


def examine(project: Path, *options: str, fails: bool = True) -> list[dict[str, Any]]:
    return json.loads(run(project, "imclass", "doctor", "--json", *options, fails=fails))


def test_healthy_clone_has_no_fault(shared: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(shared), "clone")
    (note,) = examine(tmp_path / "clone", fails=False)
    assert (note["mend"], note["note"]) == ("dvc pull", True)
    run(tmp_path / "clone", "dvc", "pull")
    assert examine(tmp_path / "clone", fails=False) == []
    assert run(tmp_path / "clone", "imclass", "doctor") == "nothing found\n"
    assert run(tmp_path / "clone", "git", "status", "--short") == ""


def leave_merge_unfinished(project: Path) -> None:
    (project / "dvc.lock").write_text(f"<<<<<<< HEAD\n{(project / 'dvc.lock').read_text()}>>>>>>> theirs\n")


def write_windows_line_ends(project: Path) -> None:
    script = project / "stages/export.py"
    script.write_bytes(script.read_bytes().replace(b"\n", b"\r\n"))
    run(project, "git", "config", "core.autocrlf", "true")


def add_and_change_data(project: Path) -> None:
    (project / "data/raw/more").mkdir()
    (project / "data/raw/more/a.txt").write_text("a")
    run(project, "dvc", "add", "data/raw/more")
    run(project, "dvc", "push")
    (project / "data/raw/more/a.txt").write_text("b")


def lose_outs(project: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    run(project, "dvc", "remote", "modify", "store", "url", str(project.parent / "elsewhere"))


def block_with_foreign_process(project: Path) -> None:
    (project / ".dvc/tmp/exps").mkdir(parents=True, exist_ok=True)
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    (project / ".dvc/tmp/exps/rwlock").write_text(json.dumps({"write": {"data/packed": holder}}))


def use_untracked_data(project: Path) -> None:
    shutil.copy(project / "data/raw/digits.zip", project / "data/raw/own.zip")
    replace(project / "params.yaml", "^  path: .*", "  path: data/raw/own.zip")


def name_missing_data(project: Path) -> None:
    replace(project / "params.yaml", "^  path: .*", "  path: data/raw/none.zip")


def change_lr(project: Path) -> None:
    replace(project / "params.yaml", "^lr: .*", "lr: 0.1")


def add_unknown_key(project: Path) -> None:
    append(project / "params.yaml", "speed: 1")


def forget_key(project: Path) -> None:
    replace(project / "dvc.yaml", r"^      - augment\n", "")


def forget_dep(project: Path) -> None:
    replace(project / "dvc.yaml", r"^      - src/imclass/export/parity.py\n", "")


def damage_lock(project: Path) -> None:
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text("{")


def want_other_package(project: Path) -> None:
    replace(project / "requirements.txt", r"^pillow==\S+", "pillow==1.0")


def want_other_python(project: Path) -> None:
    replace(project / "pyproject.toml", "^requires-python.*", 'requires-python = ">=4"')


TOGETHER: dict[Callable[[Path], None], tuple[str, str]] = {
    want_other_python: ("expected >=4", "rm -r .venv"),
    want_other_package: ("which give other bits: pillow", "python -m pip install"),
    write_windows_line_ends: ("Windows line ends", "git config core.autocrlf false"),
    forget_dep: ("stage export: imports src/imclass/export/parity.py", "add it under the deps of export"),
    forget_key: ("no stage depends on augment.flip, augment.shift", "name it under the params"),
    use_untracked_data: ("data/raw/own.zip is tracked by neither Git nor DVC", "dvc add data/raw/own.zip"),
    change_lr: ("stage train: dvc.lock is of an earlier state: params.yaml: lr modified", "dvc repro"),
    add_and_change_data: ("data/raw/more: not what data/raw/more.dvc says", "dvc pull data/raw/more"),
    lose_outs: ("in neither the cache nor the remote", "ask who made them"),
}
ALONE: dict[Callable[[Path], None], tuple[str, str]] = {
    add_and_change_data: ("data/raw/more: not what data/raw/more.dvc says", "dvc add data/raw/more"),
    leave_merge_unfinished: (
        "dvc.lock: in an unfinished merge",
        "git checkout --ours dvc.lock && dvc pull && dvc repro",
    ),
    damage_lock: (".dvc/tmp/rwlock: damaged", "rm .dvc/tmp/rwlock"),
    block_with_foreign_process: (".dvc/tmp/exps/rwlock: held for", "rm .dvc/tmp/exps/rwlock"),
    name_missing_data: ("data.path: data/raw/none.zip is not there", "dvc pull data/raw/none.zip"),
    add_unknown_key: ("params.yaml: ", "mend params.yaml"),
}


def test_every_fault_is_found_with_its_mend(project: Path) -> None:
    for harm in TOGETHER:
        harm(project)
    faults = [finding for finding in examine(project) if not finding["note"]]
    for what, mend in TOGETHER.values():
        (found,) = [finding for finding in faults if what in finding["what"]]
        assert found["mend"].startswith(mend)
    assert len([finding for finding in faults if finding["mend"] != "dvc repro"]) == len(TOGETHER) - 1


@pytest.mark.parametrize("harm", ALONE)
def test_fault_that_hides_others_is_found_with_its_mend(project: Path, harm: Callable[[Path], None]) -> None:
    harm(project)
    found = next(finding for finding in examine(project) if not finding["note"])
    what, mend = ALONE[harm]
    assert what in found["what"]
    assert found["mend"].startswith(mend)


def test_outs_that_nobody_pushed_are_a_fault(project: Path, tmp_path: Path) -> None:
    run(project, "dvc", "remote", "modify", "store", "url", str(tmp_path / "new"))
    (found,) = examine(project)
    assert found["what"].startswith("not in the remote yet: ")
    run(project, *found["mend"].split())
    assert examine(project, fails=False) == []
    assert examine(project, "--offline", fails=False) == []


def test_faults_end_where_their_mend_is_run(project: Path) -> None:
    leave_merge_unfinished(project)
    for _ in range(2):
        for finding in examine(project):
            run(project, "bash", "-c", finding["mend"])
        if not run(project, "git", "status", "--short", "dvc.lock"):
            break
    assert examine(project, fails=False) == []


def test_project_without_a_remote_is_told_so_and_passes(reproduced: Reproduced, tmp_path: Path) -> None:
    (note,) = examine(copy_project(reproduced.project, tmp_path), fails=False)
    assert note["what"] == "no remote: data and results stay on this machine"
