import csv
import json
import re
from pathlib import Path

import pytest

from imclass.data.findings import (
    KINDS,
    ROW_KINDS,
    Finding,
    enforce_policy,
    find_left_out,
    read_findings,
    write_counts,
    write_findings,
)
from imclass.errors import InputError
from imclass.params import PolicyParams

POLICY = {"unreadable": "drop", "small": "fail", "repeated_file": "drop"}
FOUND = [
    Finding("near_duplicate", "d.png", "nearly", weight=0.996),
    Finding("near_duplicate", "e.png", "nearly", weight=0.999),
    Finding("unreadable", "b,\n.png", 'an "odd" name'),
    Finding("repeated_file", "a.png", "lines 2, 7", 7),
    Finding("small", "c.png", "1 x 1 pixels"),
    Finding("formula", "", "label '=1'"),
]


def test_policies_of_the_params_are_of_kinds_that_exist() -> None:
    assert PolicyParams.model_fields.keys() < KINDS.keys()
    assert set(ROW_KINDS) < KINDS.keys()


def test_table_has_the_worst_first_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "findings.csv"
    write_findings(path, FOUND, POLICY)
    rows = [row[:-1] for row in csv.reader(path.read_text().splitlines())]
    assert rows == [
        ["file", "row", "kind", "policy", "detail"],
        ["c.png", "", "small", "fail", "1 x 1 pixels"],
        ["a.png", "7", "repeated_file", "drop", "lines 2, 7"],
        ["b,\\n.png", "", "unreadable", "drop", 'an "odd" name'],
        ["e.png", "", "near_duplicate", "warn", "nearly"],
        ["d.png", "", "near_duplicate", "warn", "nearly"],
        ["", "", "formula", "warn", "label '=1'"],
    ]
    findings, policies = read_findings(path)
    assert [found.kind for found in findings] == [row[2] for row in rows[1:]]
    assert findings[1] == FOUND[3]
    assert policies == {**POLICY, "near_duplicate": "warn", "formula": "warn"}
    path.write_text(path.read_text().replace("lines 2, 7", "lines 2, 8"))
    with pytest.raises(InputError, match=r"findings\.csv: damaged since it was written, at line 3$"):
        read_findings(path)


def test_name_that_is_no_text_is_written_and_told_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Finding("unused_file", "caf\udce9\x1b[31m.txt", "not used")]
    write_findings(tmp_path / "findings.csv", found, {})
    assert r"caf\udce9\x1b[31m.txt" in (tmp_path / "findings.csv").read_text()
    enforce_policy(found, {}, tmp_path)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n",
        "file,row,kind,policy,detail\na,,small,fail,b\n",
        "file,row,kind,policy,detail,check\na,,small,fail,b,0\n",
        "file,row,kind,policy,detail,check\n\n",
        'file,"\n',
        "\ufffe",
    ],
)
def test_other_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "findings.csv").write_text(text)
    with pytest.raises(
        InputError, match=r"findings\.csv: (expected a table with columns file,row,kind,policy,detail,check|damaged)"
    ):
        read_findings(tmp_path / "findings.csv")


def test_counts_are_of_every_kind_also_of_those_not_found(tmp_path: Path) -> None:
    write_counts(tmp_path / "data.json", FOUND, POLICY, {"a": {"train": 1, "val": 2, "test": 3}})
    told = json.loads((tmp_path / "data.json").read_text())
    assert list(told["findings"]) == list(KINDS)
    assert {kind: count for kind, count in told["findings"].items() if count} == {
        **dict.fromkeys(["unreadable", "repeated_file", "small", "formula"], 1),
        "near_duplicate": 2,
    }
    assert told["images"] == {"a": {"train": 1, "val": 2, "test": 3}}
    assert told["left_out"] == 2


def test_images_left_out_are_those_with_the_policy_drop_but_no_row_takes_its_file_along() -> None:
    assert find_left_out(FOUND, POLICY) == {"b,\n.png"}
    assert find_left_out(FOUND, {}) == set()


def test_findings_that_fail_are_told_in_one_message_of_twenty_a_kind() -> None:
    many = [Finding("small", f"{at:02}.png", "1 x 1 pixels") for at in range(25)]
    with pytest.raises(InputError) as caught:
        enforce_policy([*many, *FOUND], {**POLICY, "formula": "fail"}, Path("all.csv"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "faults in the data (all are in all.csv; checks.policy says what is done about each kind)"
    assert lines[1].startswith("small: 26 pictures")
    assert lines[2] == "  '00.png': 1 x 1 pixels"
    assert lines[22] == "  and 6 more"
    assert [re.split("[:]", line)[0] for line in lines[23:]] == ["formula", "  label '=1'"]


def test_what_is_left_out_or_warned_of_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    enforce_policy([found for found in FOUND if found.kind != "small"], POLICY, Path("all.csv"))
    printed = capsys.readouterr().out
    assert "unreadable: 1 files that are no sound picture, left out\n  " in printed
    assert "near_duplicate: 2 pictures that are nearly one of another split\n  'e.png': nearly\n" in printed
    enforce_policy([], POLICY, Path("all.csv"))
    assert capsys.readouterr().out == ""
