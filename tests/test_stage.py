import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from imclass.errors import InputError
from imclass.params import Params, load_params
from imclass.stage import run

COMMITTED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(autouse=True)
def _stand_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(COMMITTED, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/weigh.py", "in.csv", "out/folder"])


def run_and_fail(error: Exception) -> str | int | None:
    """What `sys.exit` is called with: text is printed to stderr and gives status 1."""

    def weigh(_params: Params, _source: Path, _target: Path) -> NoReturn:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(weigh)
    return caught.value.code


def test_stage_gets_checked_params_and_paths_in_order() -> None:
    called = []

    def weigh(params: Params, source: Path, target: Path) -> None:
        called.append((params, source, target))

    run(weigh)
    assert called == [(load_params(COMMITTED), Path("in.csv"), Path("out/folder"))]


def test_seed_of_the_command_stands_for_that_of_params(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def weigh(params: Params, source: Path, target: Path) -> None:
        called.append((params, source, target))

    monkeypatch.setattr("sys.argv", ["stages/weigh.py", "--seed", "7", "in.csv", "out"])
    run(weigh)
    assert called == [(load_params(COMMITTED).model_copy(update={"seed": 7}), Path("in.csv"), Path("out"))]
    monkeypatch.setattr("sys.argv", ["stages/weigh.py", "--seed", "many", "in.csv", "out"])
    assert "seed: expected a valid integer, found 'many'" in str(run_and_fail(AssertionError("called")))


def test_mistake_of_the_user_is_one_message() -> None:
    assert run_and_fail(InputError("in.csv: line 3: no label")) == "weigh: in.csv: line 3: no label"


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, OSError])
def test_mistake_of_the_machine_is_one_message_with_the_path(kind: type[OSError]) -> None:
    assert run_and_fail(kind(28, "No space left on device", "out/folder")) == (
        "weigh: [Errno 28] No space left on device: 'out/folder'"
    )


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours"), AssertionError("ours"), RuntimeError("ours")])
def test_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    def weigh(_params: Params, _source: Path, _target: Path) -> NoReturn:
        raise error

    with pytest.raises(type(error), match="ours") as caught:
        run(weigh)
    assert caught.traceback[-1].name == "weigh"


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"]])
def test_wrong_number_of_paths_gives_the_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stages/weigh.py", *arguments])
    assert run_and_fail(AssertionError("called")) == "usage: python stages/weigh.py _SOURCE _TARGET"


def test_params_are_checked_before_the_stage_starts(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    code = str(run_and_fail(AssertionError("called")))
    assert code.startswith("weigh: params.yaml: 16 problems\n  seed: expected greater than or equal to 0, found -1\n")


def test_missing_params_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").unlink()
    assert run_and_fail(AssertionError("called")) == "weigh: [Errno 2] No such file or directory: 'params.yaml'"


def test_process_ends_with_status_1_and_no_traceback(tmp_path: Path) -> None:
    prepare = COMMITTED.parent / "stages/prepare.py"
    command = [sys.executable, str(prepare), "nothing.zip", "annotations.csv", "findings.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "prepare: nothing.zip: expected a folder, zip or tar of images, found nothing there\n"
