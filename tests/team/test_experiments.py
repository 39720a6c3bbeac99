"""Experiments, alone and many at once, and a model by its name."""

import csv
import re
from pathlib import Path

import psutil
import yaml
from people import Person, wait_for
from pipeline import list_run_stages, run


def test_experiment_and_model_are_taken_by_name(ana: Person, ben: Person, tmp_path: Path) -> None:
    ana.do("Ana: shares an experiment")
    printed = ben.do("Ben: takes it")
    assert "tolerant" in printed
    assert list_run_stages(run(ben.checkout, "dvc", "repro")) == []
    assert "tolerance: 0.001" in (ben.checkout / "params.yaml").read_text()
    ana.do("Ana: names a model")
    ben.do("Ben: anywhere", where=tmp_path)
    model = (ana.checkout / "models/model.safetensors").read_bytes()
    assert (tmp_path / "classifier.safetensors").read_bytes() == model


def test_queue_survives_a_killed_run_which_is_run_again(ana: Person) -> None:
    project = ana.checkout
    ana.places = {"dvc queue start --jobs 2": "dvc queue start --jobs 2 > queue.txt 2>&1"}  # it would hold our pipe
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in ("prepare", "build", "train")}  # to be quicker
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    run(project, "dvc", "exp", "run", "--queue", "--name", "slow", "-S", "epochs=1000000")
    ana.do("Ana: a sweep")

    def find_slow() -> list[psutil.Process]:
        # Not `sh -c "python stages/train.py"`, which stays beside the training where DVC finds no $SHELL.
        trainings = [process for process in psutil.process_iter() if "stages/train.py" in read_command(process)]
        folders = [(process, Path(process.cwd())) for process in trainings]
        own = [(process, folder) for process, folder in folders if project in folder.parents]
        return [process for process, folder in own if "epochs: 1000000" in (folder / "params.yaml").read_text()]

    wait_for(lambda: len(find_slow()) == 1)
    (training,) = find_slow()
    for process in [*training.parents(), training]:
        if "exp" in read_command(process) or process == training:
            process.kill()  # the worker, its run and the training

    def list_ended() -> dict[str, str]:
        return dict(re.findall(r"^\w+ +([\w-]+) .* (\w+)$", run(project, "dvc", "queue", "status"), re.MULTILINE))

    wait_for(lambda: list(list_ended().values()).count("Success") == 2)
    ana.do("Ana: after the run called slow was killed")
    wait_for(lambda: list_ended().get("slow") == "Success")
    table = csv.DictReader(run(project, "dvc", "exp", "show", "--csv").splitlines())
    assert {row["lr"] for row in table} == {"0.2", "0.1", "0.01", "0.02"}


def read_command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
