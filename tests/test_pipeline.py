"""The real DVC on copies of this checkout: digits, two epochs."""

import csv
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pipeline import (
    ROOT,
    STAGES,
    Reproduced,
    append,
    copy_project,
    list_run_stages,
    read_records,
    replace,
    run,
    write_images,
)

from benchmarks.project import find_temporary_files, read_outs
from imclass.data.packed import open_packed, write_packed
from imclass.files import hash_file
from imclass.tensors import read_tensors

OWN = "data/raw/own"  # a source of the tests, inside a project


def use_source(project: Path, path: str) -> None:
    replace(project / "params.yaml", r"^  path: \S+", f"  path: {path}")


@pytest.fixture(scope="session")
def slower(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """The project after an experiment called slower, with a lower learning rate."""
    project = copy_project(reproduced.project, tmp_path_factory.mktemp("experiment"))
    return Reproduced(project, run(project, "dvc", "exp", "run", "--name", "slower", "-S", "lr=0.002"))


def test_every_stage_runs_the_library_of_its_own_checkout(reproduced: Reproduced) -> None:
    assert list_run_stages(reproduced.output) == STAGES
    loaded = re.findall(r"^library (.+)$", reproduced.output, re.MULTILINE)
    assert loaded == [str(reproduced.project / "src/imclass/stage.py")] * len(STAGES)


def test_second_repro_runs_nothing(reproduced: Reproduced) -> None:
    output = run(reproduced.project, "dvc", "repro")
    assert list_run_stages(output) == []
    assert "up to date" in output
    assert run(reproduced.project, "git", "status", "--short") == ""


def test_run_record_has_the_hashes_of_dvc_lock(reproduced: Reproduced) -> None:
    locked = yaml.safe_load((reproduced.project / "dvc.lock").read_text())["stages"]
    hashes = {stage: {out["path"]: out["md5"] for out in entry["outs"]} for stage, entry in locked.items()}
    records = {record["stage"]: record for record in read_records(reproduced.project)}
    assert {stage: record["outs"] for stage, record in records.items()} == hashes
    code = {dep["path"]: dep["md5"] for dep in locked["train"]["deps"] if dep["path"].endswith(".py")}
    assert records["train"]["code"].items() <= code.items()
    assert {"device": "cpu", "threads": 1, "resumed": 0}.items() <= records["train"].items()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="a processor of one level only")
def test_verify_names_the_processor_level_that_changed_the_model(project: Path) -> None:
    run(project, "dvc", "repro", "--force", "--single-item", "train", ATEN_CPU_CAPABILITY="default")
    before = {file: file.stat().st_mtime for file in project.rglob("*") if "/.dvc/tmp" not in str(file)}
    code = "from imclass.cli import main; main()"
    command = (sys.executable, "-c", code, "verify", "build", "train")
    output = run(project, *command, fails=None, PYTHONPATH=str(project / "src"))
    assert re.search(r"^build +identical$", output, re.MULTILINE)
    assert re.search(r"^train +(equal|different)$", output, re.MULTILINE)
    assert "models/model.safetensors: largest difference " in output
    level = torch.backends.cpu.get_cpu_capability()
    assert f"cpu_capability DEFAULT -> {level}, variables.ATEN_CPU_CAPABILITY default -> None\n" in output
    assert {file: file.stat().st_mtime for file in before} == before


def test_clone_elsewhere_rebuilds_every_out_byte_for_byte(reproduced: Reproduced, tmp_path: Path) -> None:
    clone = tmp_path / "a folder with a longer name" / "clone"
    clone.parent.mkdir()
    run(tmp_path, "git", "clone", "--quiet", str(reproduced.project), str(clone))
    for name in read_outs(clone):  # those that Git keeps
        (clone / name).unlink()
    output = run(clone, "dvc", "repro", PYTHONHASHSEED="7", LC_ALL="C", TZ="Asia/Tokyo")
    assert list_run_stages(output) == STAGES
    assert read_outs(clone) == read_outs(reproduced.project)
    assert run(clone, "git", "status", "--short") == "", "dvc.lock or a metric changed"


def test_emptied_cache_is_filled_again_with_the_same_outs(project: Path) -> None:
    before = read_outs(project)
    shutil.rmtree(project / ".dvc/cache")
    for out in before:
        (project / out).unlink()
    output = run(project, "dvc", "repro", "build")
    assert list_run_stages(output) == ["prepare", "build"]
    after = read_outs(project)
    assert after == {out: before[out] for out in after}
    assert "data/packed/train-0000.npy" in after
    assert run(project, "git", "diff", "dvc.lock") == ""


def test_another_lr_reruns_train_and_what_follows_only(reproduced: Reproduced, slower: Reproduced) -> None:
    assert list_run_stages(slower.output) == ["train", "evaluate", "gate", "export"]
    before, after = read_outs(reproduced.project), read_outs(slower.project)
    assert before.keys() == after.keys()
    assert before["reports/metrics.json"] != after["reports/metrics.json"]


def test_earlier_lr_comes_back_without_training(reproduced: Reproduced, slower: Reproduced, tmp_path: Path) -> None:
    project = copy_project(slower.project, tmp_path)
    lr = re.findall(r"^lr: (\S+)", (reproduced.project / "params.yaml").read_text(), re.MULTILINE)[0]
    output = run(project, "dvc", "exp", "run", "-S", f"lr={lr}")
    assert list_run_stages(output) == []
    assert "Stage 'train' is cached" in output
    assert "kept epoch" in slower.output
    assert "kept epoch" not in output
    assert read_outs(project) == read_outs(reproduced.project)


def test_device_and_workers_rerun_nothing(project: Path) -> None:
    before = read_outs(project)
    output = run(project, "dvc", "exp", "run", "-S", "device=cpu", "-S", "workers=1")
    assert list_run_stages(output) == []
    assert read_outs(project) == before
    assert "device: cpu" in (project / "params.yaml").read_text()


def test_lr_that_is_no_number_is_named_and_harms_no_out(project: Path) -> None:
    before = read_outs(project)
    output = run(project, "dvc", "exp", "run", "-S", "lr=abc", fails=True)
    assert output.count("lr: expected a valid number, found 'abc'") == 1
    assert read_outs(project).items() <= before.items()
    assert not find_temporary_files(project)
    run(project, "git", "checkout", "--quiet", "params.yaml")
    assert list_run_stages(run(project, "dvc", "repro")) == []
    assert read_outs(project) == before


def test_temporary_run_uses_its_own_copy_of_the_code(project: Path) -> None:
    before = read_outs(project)
    append(project / "src/imclass/data/split.py", 'print("not yet committed")')
    output = run(project, "dvc", "exp", "run", "--temp", "-S", "device=cpu")
    assert list_run_stages(output) == ["prepare", "build"]
    assert re.findall(r"^library (.+)$", output, re.MULTILINE)[0].startswith(str(project / ".dvc/tmp/exps"))
    assert "not yet committed" in output
    assert read_outs(project) == before
    assert read_records(project)[-1]["stage"] == "build", "its record is in the main checkout"


def test_queued_runs_use_the_code_of_when_they_were_queued(project: Path) -> None:
    split = project / "src/imclass/data/split.py"
    before = read_outs(project)
    append(split, 'print("queued code")')
    for seed in "1", "2":
        arguments = ("--queue", "--name", f"seed-{seed}", "-S", f"data.split_seed={seed}", "prepare")
        run(project, "dvc", "exp", "run", *arguments)
    append(split, 'raise RuntimeError("code of the workspace")')
    run(project, "dvc", "queue", "start")  # in the background
    run(project, "dvc", "exp", "run", "--run-all")  # in the foreground, until nothing is queued
    status = run(project, "dvc", "queue", "status")
    ended = dict(re.findall(r"(seed-\d) .* (\w+)", status))
    assert ended == {"seed-1": "Success", "seed-2": "Success"}, status
    logs = run(project, "dvc", "queue", "logs", "seed-2")
    assert list_run_stages(logs) == ["prepare"]
    assert re.findall(r"^library (.+)$", logs, re.MULTILINE)[0].startswith(str(project / ".dvc/tmp/exps"))
    assert "queued code" in logs
    assert read_outs(project) == before


def test_metrics_and_params_have_different_names(slower: Reproduced) -> None:
    header, *rows = run(slower.project, "dvc", "exp", "show", "--csv").splitlines()
    columns = header.split(",")
    assert {"test.accuracy", "low.accuracy", "verdict", "test.log_loss", "lr", "epochs"} <= set(columns)
    assert len(set(columns)) == len(columns)
    assert not [column for column in columns if ":" in column], "DVC adds the file to a name that stands twice"
    assert [row for row in rows if row.startswith("slower,")]


def test_experiments_are_shown_with_their_metrics(slower: Reproduced) -> None:
    shown = json.loads(run(slower.project, "dvc", "exp", "show", "--json"))
    experiment = next(row for row in shown if row["rev"] != "workspace")["experiments"][0]["revs"][0]
    assert experiment["name"] == "slower"
    assert experiment["data"]["params"]["params.yaml"]["data"]["lr"] == 0.002
    metrics = json.loads((slower.project / "reports/metrics.json").read_text())
    assert experiment["data"]["metrics"]["reports/metrics.json"]["data"] == metrics


@pytest.mark.parametrize(
    ("kind", "file", "name"), [("metrics", "reports/metrics.json", "test.log_loss"), ("params", "params.yaml", "lr")]
)
def test_revisions_differ_in(kind: str, file: str, name: str, slower: Reproduced) -> None:
    found = json.loads(run(slower.project, "dvc", kind, "diff", "HEAD", "slower", "--json"))
    assert found[file][name]["old"] != found[file][name]["new"]
    assert kind == "metrics" or set(found[file]) == {name}


def test_plots_of_two_revisions_stand_side_by_side(slower: Reproduced, tmp_path: Path) -> None:
    arguments = ("plots", "diff", "HEAD", "slower", "--json", "--out", str(tmp_path))
    plots: dict[str, list[dict[str, Any]]] = json.loads(run(slower.project, "dvc", *arguments))["data"]
    assert set(plots) == {"Loss", "Accuracy", "Confusion", "Reliability", "reports/summary.png"}
    assert {revision for plot in plots["reports/summary.png"] for revision in plot["revisions"]} == {"HEAD", "slower"}
    for name in "Loss", "Accuracy", "Confusion", "Reliability":
        values = [value for plot in plots[name] for value in plot["content"]["data"]["values"]]
        assert {value["rev"] for value in values} == {"HEAD", "slower"}


def test_the_table_of_predictions_holds_the_calibrated_probabilities_that_are_judged(reproduced: Reproduced) -> None:
    with (reproduced.project / "reports/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((reproduced.project / "reports/metrics.json").read_text())
    losses = [-np.log(max(float(row[f"p_{row['label']}"]), 5e-7)) for row in rows]
    assert np.mean(losses) == pytest.approx(metrics["test"]["log_loss"], abs=1e-3)
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(metrics["test"]["accuracy"])
    assert metrics["test"]["log_loss"] < metrics["uncalibrated"]["log_loss"] - 0.01
    assert metrics["test"]["images"] == len(rows)


def test_training_does_not_see_the_test_images(project: Path) -> None:
    packed = open_packed(project / "data/packed")
    with (project / "data/annotations.csv").open(newline="") as file:
        rows = [(row["image"], row["label"], row["split"]) for row in csv.DictReader(file)]
    images = np.concatenate([split.images for split in packed.splits.values()])
    first = len(rows) - len(packed.splits["test"].labels)
    images[first:] = 255 - images[first:]
    spoilt = rows[:first] + [(image, str(9 - int(label)), split) for image, label, split in rows[first:]]
    write_packed(project / "other", spoilt, [([image for image, _, _ in rows], images)], packed.fit)
    run(project, "python", "stages/train.py", "other", "weights", "other.safetensors", "other.csv")

    assert (project / "other.csv").read_text() == (project / "reports/history.csv").read_text()
    expected, found = (read_tensors(project / name) for name in ("models/model.safetensors", "other.safetensors"))
    assert all(torch.equal(expected[0][name], found[0][name]) for name in expected[0])
    trained = found[1]["config"]["trained"]
    assert trained["data"] == open_packed(project / "other").fingerprint
    assert trained["params"]["epochs"] == 2
    trained["data"] = packed.fingerprint
    assert found[1] == expected[1]
    assert expected[1]["config"]["temperature"] != 1


def test_a_training_starts_from_weights_and_runs_again_where_they_are_others(project: Path) -> None:
    model, weights = project / "models/model.safetensors", project / "weights/first.safetensors"
    shutil.copy(model, weights)
    changes = ("-S", "model.weights=first.safetensors", "-S", "model.freeze=backbone")
    output = run(project, "dvc", "exp", "run", *changes, "train")
    assert list_run_stages(output) == ["train"]
    assert "starting from weights/first.safetensors: all weights, head.1 too" in output
    (before, _), (after, record) = read_tensors(weights), read_tensors(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.head.1.weight", "network.head.1.bias"}
    assert record["config"]["trained"]["weights"] == hash_file(weights)
    assert list_run_stages(run(project, "dvc", "repro", "train")) == []
    verified = run(project, "imclass", "verify", "train", fails=None)
    assert re.search(r"^train +identical$", verified, re.MULTILINE)
    shutil.copy(model, weights)
    output = run(project, "dvc", "repro", "train")
    assert list_run_stages(output) == ["train"]
    assert "going on" not in output


def test_evaluate_alone_judges_the_test_images_and_once() -> None:
    counts = {stage: (ROOT / "stages" / f"{stage}.py").read_text().count('"test"') for stage in ("train", "gate")}
    assert counts == {"train": 0, "gate": 0}
    evaluate = (ROOT / "stages/evaluate.py").read_text()
    assert evaluate.count('splits["test"]') == evaluate.count("compute_logits(") == 1


def test_a_policy_that_no_image_meets_is_no_reason_to_train_or_evaluate(project: Path) -> None:
    replace(project / "params.yaml", r"^    small: fail", "    small: warn")
    assert list_run_stages(run(project, "dvc", "repro")) == ["prepare", "build"]


def test_a_model_below_a_floor_is_not_exported(project: Path) -> None:
    replace(project / "params.yaml", r"^  accuracy: 0.0", "  accuracy: 0.9999")
    output = run(project, "dvc", "repro", fails=True)
    assert list_run_stages(output) == ["evaluate", "gate"]
    assert output.count("expected a lower end of at least 0.9999 (gate.accuracy)") == 1
    verdict = json.loads((project / "reports/gate.json").read_text())
    assert verdict["verdict"] == "failed"
    page = (project / "reports/report.html").read_text()
    assert [reason.capitalize() in page or reason in page for reason in verdict["reasons"]] == [True]


def test_a_model_worse_than_the_accepted_one_is_not_exported(slower: Reproduced, project: Path, tmp_path: Path) -> None:
    assert "reports/accepted.csv: 347 images" in run(project, "imclass", "accept")
    assert "not worse than the accepted model" in run(project, "dvc", "repro")
    later = copy_project(slower.project, tmp_path / "later")
    shutil.copy(project / "reports/accepted.csv", later / "reports/accepted.csv")
    output = run(later, "dvc", "repro", fails=True)
    assert list_run_stages(output) == ["evaluate", "gate"]
    assert output.count("worse than the accepted model: accuracy -0.") == 1


def test_revisions_are_compared_image_by_image(slower: Reproduced, tmp_path: Path) -> None:
    before = read_outs(slower.project)
    page = tmp_path / "page.html"
    output = run(slower.project, "imclass", "compare", "HEAD", "slower", "--html", str(page))
    assert output.startswith("HEAD -> slower: 347 test images\naccuracy ")
    assert "\nworse\n" in output
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="Test image images/', page.read_text())
    changed = sum(map(int, re.findall(r"(\d+) newly (?:right|wrong)", output)))
    assert 0 < len(pictures) <= changed
    workspace = run(slower.project, "imclass", "compare", "HEAD")
    assert workspace.replace("work tree", "slower") == output
    assert read_outs(slower.project) == before
    assert run(slower.project, "imclass", "compare", "nowhere", fails=True).startswith(
        "imclass: nowhere: expected a revision or an experiment of this project"
    )


def remove_source(source: Path) -> None:
    shutil.rmtree(source)


def cut_image(source: Path) -> None:
    image = source / "b/03.png"
    image.write_bytes(image.read_bytes()[:50])


def leave_one_class(source: Path) -> None:
    shutil.rmtree(source / "b")
    shutil.rmtree(source / "c")


def leave_class_untrained(source: Path) -> None:
    rows = [
        f"{label}/{number:02}.png,{label},{split if label != 'c' else 'test'}"
        for label in "abc"
        for number, split in enumerate(["train", "val", "test"])
    ]
    (source / "annotations.csv").write_text("\n".join(["image,label,split", *rows]))


def misname_image(source: Path) -> None:
    (source / "annotations.csv").write_text("image,label\na/00.png,a\nb/00.pgn,b\n")


@pytest.mark.parametrize(
    ("spoil", "stage", "message"),
    [
        (remove_source, "prepare", "No such file or directory: "),
        (cut_image, "build", "'b/03.png': not a sound image: truncated"),
        (leave_one_class, "prepare", "own: expected images of at least two classes, found only 'a'"),
        (leave_class_untrained, "prepare", "class 'c': no image in split train (3 in the others)"),
        (misname_image, "prepare", "line 3: 'b/00.pgn': no such file in the source"),
    ],
)
def test_bad_source_ends_with_one_message_and_no_half_out(
    spoil: Callable[[Path], None], stage: str, message: str, project: Path
) -> None:
    before = read_outs(project)
    write_images(project / OWN, "abc", 20)
    spoil(project / OWN)
    use_source(project, OWN)
    output = run(project, "dvc", "repro", fails=True)
    assert output.count(message) == 1
    assert OWN in output
    assert f"failed to reproduce '{stage}'" in output
    findings = {
        "data/findings.csv",
        "reports/findings.csv",
        "reports/data.json",
    }  # of the present source, also on failure
    outs = yaml.safe_load((project / "dvc.yaml").read_text())["stages"][stage]["outs"]
    assert not [out for out in outs if (project / out).exists() and out not in findings]
    finished = {"data/annotations.csv"} if stage == "build" else set()
    assert {name for name, content in read_outs(project).items() if content != before[name]} - findings == finished
    assert not find_temporary_files(project)


def test_folder_zip_and_tar_give_the_same_outs(project: Path) -> None:
    write_images(project / OWN, "abc", 20)
    outs = []
    for path in (
        OWN,
        shutil.make_archive(str(project / OWN), "zip", project / OWN),
        shutil.make_archive(str(project / OWN), "gztar", project / OWN),
    ):
        use_source(project, path)
        assert list_run_stages(run(project, "dvc", "repro", "build")) == ["prepare", "build"]
        outs.append(read_outs(project))
    assert outs[0]["data/annotations.csv"].count(b"\n") == 61
    assert outs[1] == outs[0]
    assert outs[2] == outs[0]


NUM_MANY = 2_000


def test_workers_change_no_byte(project: Path) -> None:
    rng = np.random.default_rng(0)
    source = project / "many.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(NUM_MANY):
            pixels = rng.integers(0, 256, (2, 3), np.uint8)
            archive.writestr(f"{number % 3}/{number:04}.pgm", b"P5 3 2 255\n" + pixels.tobytes())
    run(project, "python", "stages/prepare.py", str(source), "many.csv", "before.csv")
    for workers in 1, 2:
        replace(project / "params.yaml", r"^workers: \d+", f"workers: {workers}")
        replace(project / "src/imclass/data/workers.py", r"^SECONDS_WORTH_WORKERS = .*", "SECONDS_WORTH_WORKERS = 0.0")
        outs = [f"packed{workers}", *(f"told{workers}/{name}" for name in ("findings.csv", "sizes.csv", "data.json"))]
        run(project, "python", "stages/build.py", str(source), "many.csv", "before.csv", *outs)
    one, two = (
        {
            file.name: file.read_bytes()
            for kind in ("packed", "told")
            for file in (project / f"{kind}{workers}").iterdir()
        }
        for workers in (1, 2)
    )
    assert sum(len(content) for name, content in one.items() if name.endswith(".npy")) > NUM_MANY * 64
    assert one == two


def test_data_that_was_added_stays_when_an_experiment_runs(project: Path) -> None:
    archive = project / "data" / "raw" / "own.zip"
    archive.write_bytes((project / "data" / "raw" / "digits.zip").read_bytes())
    run(project, "dvc", "add", "data/raw/own.zip")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--message", "own images")
    assert "data/raw/own.zip.dvc" in run(project, "git", "ls-files").splitlines()
    run(project, "dvc", "checkout")
    assert archive.exists()
