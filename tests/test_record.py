import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imclass import record
from imclass.errors import InputError
from imclass.params import Params
from imclass.record import find_record, hash_out
from imclass.stage import run

ROOT = Path(__file__).parents[1]
APPEND = """
from imclass.record import append_record, start_record
for number in range(50):
    append_record(start_record([]), "weigh", {"text": "x" * 5000}, {"images": number})
"""


@pytest.fixture(autouse=True)
def _stand_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "in.csv").write_text("1\n")
    (tmp_path / "out.csv").write_text("from an earlier run\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_PLACES", "cores")
    monkeypatch.setattr("sys.argv", ["stages/weigh.py", "in.csv", "out.csv", "folder"])


def weigh(_params: Params, _source: Path, out: Path, folder: Path) -> dict[str, object]:
    out.unlink(missing_ok=True)
    out.write_text("2\n")
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "b").write_text("b")
    (folder / "a").write_text("a")
    return {"images": 3, "device": "cpu"}


def read_records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_run_leaves_what_it_made_and_what_decided_it(tmp_path: Path) -> None:
    run(weigh)
    (entry,) = read_records(tmp_path)
    # md5 of the content; of a folder as `dvc add folder` gives it
    assert entry["outs"] == {
        "out.csv": "26ab0db90d72e28ad0ba1e22ee510510",
        "folder": "fed37be9061a37a055e54fe6c0b19ea1.dir",
    }
    assert {key: entry[key] for key in ("stage", "images", "device")} == {
        "stage": "weigh",
        "images": 3,
        "device": "cpu",
    }
    assert entry["python"] == ".".join(map(str, sys.version_info[:3]))
    assert entry["variables"]["OMP_PLACES"] == "cores"  # type: ignore[index]
    assert entry["params"]["lr"] == 0.2  # type: ignore[index]
    assert entry["code"]["src/imclass/record.py"] == hash_out(ROOT / "src/imclass/record.py")  # type: ignore[index]


def test_record_lies_in_the_main_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    run(weigh)
    assert len(read_records(tmp_path / "main")) == 1
    assert not (tmp_path / "runs.jsonl").exists()


def test_failed_stage_leaves_no_record(tmp_path: Path) -> None:
    def weigh(_params: Params, _source: Path, out: Path, _folder: Path) -> None:
        out.write_text("half")
        raise InputError("no")

    with pytest.raises(SystemExit):
        run(weigh)
    assert not (tmp_path / "runs.jsonl").exists()


def test_stage_succeeds_where_no_record_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.jsonl").mkdir()
    run(weigh)
    assert (tmp_path / "out.csv").read_text() == "2\n"
    assert capsys.readouterr().err == (
        "weigh: done, but not entered into runs.jsonl: [Errno 21] Is a directory: 'runs.jsonl'\n"
    )


def test_large_out_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_HASHED", 1)
    run(weigh)
    assert read_records(tmp_path)[0]["outs"] == {"out.csv": None, "folder": None}


def test_runs_at_the_same_time_do_not_mix_their_lines(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    runs = [subprocess.Popen([sys.executable, "-c", APPEND], env=env) for _ in range(3)]
    assert [one.wait() for one in runs] == [0, 0, 0]
    assert sorted(str(entry["images"]) for entry in read_records(tmp_path)) == sorted(map(str, [*range(50)] * 3))


def test_newest_record_of_these_outs_is_found(tmp_path: Path) -> None:
    lines = [
        {"stage": "train", "outs": {"m": "1"}, "threads": 1},
        {"stage": "train", "outs": {"m": "1"}, "threads": 2},
        {"stage": "train", "outs": {"m": "2"}},
        {"stage": "export", "outs": {"m": "1"}},
    ]
    text = "\n".join([*map(json.dumps, lines), "[]", "{}", '{"stage": "tr'])
    (tmp_path / "runs.jsonl").write_text(text)
    assert find_record(tmp_path, "train", {"m": "1"}) == lines[1]
    assert find_record(tmp_path, "train", {"m": "1", "h": "1"}) is None
    assert find_record(tmp_path / "nowhere", "train", {"m": "1"}) is None
