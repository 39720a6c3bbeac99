"""Ana and Ben, who run the blocks of docs/team.md in clones of their own."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pipeline import ROOT, list_run_stages, run

from benchmarks.project import read_outs

BLOCKS = dict(re.findall(r"```sh\n# ([^\n]+)\n(.*?)```", (ROOT / "docs/team.md").read_text(), re.DOTALL))
ANIMALS = "data/raw/animals"
HUB = "https://git.example.org/imclass.git"
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


def meet(own_data: Path, folder: Path, places: dict[str, str]) -> tuple[Person, Person]:
    """Ana with her data and a hub of Git, Ben with nothing yet."""
    places = {HUB: str(folder / "hub.git"), **places}
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


def join(founder: Person, checkout: Path) -> Person:
    """Another clone, with all data."""
    person = Person(checkout, founder.places)
    run(checkout.parent, "git", "clone", "--quiet", str(founder.checkout.parent / "hub.git"), checkout.name)
    introduce(person)
    person.do("Ben: all of it")
    return person


def wait_for(happened: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)
