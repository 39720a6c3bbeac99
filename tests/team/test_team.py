"""Every block of docs/team.md, by Ana and Ben in clones of their own, over a folder, an S3 server and an SSH server."""

import csv
import getpass
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from moto.server import ThreadedMotoServer
from PIL import Image
from pipeline import ROOT, STAGES, commit, copy_checkout, list_run_stages, replace, run, write_images

from benchmarks.project import read_outs

BLOCKS = dict(re.findall(r"```sh\n# ([^\n]+)\n(.*?)```", (ROOT / "docs/team.md").read_text(), re.DOTALL))
ANIMALS = "data/raw/animals"
FOLDER = "/srv/imclass"  # where the document says that data go


class Person:
    """Someone with a checkout.

    `places` are those that the document names and those that stand for them in a test; `environment` holds keys.
    """

    def __init__(self, checkout: Path, places: dict[str, str], environment: dict[str, str] | None = None) -> None:
        self.checkout = checkout
        self.places = places
        self.environment = environment or {}

    def do(self, title: str, *, where: Path | None = None, fails: bool = False) -> str:
        """Run the block of that title -> what it prints."""
        block = BLOCKS[title]
        for place, stand_in in self.places.items():
            block = block.replace(place, stand_in)
        return run(where or self.checkout, "bash", "-ec", block, fails=fails, **self.environment)

    def count_images(self) -> int:
        """How many images stand in the table that prepare made of them."""
        return len((self.checkout / "data/annotations.csv").read_text().splitlines()) - 1


def add_image(project: Path, name: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(project / ANIMALS / name)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 40 images of its own, reproduced but not yet told to anyone."""
    project = tmp_path_factory.mktemp("team") / "ana"
    copy_checkout(project)
    run(project, "git", "branch", "--move", "main")
    commit(project)
    write_images(project / ANIMALS, ["cat", "dog"], 20)
    replace(project / "params.yaml", "^  path: .*", f"  path: {ANIMALS}")
    replace(project / "params.yaml", r"^epochs: \d+", "epochs: 1")
    run(project, "dvc", "add", ANIMALS)
    run(project, "dvc", "repro")
    return project


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an S3 server with an empty bucket, `team`."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{address}/team", method="PUT")).close()
    yield address
    server.stop()


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of an SSH server that knows one key, and the file of that key."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if sshd is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("ssh")
    for name in "host", "user":
        run(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PasswordAuthentication": "no",
        "PidFile": "none",
        "StrictModes": "no",  # the folder of a test may be another's
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as the service does that starts it
    with subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL) as server:
        wait_for(lambda: is_open(port))
        yield f"ssh://127.0.0.1:{port}", folder / "user"
        server.kill()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(happened: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


def meet(own_data: Path, folder: Path, places: dict[str, str]) -> tuple[Person, Person]:
    """Ana with her data and a hub of Git, Ben with nothing yet."""
    places = {"https://git.example.org/imclass.git": str(folder / "hub.git"), **places}
    shutil.copytree(own_data, folder / "ana")
    run(folder, "git", "init", "--quiet", "--bare", "--initial-branch", "main", "hub.git")
    run(folder / "ana", "git", "remote", "add", "origin", str(folder / "hub.git"))
    return Person(folder / "ana", places), Person(folder / "ben", places)


def share(ana: Person, ben: Person) -> None:
    """From Ana's data to Ben's checkout, which then has all results without having run a stage."""
    assert list_run_stages(ana.do("Ana: her images")) == []
    ben.do("Ben: a clone", where=ben.checkout.parent)
    introduce(ben)
    printed = ben.do("Ben: all of it")
    assert list_run_stages(printed) == []
    assert "up to date" in printed
    assert read_outs(ben.checkout) == read_outs(ana.checkout)
    assert run(ben.checkout, "git", "status", "--short") == ""


def introduce(person: Person) -> None:
    run(person.checkout, "git", "config", "user.name", person.checkout.name)
    run(person.checkout, "git", "config", "user.email", "tester@example.org")


@pytest.fixture(scope="module")
def founders(own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Person, Person]:
    """Ana and Ben, who share their data in a folder."""
    folder = tmp_path_factory.mktemp("founders")
    places = {FOLDER: str(folder / "store"), "/srv/dvc-cache": str(folder / "cache")}
    ana, ben = meet(own_data, folder, places)
    ana.do("Ana: a folder")
    share(ana, ben)
    return ana, ben


@pytest.fixture
def ana(founders: tuple[Person, Person], tmp_path: Path) -> Person:
    return join(founders, tmp_path / "ana")


@pytest.fixture
def ben(founders: tuple[Person, Person], tmp_path: Path) -> Person:
    return join(founders, tmp_path / "ben")


def join(founders: tuple[Person, Person], checkout: Path) -> Person:
    """Another clone, with all data."""
    person = Person(checkout, founders[0].places)
    run(checkout.parent, "git", "clone", "--quiet", str(founders[0].checkout.parent / "hub.git"), checkout.name)
    introduce(person)
    person.do("Ben: all of it")
    return person


def test_every_block_of_the_document_is_run_here() -> None:
    assert len(BLOCKS) == (ROOT / "docs/team.md").read_text().count("```sh") > 15
    source = Path(__file__).read_text()
    assert [title for title in BLOCKS if f'.do("{title}"' not in source] == []


def test_data_travel_over_s3(own_data: Path, s3: str, tmp_path: Path) -> None:
    ana, ben = meet(own_data, tmp_path, {"s3://our-bucket": "s3://team", "https://s3.example.org": s3})
    ana.environment = ben.environment = dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "test")
    ana.do("Ana: S3")
    share(ana, ben)


def test_data_travel_over_ssh(own_data: Path, ssh: tuple[str, Path], tmp_path: Path) -> None:
    address, key = ssh
    places = {
        f"ssh://data.example.org{FOLDER}": f"{address}{tmp_path}/store",
        "~/.ssh/id_ed25519": str(key),
        "user me": f"user {getpass.getuser()}",
    }
    ana, ben = meet(own_data, tmp_path, places)
    ana.do("Ana: SSH")
    ana.do("Ana and Ben: SSH")
    assert list_run_stages(ana.do("Ana: her images")) == []
    ben.do("Ben: a clone", where=tmp_path)
    ben.do("Ana and Ben: SSH")
    printed = ben.do("Ben: all of it")
    assert list_run_stages(printed) == []
    assert read_outs(ben.checkout) == read_outs(ana.checkout)
    assert "config.local" not in run(ben.checkout, "git", "ls-files", ".dvc")


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


def test_clone_without_data_fetches_only_what_it_needs(ana: Person, tmp_path: Path) -> None:
    clone = Person(tmp_path / "ben", ana.places)
    clone.do("Ben: a clone", where=tmp_path)
    assert list_run_stages(clone.do("Ben: without data")) == []
    assert not (clone.checkout / ANIMALS).exists()
    replace(clone.checkout / "params.yaml", "^  tolerance: .*", "  tolerance: 0.01")
    assert list_run_stages(clone.do("Ben: without data")) == ["export"]
    assert not (clone.checkout / ANIMALS).exists()


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


def test_cache_of_a_machine_holds_each_file_once(ana: Person, ben: Person) -> None:
    for person in ana, ben:
        person.do("Ana and Ben: on one machine")
    models = [person.checkout / "models/model.safetensors" for person in (ana, ben)]
    assert models[0].read_bytes() == models[1].read_bytes()
    cache = Path(ana.places["/srv/dvc-cache"])
    (stored,) = [file for file in cache.rglob("*") if file.is_file() and file.samefile(models[0])]
    assert stored.samefile(models[1]) or models[0].stat().st_nlink == 1  # a reflink is no link to be seen
    assert stored.parent.stat().st_mode & 0o020, "not for the group to write"
    assert list_run_stages(run(ben.checkout, "dvc", "repro")) == []


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
