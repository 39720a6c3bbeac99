"""Building on a real Dask cluster: a scheduler and workers as processes of this machine."""

import filecmp
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import PIL
import pytest
from distributed import Client
from PIL import Image

from imclass.data import cluster as clusters
from imclass.data import decode as decoding
from imclass.data import workers as working
from imclass.data.decode import Decoded, decode_files
from imclass.data.images import Picture, decode_picture
from imclass.errors import InputError
from imclass.params import FitParams

ROOT = Path(__file__).parents[2]
TO = FitParams(channels=1, height=5, width=4, fit="crop", background=255)
OUTS = ["packed", "findings.csv", "sizes.csv", "data.json"]

Encode = Callable[..., bytes]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("scheduler" or "worker", *options)`: a process of the cluster, which ends with the test."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "DASK_TEMPORARY_DIRECTORY": str(tmp_path),
        "PYTHONPATH": str(ROOT / "src"),
    }

    def start(program: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1"]
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            process = subprocess.Popen([*command, *options], cwd=tmp_path, env=environment, stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def start_scheduler(start: Start, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Its address, and the process; it has no worker yet."""
    file = folder / "scheduler.json"
    process = start("scheduler", "--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(file))
    wait_until(file.exists)
    return json.loads(file.read_text())["address"], process


@pytest.fixture
def scheduler(start: Start, tmp_path: Path) -> str:
    return start_scheduler(start, tmp_path)[0]


def start_worker(start: Start, address: str, *options: str) -> subprocess.Popen[bytes]:
    return start("worker", "--no-nanny", "--no-dashboard", "--nthreads", "1", *options, address)


def wait_until(reached: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_stage(name: str, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *arguments]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, **streams)


def build(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return run_stage("build", folder, "source", "annotations.csv", "before.csv", *OUTS, **environment)


def test_build_is_the_same_on_workers_of_which_one_joins_late_and_one_is_killed(
    tmp_path: Path, start: Start, scheduler: str, encode: Encode
) -> None:
    worker = start_worker(start, scheduler)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    draws = np.random.default_rng(0)
    for at in range(360):
        picture = Image.fromarray(draws.integers(at % 200, 256, (500, 500), np.uint8))  # slow to decode
        path = here / "source" / "ab"[at % 2] / f"{at}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture, "JPEG") if at != 300 else b"damaged")
    params = (ROOT / "params.yaml").read_text().replace("unreadable: fail", "unreadable: drop")
    (here / "params.yaml").write_text(params.replace("workers: 0", "workers: 1"))
    with run_stage("prepare", here, "source", "annotations.csv", "before.csv") as prepared:
        assert prepared.wait() == 0, prepared.communicate()
    shutil.copytree(here, there)
    with build(here) as alone:
        assert alone.wait() == 0, alone.communicate()

    with Client(scheduler, set_as_default=False) as client, build(there, DASK_SCHEDULER_ADDRESS=scheduler) as built:
        wait_until(lambda: built.poll() is not None or any(client.processing().values()))
        worker.send_signal(signal.SIGSTOP)  # what it has to do waits for it
        start_worker(start, scheduler)
        client.wait_for_workers(2, 60)
        assert built.poll() is None
        worker.kill()
        assert built.wait() == 0, built.communicate()
    made = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file() and path.name != "runs.jsonl")
    assert len(made) > 360 + len(OUTS)
    assert [path for path in made if not filecmp.cmp(here / path, there / path, shallow=False)] == []
    assert "300.jpg" in (there / "findings.csv").read_text()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, encode: Encode) -> dict[str, bytes]:
    """Few, of which each is worth a worker, in chunks of two."""
    monkeypatch.setattr(working, "SECONDS_WORTH_WORKERS", 0.0)
    monkeypatch.setattr(working, "CHUNK_FILES", 2)
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6), np.uint8)
    return {f"{at:02}.png": encode(Image.fromarray(image)) for at, image in enumerate(images)}


def decode(files: dict[str, bytes], address: str) -> Iterator[Decoded]:
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return decode_files(files.items(), sha256, TO, workers=1, cluster=address)


KILLING = """
import os
from imclass.data import decode, images
def kill(name, content, **options):
    return os._exit(1) if name == "21.png" else images.decode_picture(name, content, **options)
decode.decode_picture = kill
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked with the changed decoder on Linux only")
def test_file_that_kills_workers_is_named_and_the_others_are_decoded(
    tmp_path: Path, start: Start, scheduler: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(name: str, content: bytes, *, background: int) -> Picture:
        if name == "21.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode_picture(name, content, background=background)

    monkeypatch.setattr(decoding, "decode_picture", kill)
    (tmp_path / "killing.py").write_text(KILLING)
    for _ in range(2):
        start_worker(start, scheduler, "--preload", "killing.py")
    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2, 60)
        chunks = list(decode(files, scheduler))
        assert len(client.nthreads()) == 1
    found = [str(found) for chunk in chunks for found in chunk.findings if found.kind == "unreadable"]
    assert found == ["'21.png': its decoder crashed, ran out of memory or took longer than 10 s"]
    assert [name for chunk in chunks for name in chunk.names] == [name for name in files if name != "21.png"]


OTHER = "import PIL; PIL.__version__ = '0.1'"


def test_workers_that_could_make_other_pixels_are_refused_also_when_they_join_late(
    tmp_path: Path, start: Start, scheduler: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.py").write_text(OTHER)
    start_worker(start, scheduler, "--preload", "other.py", "--nthreads", "2")
    expected = f"PIL: expected {PIL.__version__}, found 0.1\n.*threads: expected 1, found 2$"
    with pytest.raises(InputError, match=f"(?s)^Dask cluster at {scheduler} may not make the same pixels.*{expected}"):
        list(decode(files, scheduler))
    monkeypatch.setattr(clusters.Cluster, "_check_all", lambda _: None)  # as if it had not been there
    with pytest.raises(InputError, match=f"(?s)^Dask cluster may not make the same pixels.*{expected}"):
        list(decode(files, scheduler))


def test_scheduler_that_ends_midway_is_told(start: Start, tmp_path: Path, files: dict[str, bytes]) -> None:
    address, scheduler = start_scheduler(start, tmp_path)
    start_worker(start, address)
    chunks = decode(files, address)
    for _ in range(3):
        next(chunks)
    scheduler.kill()
    with pytest.raises(InputError, match=f"Dask cluster at {address}: lost the connection to its scheduler"):
        list(chunks)


def test_address_without_a_scheduler_is_told(files: dict[str, bytes]) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(InputError, match="^DASK_SCHEDULER_ADDRESS: expected a Dask scheduler at tcp://127.0.0.1:1: "),
    ):
        list(decode(files, "tcp://127.0.0.1:1"))


def test_missing_package_is_told(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="python -m pip install distributed$"):
        list(decode(files, "tcp://127.0.0.1:1"))


def test_cluster_without_workers_is_told(
    scheduler: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "SECONDS_WITHOUT_WORKERS", 0.5)
    with pytest.raises(InputError, match=r"expected a worker, found none for 0\.5 s"):
        list(decode(files, scheduler))
