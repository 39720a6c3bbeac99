"""The real DVC on a project of two small stages, both over imclass.stage."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ["__init__", "errors", "files", "params", "ranks", "record", "stage"]
STAGE = """
import os, sys, time
from functools import partial
from pathlib import Path
from typing import Any
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from imclass.files import write_text
from imclass.stage import run

def {name}(params, source, out):
    time.sleep(float(os.environ.get("SLEEP", 0)))
    number = float(source.read_text()) + float(os.environ.get("OMP_NOISE", 0))
    write_text(out, str(number) + "\\n")
    return {{"images": 1}}

run({name})
"""
PIPELINE = """
stages:
  first:
    cmd: python stages/first.py data/raw/source.txt first.csv
    deps: [stages/first.py, data/raw/source.txt]
    outs: [first.csv]
  second:
    cmd: python stages/second.py first.csv second.csv
    deps: [stages/second.py, first.csv]
    params: [lr]
    outs: [second.csv]
"""


def make_environment(project: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT / "src"),
        "CI": "1",
        "DVC_SITE_CACHE_DIR": str(project.parent / "settings"),
        "DVC_GLOBAL_CONFIG_DIR": str(project.parent / "settings"),
        "DVC_SYSTEM_CONFIG_DIR": str(project.parent / "settings"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **more,
    }


def run(project: Path, *command: str, **environment: str) -> None:
    subprocess.run(command, cwd=project, env=make_environment(project, **environment), check=True, capture_output=True)


def call_verify(project: Path, *stages: str) -> subprocess.Popen[str]:
    code = "from imclass.cli import main; main()"
    command = [sys.executable, "-c", code, "verify", *stages]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    temporary = project.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = make_environment(project, TMPDIR=str(temporary))
    # A shell lets what it starts in the background ignore SIGINT: the tests themselves, and all that they start.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, cwd=project, env=environment, **options)


def verify(project: Path, *stages: str) -> tuple[dict[str, str], int]:
    """What is said on each stage, and the status."""
    before = read_tree(project)
    process = call_verify(project, *stages)
    printed, noted = process.communicate(timeout=120)
    assert read_tree(project) == before, "the checkout or the cache changed"
    assert not list((project.parent / "temporary").iterdir()), "the copy is still there"
    assert "Traceback" not in noted
    said = re.split(r"^(\w+) +(?=identical|equal|different|not verified)", printed, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(said[::2], said[1::2], strict=True)}, process.returncode


def read_tree(project: Path) -> dict[str, tuple[str, float]]:
    """Content and time of every file but DVC's scratch."""
    files = [file for file in project.rglob("*") if file.is_file() and ".dvc/tmp" not in file.as_posix()]
    return {str(file): (hashlib.md5(file.read_bytes()).hexdigest(), file.stat().st_mtime) for file in files}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("verify") / "project"
    for name in LIBRARY:
        (project / "src/imclass").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / f"src/imclass/{name}.py", project / "src/imclass")
    for name in "params.yaml", ".gitignore", ".dvcignore":
        shutil.copy(ROOT / name, project)
    (project / "stages").mkdir()
    for name in "first", "second":
        (project / f"stages/{name}.py").write_text(STAGE.format(name=name))
    (project / "dvc.yaml").write_text(PIPELINE)
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/source.txt").write_text("1.5")  # ignored by Git, so linked to
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    run(project, "dvc", "repro")
    return project


@pytest.fixture
def project(reproduced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reproduced, tmp_path / "project"))


def test_healthy_project_is_identical(project: Path) -> None:
    assert verify(project) == ({"first": "identical", "second": "identical"}, 0)


def test_small_difference_is_measured_and_its_cause_named(project: Path) -> None:
    run(project, "dvc", "repro", "--force", "first", OMP_NOISE="1e-06")
    run(project, "dvc", "repro")
    assert verify(project) == (
        {
            "first": "equal first.csv: largest difference 1e-06 "
            "changed since the run that made the locked bytes: variables.OMP_NOISE 1e-06 -> None",
            "second": "identical",  # from the locked output of the first, not from what it gives now
        },
        0,
    )


def test_cause_is_named_only_where_it_is_known(project: Path) -> None:
    script = project / "stages/first.py"
    script.write_text(script.read_text().replace("float(source.read_text())", "time.time()"))
    run(project, "dvc", "repro", "first")
    records = (project / "runs.jsonl").read_text()
    run(project, "dvc", "repro", OMP_NOISE="0.25")
    (project / "runs.jsonl").write_text(records + '{"stage": "sec')  # as after a full disk
    said, status = verify(project)
    assert status == 1
    assert said["second"] == (
        "different second.csv: largest difference 0.25 "
        "cause unknown: runs.jsonl has no record of the run that made the locked bytes"
    )
    assert said["first"].startswith("different first.csv: largest difference ")
    assert said["first"].endswith(
        "does not repeat itself: versions, settings, device, processor and code are those of the locked run"
    )


def test_what_differs_from_the_lock_is_told_and_not_repeated(project: Path) -> None:
    for file, old, new in (
        ("data/raw/source.txt", "1.5", "2.5"),
        ("stages/first.py", "import os", "import  os"),
        ("params.yaml", "lr: 0.2", "lr: 0.3"),
        ("dvc.yaml", "stages/second.py first.csv", "stages/second.py ./first.csv"),
    ):
        text = (project / file).read_text()
        assert text.count(old) == 1
        (project / file).write_text(text.replace(old, new))
    said, status = verify(project)
    assert status == 1
    assert said["first"].startswith("not verified ")
    assert "data is not that in dvc.lock: data/raw/source.txt is modified" in said["first"]
    assert "code is not that in dvc.lock: stages/first.py is modified" in said["first"]
    assert said["second"].startswith("not verified ")
    assert "parameters are not those in dvc.lock: lr" in said["second"]
    assert "its command is not that in dvc.lock" in said["second"]


def test_input_that_the_cache_lacks_is_told(project: Path) -> None:
    md5 = hashlib.md5((project / "first.csv").read_bytes()).hexdigest()
    (project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert verify(project) == (
        {"first": "identical", "second": "not verified input first.csv: not in the cache (dvc pull)"},
        1,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_leaves_nothing(number: signal.Signals, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP", "60")
    before = read_tree(project)
    process = call_verify(project)
    assert process.stderr
    assert process.stderr.readline() == "repeating first\n"
    time.sleep(1)  # the stage is under way
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert read_tree(project) == before
    assert not list((project.parent / "temporary").iterdir())


def test_unknown_stage_is_named(project: Path) -> None:
    process = call_verify(project, "frist")
    _, noted = process.communicate(timeout=60)
    assert process.returncode == 1
    assert noted == "imclass: dvc.lock: expected stages among first, second, found frist\n"
