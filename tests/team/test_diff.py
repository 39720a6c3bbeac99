"""Two versions of the digits, in a project with the real DVC."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pipeline import Reproduced, commit, copy_project, run

from imclass.team.diff import Change, diff_tables

COLUMNS = ["image", "label", "split", "sha256"]


def test_each_kind_of_change_is_told_apart() -> None:
    before = [["a", "x", "train", "1"], ["b", "x", "test", "2"], ["c", "y", "val", "3"], ["d", "y", "train", "4"]]
    after = [["a", "y", "train", "1"], ["b", "x", "train", "2"], ["c", "y", "val", "33"], ["dd", "y", "train", "4"]]
    before, after = [*before, ["e", "y", "train", "5"], ["same", "x", "val", "6"]], [*after, ["same", "x", "val", "6"]]
    found = diff_tables(
        pd.DataFrame(before, columns=COLUMNS), pd.DataFrame([*after, ["f", "z", "test", "7"]], columns=COLUMNS)
    )
    assert (found.num_before, found.num_after) == (6, 6)
    assert found.changes == [
        Change("added", "f", "z", "test", ""),
        Change("removed", "e", "y", "train", ""),
        Change("renamed", "dd", "y", "train", "d"),
        Change("relabelled", "a", "y", "train", "x"),
        Change("moved", "b", "x", "train", "test"),
        Change("other pixels", "c", "y", "val", ""),
    ]


@pytest.fixture(scope="module")
def changed(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory, encode: Callable[..., bytes]) -> Path:
    """A project whose last commit has other digits than the one before: every tenth less, one new, one redrawn."""
    project = copy_project(reproduced.project, tmp_path_factory.mktemp("diff"))
    source = project / "data/raw/digits.zip"
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    images = sorted(name for name in files if name.endswith(".png"))
    lines = files["annotations.csv"].decode().splitlines()
    lines = [line for line in lines if line.split(",")[0] not in images[::10]]
    files = {name: content for name, content in files.items() if name not in images[::10]}
    files[images[1]] = encode(Image.new("L", (8, 8), 255), "PNG")
    files["new|.png"] = encode(Image.new("L", (8, 8), 100), "PNG")
    files["annotations.csv"] = "\n".join([*lines, f"new|.png,{lines[1].split(',')[1]}"]).encode()
    with zipfile.ZipFile(source, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    run(project, "dvc", "repro")
    commit(project)
    return project


def test_data_and_results_of_two_commits(changed: Path) -> None:
    text = run(changed, "imclass", "diff", "HEAD^", "HEAD")
    assert text.startswith("Data: HEAD^ -> HEAD: 1,797 -> 1,618 images\n")
    assert re.search(r"^added +\d +\d +\d$", text, re.MULTILINE)
    assert "removed: 180" in text
    assert "  and 160 more" in text
    assert "added: 1\n  new|.png: " in text
    assert re.search(r"^accuracy +0\.\d{4} \(0\.\d{4} to [01]\.\d{4}\) +0\.\d{4} \(", text, re.MULTILINE)
    assert "newly right" in text
    assert run(changed, "git", "status", "--short") == ""


def test_markdown_for_a_pull_request_and_a_page_with_pictures(changed: Path, tmp_path: Path) -> None:
    page = tmp_path / "diff.html"
    text = run(changed, "imclass", "diff", "HEAD^", "--md", "--html", str(page))
    assert text.startswith("### Data: HEAD^ -> work tree")
    assert re.search(r"^\| removed +\| +\d+ \|", text, re.MULTILINE)
    assert text.count("<details>") == text.count("</details>") == 3
    html = page.read_text()
    assert html.count('before">') >= 180
    assert 'alt="new|.png, after"' in html
    assert "http" not in html


def test_nothing_changed_and_unknown_revisions(changed: Path) -> None:
    assert "no image, label or split changed" in run(changed, "imclass", "diff", "HEAD")
    assert run(changed, "imclass", "diff", "nowhere", fails=True).startswith("imclass: nowhere: expected a revision")
