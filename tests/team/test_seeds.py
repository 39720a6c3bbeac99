"""seeds/dvc.yaml: the same training with several seeds, by the real DVC."""

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from people import Person
from pipeline import ROOT, Reproduced, copy_project, list_run_stages, replace, run

from imclass.imports import find_imports

PIPELINE = yaml.safe_load((ROOT / "seeds/dvc.yaml").read_text())


@pytest.mark.parametrize("stage", PIPELINE["stages"])
def test_deps_of_a_stage_are_the_files_it_imports(stage: str) -> None:
    script = ROOT / f"stages/{stage}.py"
    code = [dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith(("src/", "stages/"))]
    assert code == [file.relative_to(ROOT).as_posix() for file in [script, *find_imports(script)]]


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_stages_differ_from_those_of_the_project_in_seed_and_place_only(stage: str) -> None:
    ours = PIPELINE["stages"][stage]
    project = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    of_project = "findings.csv", "sizes.csv", "accepted.csv"  # the same for all seeds
    theirs = re.sub(rf"(?:models|reports)/(?!{'|'.join(of_project)})", "seeds/runs/${item.seed}/", project["cmd"])
    assert ours["cmd"].replace("--seed ${item.seed} ", "") == theirs
    assert {"seed", *ours["params"]} == {"seed", *project["params"]}


def test_metrics_of_all_seeds_are_averaged(reproduced: Reproduced, tmp_path: Path) -> None:
    project = copy_project(reproduced.project, tmp_path)
    replace(project / "params.yaml", r"^epochs: \d+", "epochs: 1")
    replace(project / "seeds/dvc.yaml", r"^  - seeds: .*", "  - seeds: [3, 8]")
    printed = Person(project, {}).do("Ana: five seeds")
    assert list_run_stages(printed) == []  # none of the six
    runs = [json.loads((project / f"seeds/runs/{seed}/metrics.json").read_text())["test"] for seed in (3, 8)]
    (shown,) = json.loads(run(project, "dvc", "metrics", "show", "--json", "seeds/metrics.json")).values()
    averages = shown["data"]["seeds/metrics.json"]["data"]
    losses = [one["log_loss"] for one in runs]
    assert losses[0] != losses[1]
    assert averages["mean"]["log_loss"] == pytest.approx(statistics.mean(losses), abs=1e-6)
    assert averages["std"]["log_loss"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5, abs=1e-6)
    assert averages["seeds"] == 2

    replace(project / "params.yaml", r"^lr: .*", "lr: 0.1")
    replace(project / "seeds/dvc.yaml", r"^  - seeds: .*", "  - seeds: [3]")
    refused = run(project, "dvc", "repro", "seeds/dvc.yaml", fails=True)
    assert "seeds/runs/8: not the same training as seeds/runs/3 with another seed" in refused
    assert "seeds" not in run(project, "dvc", "repro", "--dry")
