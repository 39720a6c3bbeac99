"""Every block of docs/team.md is run; here the days of Ana and Ben, their merges and reviews."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from people import ANIMALS, BLOCKS, Person, add_image
from PIL import Image
from pipeline import ROOT, STAGES, commit, list_run_stages, replace, run


def test_every_block_of_the_document_is_run_here() -> None:
    assert len(BLOCKS) == (ROOT / "docs/team.md").read_text().count("```sh") > 15
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert [title for title in BLOCKS if f'.do("{title}"' not in source] == []


def test_what_ana_pushed_is_there_for_ben_the_next_day(ana: Person, ben: Person) -> None:
    run(ben.checkout, "git", "switch", "--create", "daily")
    run(ben.checkout, "git", "push", "--quiet", "--set-upstream", "origin", "daily")
    run(ana.checkout, "git", "fetch", "--quiet")
    run(ana.checkout, "git", "switch", "daily")
    add_image(ana.checkout, "cat/more.png", seed=1)
    run(ana.checkout, "dvc", "add", ANIMALS)
    run(ana.checkout, "dvc", "repro")
    commit(ana.checkout)
    run(ana.checkout, "git", "push", "--quiet")  # and, by the hook of `dvc install`, the data
    run(ben.checkout, "git", "pull", "--quiet")
    diagnosis = run(ben.checkout, "imclass", "doctor", fails=True)
    assert f"fault: {ANIMALS}: not what {ANIMALS}.dvc says" in diagnosis
    assert diagnosis.index(f"mend: dvc pull {ANIMALS}") < diagnosis.index("mend: dvc repro")
    assert list_run_stages(ben.do("Ben: every day")) == []
    assert ben.count_images() == 41


def test_branches_with_other_images_and_other_params_merge_without_loss(ana: Person, ben: Person) -> None:
    for person in ana, ben:
        run(person.checkout, "git", "switch", "--create", person.checkout.name)
    add_image(ana.checkout, "cat/ana.png", seed=2)
    replace(ana.checkout / "params.yaml", "^lr: .*", "lr: 0.1")
    add_image(ben.checkout, "dog/ben.png", seed=3)
    replace(ben.checkout / "params.yaml", "^  weight_decay: .*", "  weight_decay: 0.001")
    for person in ana, ben:
        run(person.checkout, "dvc", "add", ANIMALS)
        run(person.checkout, "dvc", "repro", "evaluate")
        commit(person.checkout)
        run(person.checkout, "git", "push", "--quiet", "origin", "HEAD")

    assert "Merge conflict in dvc.lock" in ben.do("Ben: merges Ana's branch", fails=True)
    unmerged = run(ben.checkout, "git", "diff", "--name-only", "--diff-filter=U").split()
    assert unmerged == ["dvc.lock", "reports/data.json", "reports/metrics.json"]
    assert "<<<<<<<" not in (ben.checkout / "dvc.lock").read_text()
    diagnosis = run(ben.checkout, "imclass", "doctor", fails=True)
    (mend,) = re.findall("mend: (.*)$", diagnosis)
    assert mend == "git checkout --ours dvc.lock && dvc pull && dvc repro && git add dvc.lock reports"
    assert set(mend.split(" && ")) - {"git checkout --ours dvc.lock"} <= set(
        BLOCKS["Ben: makes the results of the merged project"].splitlines()
    )

    printed = ben.do("Ben: makes the results of the merged project")
    assert list_run_stages(printed) == STAGES
    assert (ben.checkout / ANIMALS / "cat/ana.png").exists()
    assert (ben.checkout / ANIMALS / "dog/ben.png").exists()
    assert ben.count_images() == 42
    params = yaml.safe_load((ben.checkout / "params.yaml").read_text())
    assert (params["lr"], params["train"]["weight_decay"]) == (0.1, 0.001)
    assert run(ben.checkout, "git", "status", "--short") == ""
    assert len(run(ben.checkout, "git", "log", "-1", "--format=%P").split()) == 2


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
def test_archives_stop_a_merge_and_one_is_taken(ben: Person) -> None:
    project = ben.checkout

    def pack(names: str) -> None:
        for name in names:
            (project / "dog").mkdir(exist_ok=True)
            Image.new("L", (8, 8), ord(name)).save(project / "dog" / f"{name}.png")
        shutil.make_archive(str(project / ANIMALS), "zip", project, "dog")
        shutil.rmtree(project / "dog")
        run(project, "dvc", "add", f"{ANIMALS}.zip")
        commit(project)

    pack("a")
    run(project, "git", "switch", "--create", "ana")
    pack("ab")
    run(project, "git", "switch", "main")
    pack("ac")
    assert "unable to auto-merge" in run(project, "git", "merge", "ana", fails=True)
    assert "<<<<<<<" not in (project / f"{ANIMALS}.zip.dvc").read_text()
    assert "an archive cannot be merged" in run(project, "imclass", "doctor", fails=True)
    (project / "dog").mkdir()
    Image.new("L", (8, 8)).save(project / "dog/c.png")
    ben.do("Ben: takes Ana's archive, and puts his images in again")
    with zipfile.ZipFile(project / f"{ANIMALS}.zip") as archive:
        assert {"dog/a.png", "dog/b.png", "dog/c.png"} <= set(archive.namelist())
    assert run(project, "git", "diff", "--name-only", "--diff-filter=U") == ""


def test_report_of_a_branch_tells_params_metrics_and_data(ben: Person) -> None:
    run(ben.checkout, "git", "switch", "--quiet", "--create", "review")
    ben.do("Ben: what his branch changes")
    unchanged = (ben.checkout / "report.md").read_text()
    assert unchanged.startswith("## Compared with `origin/main`\n\nStages that ran: none, all results were there\n")
    assert "no image, label or split changed" in unchanged
    assert "fault" not in unchanged
    add_image(ben.checkout, "dog/new.png", seed=4)
    replace(ben.checkout / "params.yaml", "^  tolerance: .*", "  tolerance: 0.01")
    run(ben.checkout, "dvc", "add", ANIMALS)
    commit(ben.checkout)
    ben.do("Ben: what his branch changes")
    report = (ben.checkout / "report.md").read_text()
    assert re.search(r"Stages that ran: prepare\s+build\s+train\s+evaluate\s+gate\s+export", report)
    assert re.search(r"^\| params\.yaml +\| export\.tolerance +\| 0\.0001 +\| 0\.01 +\|", report, re.MULTILINE)
    assert re.search(r"^\| reports/metrics\.json +\| test\.log_loss +\|", report, re.MULTILINE)
    assert "added: 1" in report
    assert "  dog/new.png: 'dog', " in report
    assert "dvc.lock is of an earlier state" in report
    assert (ben.checkout / "dvc_plots/index.html").exists()
    assert run(ben.checkout, "git", "status", "--short", "--", ".", ":!dvc.lock", ":!reports") == ""


def test_workflow_calls_the_report_that_is_tested(ana: Person) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/imclass.yaml").read_text())
    steps = workflow["jobs"]["report"]["steps"]
    assert any(step.get("run", "").startswith(".github/report.sh ") for step in steps)
    assert all(re.search(r"@v\d+\.\d+\.\d+$", step["uses"]) for step in steps if "uses" in step)
    printed = ana.do("Ben: asks the doctor")
    assert "fault" not in printed
