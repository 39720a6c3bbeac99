"""Fashion-MNIST before and after a change -> bytes and seconds that DVC takes to push it, in three forms.

The forms: the packed set in its shards, all in one file, and a folder with one PNG file per image.
"""

import argparse
import csv
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import FASHION_FIT, read_idx
from benchmarks.programs import MEGABYTE, run, run_timed
from benchmarks.report import RESULTS, write_report
from imclass.data.annotations import SPLITS
from imclass.data.packed import write_packed
from imclass.data.split import assign_splits

DVC = [sys.executable, "-m", "dvc"]
FIRST = "all, for the first time"
SEED = 0


@dataclass(frozen=True)
class Labelled:
    """Images and, for each, its name and label."""

    names: list[str]
    labels: list[str]
    pixels: UInt8[np.ndarray, "n 1 28 28"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idx", type=Path, required=True, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--count", type=int, default=60_000, help="how many images there are before a change")
    parser.add_argument("--changed", type=int, nargs="+", default=[1, 100, 10_000], help="how many are changed")
    parser.add_argument("--out", type=Path, default=RESULTS / "pushes.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    forms = {"shards": write_shards, "one file": write_one_file, "folder of files": write_files}
    found = {form: dict(measure(write, options)) for form, write in forms.items()}
    rows, spreads = [], {}
    for change in found["shards"]:
        row = [change]
        for form, pushes in found.items():
            (pushed, seconds), (everything, _) = pushes[change], pushes[FIRST]
            row += [f"{pushed / MEGABYTE:,.2f}", f"{pushed / everything:.1%}", f"{seconds:.1f}"]
            spreads[f"{change}: {form}"] = [pushed / MEGABYTE]
        rows.append(row)
    write_report(
        options.out,
        title="What a change of the data pushes",
        conditions=[
            f"{options.count:,} images of 28x28 in three splits, each change on its own; `dvc add` and `dvc push` to "
            "a folder, once each. MB that the push adds to the remote, their share of all, and seconds of both "
            "commands. Names side by side are those of a new day or folder, scattered ones lie among all others."
        ],
        header=["", *(f"{form}{unit}" for form in found for unit in (": MB", ", share", ", seconds"))],
        rows=rows,
        spreads=spreads,
        axis="MB pushed",
    )


def measure(
    write: Callable[[Labelled, Path], None], options: argparse.Namespace
) -> Iterator[tuple[str, tuple[int, float]]]:
    """Title of each change -> bytes that are pushed, and seconds."""
    before = read_labelled(options.idx, "train", options.count)
    with tempfile.TemporaryDirectory() as temporary:
        project, remote = Path(temporary, "project"), Path(temporary, "remote")
        project.mkdir()
        run([*DVC, "init", "--no-scm", "--quiet"], project)
        run([*DVC, "remote", "add", "--default", "store", str(remote)], project)
        for title, changed in [(FIRST, before), *list_changes(before, options)]:
            write(changed, project / "set")
            pushed_before = count_bytes(remote)
            seconds = run_timed([*DVC, "add", "--quiet", "set"], project)
            seconds += run_timed([*DVC, "push", "--quiet"], project)
            yield title, (count_bytes(remote) - pushed_before, seconds)
            print(title, f"{seconds:.1f} s", file=sys.stderr, flush=True)


def list_changes(before: Labelled, options: argparse.Namespace) -> Iterator[tuple[str, Labelled]]:
    """Each with images that no other brings, so that none finds what another has pushed."""
    chance = np.random.default_rng(SEED)
    more = read_labelled(options.idx, "t10k", max(options.changed))
    for at, count in enumerate(options.changed):
        number, middle = f"{count:,}", options.count // 2
        apart = sorted(chance.choice(options.count, count, replace=False).tolist())
        side_by_side = [f"{middle:05}-{new:05}.png" for new in range(count)]
        yield f"{number} added, names side by side", add(before, more, side_by_side, roll=2 * at + 1)
        yield (
            f"{number} added, names scattered",
            add(before, more, [f"{new:05}-0.png" for new in apart], roll=2 * at + 2),
        )
        labels = list(before.labels)
        for row in apart:
            labels[row] = str((int(labels[row]) + 1 + at) % 10)
        yield f"{number} relabelled, scattered", Labelled(before.names, labels, before.pixels)


def add(before: Labelled, more: Labelled, names: list[str], *, roll: int) -> Labelled:
    count = len(names)
    pixels = np.roll(more.pixels[:count], roll, axis=3)
    return Labelled(before.names + names, before.labels + more.labels[:count], np.concatenate([before.pixels, pixels]))


def read_labelled(folder: Path, part: str, count: int) -> Labelled:
    split = read_idx(folder, part)
    names = [f"{at:05}.png" for at in range(count)]
    return Labelled(names, list(map(str, split.labels[:count])), np.asarray(split.images)[:count])


def write_shards(images: Labelled, folder: Path) -> None:
    hashes = [hashlib.sha256(pixels).hexdigest() for pixels in images.pixels]
    table = pd.DataFrame({"image": images.names, "label": images.labels, "split": "", "group": "", "sha256": hashes})
    table["split"] = assign_splits(table, seed=SEED, val_fraction=0.15, test_fraction=0.2)
    table = table.iloc[np.lexsort([table.image, table.split.map(SPLITS.index)])]
    rows = list(table[["image", "label", "split"]].itertuples(index=False, name=None))
    write_packed(folder, rows, [(images.names, images.pixels)], FASHION_FIT.model_dump())


def write_one_file(images: Labelled, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    order = np.argsort(images.names)
    names, labels = (np.array(values, "S")[order] for values in (images.names, images.labels))
    np.savez(folder / "images.npz", names=names, labels=labels, images=images.pixels[order])


def write_files(images: Labelled, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in {path.name for path in folder.glob("*.png")} - set(images.names):
        (folder / name).unlink()
    for name, pixels in zip(images.names, images.pixels, strict=True):
        if not (folder / name).exists():
            Image.fromarray(pixels[0]).save(folder / name)
    with (folder / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *zip(images.names, images.labels, strict=True)])


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
