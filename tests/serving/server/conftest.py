from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipeline import ShareFolder
from served import Server, train


@pytest.fixture(scope="session")
def trained(share_folder: ShareFolder) -> Path:
    """A project's folder with a model, its export and its packed set; for reading only."""
    return share_folder("trained", train)


@pytest.fixture(scope="module")
def start(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`start(*options, folder=...)`: a server, which must end with status 0 and without a word in its log."""
    servers: list[Server] = []

    def start(*options: str, folder: Path = trained) -> Server:
        servers.append(Server(folder, *options, log=tmp_path_factory.mktemp("server") / "log.txt"))
        return servers[-1]

    yield start
    assert [server.end() for server in servers] == [(0, "")] * len(servers)
