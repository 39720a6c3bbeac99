"""Data between two people, over a folder, an S3 server and an SSH server."""

import getpass
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from people import ANIMALS, FOLDER, Person, meet, share, wait_for
from pipeline import list_run_stages, replace, run

from benchmarks.project import read_outs


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


def test_clone_without_data_fetches_only_what_it_needs(ana: Person, tmp_path: Path) -> None:
    clone = Person(tmp_path / "ben", ana.places)
    clone.do("Ben: a clone", where=tmp_path)
    assert list_run_stages(clone.do("Ben: without data")) == []
    assert not (clone.checkout / ANIMALS).exists()
    replace(clone.checkout / "params.yaml", "^  accuracy: .*", "  accuracy: 0.001")
    evaluate = ("dvc", "repro", "--pull", "--allow-missing", "evaluate")
    assert list_run_stages(run(clone.checkout, *evaluate, fails=False, **clone.environment)) == ["evaluate"]
    assert not (clone.checkout / ANIMALS).exists()
    replace(clone.checkout / "params.yaml", "^  tolerance: .*", "  tolerance: 0.01")
    assert list_run_stages(clone.do("Ben: without data")) == ["gate", "export"]
    assert (clone.checkout / ANIMALS).exists(), "export compares on the files of the test images"


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
