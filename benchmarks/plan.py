"""What each stage costs per image, as measured -> a Markdown table of what larger sets would take: time, memory, disk.

Costs are in costs.yaml; those of another machine can be put into a copy of it. Nothing but multiplication: what grows
faster than the number of images, or meets a limit on the way, is told in docs/scaling.md.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

COSTS = Path(__file__).with_name("costs.yaml")
TIMES = {"days": 86_400, "h": 3600, "min": 60, "s": 1}
SIZES = {"TB": 1e12, "GB": 1e9, "MB": 1e6}
IMAGES = [1_000_000, 100_000_000, 1_000_000_000]


class Work(BaseModel):
    """A stage or a command: of `share` of the images, each takes so long, and so much memory beside `base` for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: float = 1.0
    microseconds: float
    memory_bytes: float
    base_megabytes: float


class Stored(BaseModel):
    """What lies on disk: of `share` of the images, so many bytes each and so many files a million."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    share: float = 1.0
    bytes: float
    files_per_million: float = 0.0


class Costs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    work: dict[str, Work]
    stored: dict[str, Stored]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("costs", type=Path, nargs="?", default=COSTS)
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES)
    options = parser.parse_args()
    print(plan(options.costs, options.images), end="")


def plan(costs: Path = COSTS, images: list[int] = IMAGES) -> str:
    """The table: a row for each kind of work and of file, a column for each number of images."""
    read = Costs.model_validate(yaml.safe_load(costs.read_text("utf-8")))
    rows = [["time, memory", "an image", *(f"{count:,} images" for count in images)]]
    for name, work in read.work.items():
        each = f"{work.microseconds:g} µs, {work.memory_bytes:,.0f} bytes"
        rows.append([name, each, *(_show_work(work, count * work.share) for count in images)])
    rows.append(["**disk, files**", *[""] * (len(images) + 1)])
    for name, stored in read.stored.items():
        rows.append(
            [name, f"{stored.bytes:,.0f} bytes", *(_show_stored(stored, count * stored.share) for count in images)]
        )
    rows.insert(1, ["---", *["---:"] * (len(images) + 1)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _show_work(work: Work, count: float) -> str:
    memory = 1e6 * work.base_megabytes + count * work.memory_bytes
    return f"{_scale(count * work.microseconds / 1e6, TIMES)}, {_scale(memory, SIZES)}"


def _show_stored(stored: Stored, count: float) -> str:
    files = max(1, round(count * stored.files_per_million / 1e6))
    return f"{_scale(count * stored.bytes, SIZES)}, {files:,}"


def _scale(value: float, units: Mapping[str, float]) -> str:
    """In the largest unit of which there is one at least, else in the smallest; `units` come the largest first."""
    unit = next((unit for unit, size in units.items() if value >= size), list(units)[-1])
    return f"{value / units[unit]:,.3g} {unit}"


if __name__ == "__main__":
    main()
