"""prepare, build and the search for copies by size -> seconds, peak memory, and ratios to linear growth and to a limit.

The limit of build decodes and resizes bytes that are in memory already, in as many warm processes. The search is
compared with one among all pairs.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.build import keep_in_worker, time_limit
from benchmarks.data import (
    FASHION_FIT,
    PHOTO_FIT,
    add_data_options,
    make_fashion,
    make_fashion_pngs,
    make_photos,
    zip_images,
)
from benchmarks.programs import ROOT, Usage, copy_checkout, divide, read_command, run_timed, run_watched
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.data.annotations import label_images
from imclass.data.duplicates import RADIUS, find_close
from imclass.data.images import decode_and_fit
from imclass.data.pictures import normalize, shrink
from imclass.data.source import read_files
from imclass.params import FitParams

START_ROWS = 100  # of a table that takes no time: what remains is start-up
LARGE_FILE = 20_000  # bytes
NUM_PHOTOS = 5_000
COPIED = 20  # one picture of so many is a copy of another
BRUTE_FORCE = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="of prepare")
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 10_000, 60_000], help="of build")
    parser.add_argument("--pictures", type=int, nargs="*", default=[10_000, 60_000, 240_000], help="of the search")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables and plots")
    options = parser.parse_args()
    if options.rows:
        report_prepare(options)
    if options.images:
        report_build(options)
    if options.pictures:
        report_copies(options)


def report_prepare(options: argparse.Namespace) -> None:
    sizes = [(START_ROWS, 0), *((count, 0) for count in options.rows), (options.rows[0], LARGE_FILE)]
    usages: dict[tuple[int, int], list[Usage]] = {size: [] for size in sizes}
    for _ in range(options.rounds):
        for count, file_bytes in sizes:
            archive = make_table(options.folder, count, file_bytes)
            with tempfile.TemporaryDirectory() as folder:
                project = copy_checkout(Path(folder), {"data": {"path": str(archive.resolve())}})
                usages[count, file_bytes].append(run_watched(read_command(project, "prepare"), project))
    start = usages.pop((START_ROWS, 0))
    rows, spreads = [], {}
    first: list[float] = []
    for (count, file_bytes), found in usages.items():
        seconds = [usage.seconds for usage in found]
        each = [1e6 * (taken - usage.seconds) / count for taken, usage in zip(seconds, start, strict=True)]
        first = first or each
        title = f"{count:,}" + (f", files of {file_bytes:,} bytes" if file_bytes else "")
        peak = statistics.median(usage.own_peak for usage in found)
        rows.append([title, format_spread(seconds), format_spread(each, 0)])
        rows[-1] += [format_spread(divide(each, first)), f"{peak:,.0f}"]
        spreads[title] = each
    started = format_spread([usage.seconds for usage in start])
    write_report(
        options.out / "growth-prepare.md",
        title="The prepare stage by size",
        conditions=[
            f"Files of 27 bytes in one zip with annotations.csv; {options.rounds} rounds: median (quartiles). "
            f"Start-up, {started} s, is in the seconds, and in no other column. Peak: resident memory in MB."
        ],
        header=["rows", "s", "microseconds a row", "as a ratio to the first", "peak MB"],
        rows=rows,
        spreads=spreads,
        axis="microseconds a row",
    )


def make_table(folder: Path, count: int, file_bytes: int) -> Path:
    """A zip of `count` different small pictures of ten classes, followed by `file_bytes` that no decoder reads."""
    archive = folder / f"rows-{count}-{file_bytes}.zip"
    if not archive.is_file():
        building = archive.with_suffix(".building")
        names = [f"{at % 10}/{at:08}.pgm" for at in range(count)]
        with zipfile.ZipFile(building, "w") as opened:
            for at, name in enumerate(names):
                opened.writestr(name, b"P5 4 4 255\n" + at.to_bytes(16) + bytes(file_bytes))
            opened.writestr("annotations.csv", "\n".join(["image,label", *(f"{name},c{name[0]}" for name in names)]))
        building.rename(archive)
    return archive


def report_build(options: argparse.Namespace) -> None:
    pngs, photos = make_fashion_pngs(options.folder, options.idx), make_photos(options.folder, NUM_PHOTOS)
    sets = [(f"{count:,} PNG of 28x28", pngs, count, FASHION_FIT) for count in options.images]
    sets.append((f"{NUM_PHOTOS:,} JPEG photos to 64x64", photos, NUM_PHOTOS, PHOTO_FIT))
    rows, spreads = [], {}
    for title, source, count, fit in sets:
        archive = zip_images(source, options.folder / f"{source.name}-{count}.zip", count)
        starts, limits, usages = measure_build(archive, count, fit, options)
        working = [usage.seconds - start for usage, start in zip(usages, starts, strict=True)]
        spreads[title] = divide(limits, working)
        rows.append([title, *(format_spread([usage.seconds for usage in usages]), format_spread(starts))])
        rows[-1] += [format_spread(limits), format_spread(spreads[title])]
        rows[-1] += [f"{statistics.median(usage.own_peak for usage in usages):,.0f}"]
        rows[-1] += [f"{statistics.median(usage.total_peak for usage in usages):,.0f}"]
    write_report(
        options.out / "growth-build.md",
        title="The build stage by size",
        conditions=[
            f"The whole stage on images in one zip, {options.workers} processes; {options.rounds} rounds: median "
            "(quartiles). The ratio is of decoding and resizing alone to the stage without its imports. Peaks in MB: "
            "resident memory of the stage itself, and proportional of it and its workers."
        ],
        header=["", "s", "its imports s", "decoding and resizing alone s", "ratio", "peak", "with workers"],
        rows=rows,
        spreads=spreads,
        axis="speed of the stage as a ratio to decoding and resizing alone",
    )


def measure_build(
    archive: Path, count: int, fit: FitParams, options: argparse.Namespace
) -> tuple[list[float], list[float], list[Usage]]:
    """Seconds of the stage's imports and of the limit, and what the stage took, in each round."""
    starts, limits, usages = [], [], []
    contents = [content for _, content in read_files(archive, label_images(archive)[0].image)]
    decode = partial(decode_and_fit, "an image", to=fit)
    imports = [sys.executable, "-c", "import runpy; runpy.run_path('stages/build.py')"]
    changes = {"data": {"path": str(archive.resolve())}, "build": fit.model_dump(), "workers": options.workers}
    changes["checks"] = {"policy": {"same_picture": "warn", "two_labels": "warn"}}
    with (
        multiprocessing.get_context("fork").Pool(options.workers, keep_in_worker, (contents, decode)) as pool,
        tempfile.TemporaryDirectory() as folder,
    ):
        project = copy_checkout(Path(folder), changes)
        run_timed(read_command(project, "prepare"), project)
        time_limit(pool, count)
        for _ in range(options.rounds):
            limits.append(time_limit(pool, count))
            usages.append(run_watched(read_command(project, "build"), project))
            starts.append(run_timed(imports, ROOT))
    return starts, limits, usages


def report_copies(options: argparse.Namespace) -> None:
    images = vary(np.asarray(make_fashion(options.folder, options.idx).packed.splits["train"].images))
    rows, spreads = [], {}
    first: list[float] = []
    for count in options.pictures:
        seconds, pairs, recall = measure_search(images[:: max(1, len(images) // count)][:count], options.rounds)
        each = [1e6 * value / count for value in seconds]
        first = first or each
        rows.append([f"{count:,}", format_spread(seconds), format_spread(each, 0), format_spread(divide(each, first))])
        rows[-1] += [f"{pairs:,}", recall]
        spreads[f"{count:,}"] = each
    write_report(
        options.out / "growth-copies.md",
        title="The search for near duplicates by size",
        conditions=[
            "Thumbnails of Fashion-MNIST, upright, mirrored and turned, 5 % of them again with noise, in splits of 8 : "
            f"1 : 1; {options.rounds} rounds: median (quartiles). The index is a grid on the five main axes of all "
            "thumbnails. Recall is of the pairs that a comparison of all with all finds."
        ],
        header=["pictures", "s", "microseconds a picture", "as a ratio to the first", "pairs", "recall"],
        rows=rows,
        spreads=spreads,
        axis="microseconds a picture",
    )


def vary(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "m c h w"]:
    """Four times as many: mirrored and turned ones too, the eight-fold ways of one picture kept apart."""
    turned = images.swapaxes(2, 3)
    mixed = np.stack([images, images[..., ::-1], turned, turned[..., ::-1]], axis=1)
    return mixed.reshape(-1, *images.shape[1:])


def measure_search(images: UInt8[np.ndarray, "n c h w"], rounds: int) -> tuple[list[float], int, str]:
    """Seconds of each round, the number of pairs, and how many of those of brute force are found."""
    chance = np.random.default_rng(0)
    images = images.copy()
    copied = np.arange(0, len(images) - 1, COPIED)
    noise = chance.normal(0, 4, images[copied].shape)
    images[copied + 1] = (images[copied] + noise).clip(0, 255).astype(np.uint8)
    splits = chance.choice(3, len(images), p=[0.8, 0.1, 0.1])
    vectors = normalize(shrink(images))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        parts = [np.stack(part, axis=1) for part in find_close(vectors, splits)]
        seconds.append(time.perf_counter() - start)
    found = {(first, second) for first, second in np.concatenate(parts).tolist()}
    if len(images) > BRUTE_FORCE:
        return seconds, len(found), "not compared"
    expected = search_all(vectors, splits)
    return seconds, len(found), f"{len(found & expected)} of {len(expected)}"


def search_all(vectors: np.ndarray, splits: np.ndarray) -> set[tuple[int, int]]:
    expected: set[tuple[int, int]] = set()
    for at in range(len(vectors)):
        near = np.square(vectors - vectors[at]).sum(axis=1) <= RADIUS**2
        expected.update((at, int(other)) for other in np.flatnonzero(near & (splits < splits[at])))
    return expected


if __name__ == "__main__":
    main()
