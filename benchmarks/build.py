"""Image files -> images/s of imclass's decoding, of a DataLoader with workers, and of decoding alone.

The limit decodes bytes that are in memory already, in as many warm processes, and does nothing with the pixels.
"""

import argparse
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import (
    FASHION_FIT,
    PHOTO_FIT,
    add_data_options,
    hash_files,
    list_images,
    make_fashion_pngs,
    make_photos,
    zip_images,
)
from benchmarks.programs import alternate, divide, run
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.data.annotations import label_images
from imclass.data.source import read_files
from imclass.data.workers import CHUNK_FILES
from imclass.params import FitParams

SMALL = 500  # below imclass's threshold for worker processes
LIMIT, OURS = "decoding alone", "imclass, from a zip"


def main() -> None:
    report_speed(read_options(__doc__))


def read_options(about: str | None) -> argparse.Namespace:
    """What a comparison of programs that decode images asks for."""
    parser = argparse.ArgumentParser(description=about)
    add_data_options(parser)
    parser.add_argument("--count", type=int, default=60_000, help="how many of the PNG files")
    parser.add_argument("--photos", type=int, default=5_000, help="how many photos")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="Markdown file; the plot is put beside it")
    return parser.parse_args()


def report_speed(options: argparse.Namespace) -> None:
    pngs = make_fashion_pngs(options.folder, options.idx)
    photos = make_photos(options.folder, options.photos)
    sets: dict[str, tuple[Path, int, FitParams, Callable[[bytes], Any]]] = {
        f"{options.count:,} PNG of 28x28": (pngs, options.count, FASHION_FIT, decode_png),
        f"{options.photos:,} JPEG photos to 64x64": (photos, options.photos, PHOTO_FIT, decode_jpeg),
        f"{SMALL} PNG of 28x28": (pngs, SMALL, FASHION_FIT, decode_png),
    }
    rows, spreads = [], {}
    for title, (source, count, fit, decode) in sets.items():
        archive = zip_images(source, options.folder / f"{source.name}-{count}.zip", count)
        seconds = compare_readers(source, archive, count, fit, decode, options)
        for name, measured in seconds.items():
            of_limit, faster_by = divide(seconds[LIMIT], measured), divide(measured, seconds[OURS])
            rates = [count / value for value in measured]
            if name != LIMIT:
                spreads[f"{title}: {name}"] = of_limit
            rows.append([title, name, format_spread(rates, 0), format_spread(of_limit), format_spread(faster_by)])
    write_report(
        options.out or RESULTS / "build.md",
        title="Decoding",
        conditions=[
            f"Whole passes, {options.workers} processes, their start counted but for the limit; {options.rounds} "
            "alternating rounds. Files are in the page cache. Median (quartiles)."
        ],
        header=["", "", "images/s", "of decoding alone", "imclass is faster by"],
        rows=rows,
        spreads=spreads,
        axis="images/s as a ratio to decoding alone",
    )


def compare_readers(
    source: Path,
    archive: Path,
    count: int,
    fit: FitParams,
    decode: Callable[[bytes], Any],
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Seconds for all images, of each way of reading them, in each round."""
    folder_names = [name for name, _ in list_images(source, count)]
    zip_names = list(label_images(archive)[0].image)
    contents = [content for _, content in read_files(source, folder_names)]
    with (
        multiprocessing.get_context("fork").Pool(options.workers, keep_in_worker, (contents, decode)) as pool,
        tempfile.TemporaryDirectory() as temporary,
    ):
        hashes = Path(temporary, "folder.json"), Path(temporary, "zip.json")
        hashes[0].write_text(json.dumps(hash_files(source, folder_names)))
        hashes[1].write_text(json.dumps(hash_files(archive, zip_names)))
        programs = {
            LIMIT: partial(time_limit, pool, count),
            OURS: partial(time_imclass, archive, hashes[1], fit, options.workers),
            "imclass, from a folder": partial(time_imclass, source, hashes[0], fit, options.workers),
            f"decode_image in a DataLoader({options.workers})": partial(
                time_loader, source, folder_names, fit, options.workers
            ),
        }
        if count == SMALL:
            programs["decode_image in a DataLoader(0)"] = partial(time_loader, source, folder_names, fit, 0)
        alternate(programs, rounds=1)  # reads all files once, so that they are in the page cache
        return alternate(programs, rounds=options.rounds)


def time_imclass(source: Path, hashes: Path, fit: FitParams, workers: int) -> float:
    arguments = [str(source.resolve()), str(hashes), fit.model_dump_json(), str(workers)]
    return float(run([sys.executable, str(Path(__file__).with_name("decode_pass.py")), *arguments], hashes.parent))


def time_loader(folder: Path, names: Sequence[str], fit: FitParams, workers: int) -> float:
    from benchmarks.image_files import ImageFiles

    images = ImageFiles([str(folder / name) for name in names], fit.channels, fit.height)
    return time_pass(DataLoader(images, batch_size=CHUNK_FILES, num_workers=workers))


def time_limit(pool: Any, count: int, work: Callable[[range], Any] | None = None) -> float:
    """Seconds in which the workers do the work (decode_kept) on positions of all that they keep."""
    ranges = [range(start, min(start + CHUNK_FILES, count)) for start in range(0, count, CHUNK_FILES)]
    return time_pass(pool.imap_unordered(work or decode_kept, ranges))


def keep_in_worker(contents: list[bytes], decode: Callable[[bytes], Any]) -> None:
    """A forked worker finds the bytes in its memory; they are never sent to it."""
    kept.update(contents=contents, decode=decode)


def decode_kept(positions: range) -> None:
    for at in positions:
        kept["decode"](kept["contents"][at])


kept: dict[str, Any] = {}


def decode_png(content: bytes) -> None:
    Image.open(io.BytesIO(content)).load()


def decode_jpeg(content: bytes) -> None:
    simplejpeg.decode_jpeg(content)


def time_pass(chunks: Iterable[Any]) -> float:
    start = time.perf_counter()
    for _ in chunks:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
