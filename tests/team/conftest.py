"""Projects of Ana and Ben that all test files here share."""

from pathlib import Path

import pytest
from people import ANIMALS, FOLDER, HUB, Person, join, meet, share
from pipeline import ShareFolder, commit, copy_checkout, replace, run, write_images


@pytest.fixture(scope="session")
def own_data(share_folder: ShareFolder) -> Path:
    """A project with 40 images of its own, reproduced but not yet told to anyone."""

    def make(folder: Path) -> None:
        project = folder / "ana"
        copy_checkout(project)
        run(project, "git", "branch", "--move", "main")
        commit(project)
        write_images(project / ANIMALS, ["cat", "dog"], 20)
        replace(project / "params.yaml", "^  path: .*", f"  path: {ANIMALS}")
        replace(project / "params.yaml", r"^epochs: \d+", "epochs: 1")
        run(project, "dvc", "add", ANIMALS)
        run(project, "dvc", "repro")

    return share_folder("team", make) / "ana"


@pytest.fixture(scope="session")
def founders(own_data: Path, share_folder: ShareFolder) -> Person:
    """Ana, who shares her data with Ben in a folder."""

    def find_places(folder: Path) -> dict[str, str]:
        return {FOLDER: str(folder / "store"), "/srv/dvc-cache": str(folder / "cache")}

    def make(folder: Path) -> None:
        ana, ben = meet(own_data, folder, find_places(folder))
        ana.do("Ana: a folder")
        share(ana, ben)

    folder = share_folder("founders", make)
    return Person(folder / "ana", find_places(folder) | {HUB: str(folder / "hub.git")})


@pytest.fixture
def ana(founders: Person, tmp_path: Path) -> Person:
    return join(founders, tmp_path / "ana")


@pytest.fixture
def ben(founders: Person, tmp_path: Path) -> Person:
    return join(founders, tmp_path / "ben")
