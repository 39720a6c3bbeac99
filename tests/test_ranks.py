"""The real stages and `imclass predict` by several processes: their own, torchrun's, and in Slurm's environment."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pipeline import Reproduced

from imclass.ranks import Ranks, _translate_slurm, find_ranks
from imclass.team.recipe import change_params
from imclass.training.history import read_history

TRAIN = ["stages/train.py", "data/packed", "weights", "models/model.safetensors", "reports/history.csv"]
# All that is random, and what is summed or counted over a batch.
RICH: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 60,  # leaves a last batch of 35 images, whose parts do not go round
    "model": {"cnn": {"widths": [8, 8], "dropout": 0.2}},
    "train": {"accumulation": 4, "ema": 0.9, "clip_norm": 1.0},
    "augment": {"flip": True, "shift": 1, "erase": 0.3},
}
# Without it torchrun 2.14 does not tell a host that comes back where the leader is.
COMES_BACK = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
LONG: dict[str, Any] = {"epochs": 30, "train": {"accumulation": 2}}


def make_project(reproduced: Reproduced, folder: Path, changes: dict[str, Any], **more: Any) -> Path:
    """A folder in which the train and evaluate stages can run, with their inputs."""
    folder.mkdir()
    for name in "src", "stages", "weights", "data", "reports", "params.yaml":
        source = reproduced.project / name
        (shutil.copyfile if source.is_file() else shutil.copytree)(source, folder / name)
    (folder / "reports/history.csv").unlink()
    change_params(folder / "params.yaml", {**changes, **more}, origin=folder / "params.yaml")
    return folder


def start(folder: Path, *command: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", status: int = 0) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == status, output
    return output


def train(folder: Path) -> str:
    return finish(start(folder, *TRAIN))


def read_results(folder: Path) -> tuple[bytes, bytes]:
    return (folder / TRAIN[3]).read_bytes(), (folder / TRAIN[4]).read_bytes()


def wait_for_epoch(folder: Path, epoch: int) -> None:
    end = time.monotonic() + 100
    while not list(folder.glob(f".checkpoints/*/{epoch:06}-*")):
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.02)


def stop_and_go_on_alone(folder: Path) -> None:
    """Stop a training of several processes after some epochs, and let one end it."""
    launcher = start(folder, *TRAIN)
    wait_for_epoch(folder, 3)
    launcher.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM; run again to go on" in finish(launcher, 128 + signal.SIGTERM)
    change_params(folder / "params.yaml", {"processes": 1}, origin=Path("params.yaml"))
    assert "going on after" in train(folder)


@pytest.fixture(scope="module")
def long(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """What an undisturbed process makes of LONG."""
    folder = make_project(reproduced, tmp_path_factory.mktemp("long") / "project", LONG)
    train(folder)
    return read_results(folder)


def test_any_number_of_ranks_gives_the_same_bytes(reproduced: Reproduced, tmp_path: Path) -> None:
    results = []
    for processes in 1, 2, 4:
        folder = make_project(reproduced, tmp_path / str(processes), RICH, processes=processes)
        output = train(folder)
        assert output.count("kept epoch") == 1, "one rank tells"
        assert "Warning" not in output
        results.append(read_results(folder))
    assert results[0] == results[1] == results[2]


def test_evaluation_by_ranks_gives_the_bytes_of_one_process(reproduced: Reproduced, tmp_path: Path) -> None:
    made = []
    for processes in 1, 2:
        folder = make_project(reproduced, tmp_path / str(processes), {}, processes=processes)
        for name in "models/model.safetensors", "reports/history.csv":
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(reproduced.project / name, folder / name)
        # Few images at once, so that each rank has some.
        inference = folder / "src/imclass/models/inference.py"
        inference.write_text(inference.read_text().replace("BATCH_IMAGES = 1000", "BATCH_IMAGES = 50"))
        outs = [f"out/{name}" for name in ("m.json", "c.csv", "p.csv", "r.csv", "r.html", "s.png")]
        inputs = ["data/packed", "models/model.safetensors", "reports/history.csv"]
        tables = ["reports/findings.csv", "reports/sizes.csv", "reports/accepted.csv"]
        finish(start(folder, "stages/evaluate.py", *inputs, *tables, *outs))
        made.append([(folder / out).read_bytes() for out in outs])
    assert made[0] == made[1]


def test_ranks_without_parts_of_their_own_agree_within_rounding(reproduced: Reproduced, tmp_path: Path) -> None:
    changes = {"epochs": 3, "model": {"name": "mlp", "mlp": {"hidden": [32]}}, "lr": 0.05}
    histories = []
    for processes in 1, 2:
        folder = make_project(reproduced, tmp_path / str(processes), changes, processes=processes)
        train(folder)
        histories.append(read_history(folder / TRAIN[4]))
    for ours, theirs in zip(*histories, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=1e-5)
        assert ours.val_accuracy == theirs.val_accuracy


def test_a_killed_rank_is_started_again_and_changes_no_byte(
    reproduced: Reproduced, tmp_path: Path, long: tuple[bytes, bytes]
) -> None:
    folder = make_project(reproduced, tmp_path / "project", LONG, processes=2)
    launcher = start(folder, *TRAIN)
    wait_for_epoch(folder, 3)
    psutil.Process(launcher.pid).children()[-1].kill()
    output = finish(launcher)
    assert "train: a process was ended by SIGKILL: starting again from the last checkpoint" in output
    assert "going on after" in output
    assert read_results(folder) == long


def test_stopped_and_gone_on_with_by_another_number_of_ranks(
    reproduced: Reproduced, tmp_path: Path, long: tuple[bytes, bytes]
) -> None:
    folder = make_project(reproduced, tmp_path / "project", LONG, processes=2)
    stop_and_go_on_alone(folder)
    assert read_results(folder) == long


def test_gone_on_with_in_other_parts_agrees_within_rounding(reproduced: Reproduced, tmp_path: Path) -> None:
    changes = {"epochs": 30, "model": {"name": "mlp", "mlp": {"hidden": [16]}}, "lr": 0.02}
    undisturbed = make_project(reproduced, tmp_path / "undisturbed", changes)
    folder = make_project(reproduced, tmp_path / "project", changes, processes=2)
    train(undisturbed)
    stop_and_go_on_alone(folder)
    ours, theirs = (read_history(path / TRAIN[4])[-1] for path in (folder, undisturbed))
    assert ours.val_loss == pytest.approx(theirs.val_loss, rel=1e-4)


def test_a_mistake_is_told_once_and_not_tried_again(reproduced: Reproduced, tmp_path: Path) -> None:
    folder = make_project(reproduced, tmp_path / "project", {"batch_size": 2}, processes=3)
    told = [line for line in finish(start(folder, *TRAIN), 1).splitlines() if not line.startswith("library")]
    assert told == ["train: batch_size: expected at least 3, an image for each process, found 2"]


def test_ranks_that_slurm_has_started_find_each_other(
    reproduced: Reproduced, tmp_path: Path, long: tuple[bytes, bytes]
) -> None:
    folder = make_project(reproduced, tmp_path / "project", LONG)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    tasks = [
        start(
            folder,
            *TRAIN,
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            SLURM_STEP_NUM_TASKS="2",
            SLURM_STEP_TASKS_PER_NODE="2",
            SLURM_STEP_NODELIST="localhost",
            SLURM_JOB_ID="17",
            MASTER_PORT=port,
        )
        for rank in (1, 0)
    ]
    outputs = [finish(task) for task in tasks]
    assert [output.count("kept epoch") for output in outputs] == [0, 1]
    assert read_results(folder) == long


def test_prediction_by_ranks_gives_the_table_of_one_process(reproduced: Reproduced, tmp_path: Path) -> None:
    archive = reproduced.project / "data/raw/digits.zip"
    with zipfile.ZipFile(archive) as members:
        images = [name for name in members.namelist() if name.endswith(".png")]
        members.extractall(tmp_path / "some", images[:301])
    (tmp_path / "some/broken.png").write_bytes(b"no picture")
    program = str(Path(sys.executable).with_name("imclass"))
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    for name, launcher in {"one": [], "three": several}.items():
        model, inputs = str(reproduced.project / "models/export/model.onnx"), ["some", str(archive)]
        output = finish(start(tmp_path, *launcher, program, "predict", model, *inputs, "--out", f"{name}.csv"), 1)
        told = f"1 of {302 + len(images)} images cannot be read, all others are predicted"
        assert output.count(told) == output.count("some/broken.png") == 1
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "three.csv").read_bytes()


@pytest.mark.parametrize(
    ("nodes", "leader"),
    [("node[03-05,17]", "node03"), ("one,two", "one"), ("gpu-a7", "gpu-a7"), ("a[1,9],b2", "a1")],
)
def test_first_host_of_a_slurm_step_leads(monkeypatch: pytest.MonkeyPatch, nodes: str, leader: str) -> None:
    environment = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_JOB_ID": "40123",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RANK", raising=False)
    assert find_ranks() == Ranks(3, 4, 1, 2)
    told = _translate_slurm(environment)
    assert (told["MASTER_ADDR"], told["MASTER_PORT"], told["RANK"]) == (leader, "20123", "3")


@contextmanager
def make_hosts() -> Iterator[dict[str, str]]:
    """Two network namespaces with a cable between them: name -> address."""
    mark = f"{os.getpid():x}"
    hosts = {f"one-{mark}": "10.77.0.1", f"two-{mark}": "10.77.0.2"}
    (one, _), (two, _) = hosts.items()

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for host in hosts:
            ip("netns", "add", host)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces here: they need ip (iproute2) and root")
    try:
        ip("-n", one, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two)
        for host, address in hosts.items():
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "cable")
            for device in "cable", "lo":
                ip("-n", host, "link", "set", device, "up")
        yield hosts
    finally:
        for host in hosts:
            ip("netns", "del", host)


def test_two_hosts_train_together_and_one_that_is_lost_comes_back(
    reproduced: Reproduced, tmp_path: Path, long: tuple[bytes, bytes]
) -> None:
    folder = make_project(reproduced, tmp_path / "project", LONG)
    with make_hosts() as hosts:

        def join(host: str) -> "subprocess.Popen[bytes]":
            address = hosts[host]
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--max-restarts", "3"]
            meet = ["--rdzv-backend=c10d", "--rdzv-id=digits", "--rdzv-endpoint=10.77.0.1:29400"]
            # It would look for the endpoint among the names of the machine, which both hosts share.
            leads = ["--rdzv-conf", f"is_host={int(address == '10.77.0.1')}"]
            with (folder / f"{host}.log").open("a") as log:
                return subprocess.Popen(
                    ["ip", "netns", "exec", host, *command, *meet, f"--local-addr={address}", *leads, *TRAIN],
                    cwd=folder,
                    env={**os.environ, "GLOO_SOCKET_IFNAME": "cable", **COMES_BACK},
                    stdout=log,
                    stderr=log,
                )

        one, two = map(join, hosts)
        wait_for_epoch(folder, 3)
        torchrun = psutil.Process(two.pid)
        for process in [torchrun, *torchrun.children(recursive=True)]:  # in this order, or it starts a worker anew
            process.kill()
        two.wait()
        log = folder / f"{next(iter(hosts))}.log"
        while "another process was lost" not in log.read_text():
            assert one.poll() is None, log.read_text()
            time.sleep(0.1)
        time.sleep(3)  # no host is back sooner, and torchrun may count one that is as the one that was lost
        again = join(list(hosts)[1])
        assert one.wait(timeout=100) == 0, log.read_text()
        again.wait(timeout=60)  # torchrun may end it with a complaint that its leader has ended
    assert "going on after" in log.read_text()
    assert read_results(folder) == long
