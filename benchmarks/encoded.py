"""JPEG photos -> images/s of an epoch's shuffled batches at 224 x 224, seconds to the first, and bytes on disk.

The limit decodes and resizes bytes that are in memory already, by imclass's own functions in as many warm processes,
and does nothing with the pixels.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.build import keep_in_worker, time_limit
from benchmarks.data import make_photos, pack
from benchmarks.programs import MEGABYTE, alternate, divide
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.data.augment import plan_views
from imclass.data.images import decode_and_fit
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import Packed, open_packed
from imclass.data.source import list_files, read_files
from imclass.params import FitParams

SIDE = 224
BATCH_SIZE = 64
FIT = FitParams(channels=3, height=SIDE, width=SIDE, fit="crop", background=255)
REST: dict[str, Any] = {"flip": False, "shift": 0, "rotate": 0.0, "color": 0.0, "erase": 0.0}  # nothing is done
FILES_IN_SHARD = 250
LIMIT, OURS = "decoding and resizing alone", "imclass, encoded"

Loader = Callable[[], Iterable[Any]]
Write = Callable[[Path, Path], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).with_name(".data"), help="for what is made once")
    parser.add_argument("--photos", type=int, default=3_000, help="how many photos")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "encoded.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    photos = make_photos(options.folder, options.photos)
    loaders, sizes, missing = list_loaders(photos, options)
    first: dict[str, list[float]] = {name: [] for name in loaders}
    contents = [content for _, content in read_files(photos, list_files(photos))]
    decode = partial(decode_and_fit, "a photo", to=FIT)
    with multiprocessing.get_context("fork").Pool(options.workers, keep_in_worker, (contents, decode)) as pool:
        programs = {LIMIT: partial(time_limit, pool, options.photos)}
        programs |= {name: partial(time_epoch, load, options.photos, first[name]) for name, load in loaders.items()}
        alternate(programs, rounds=1)  # reads all files once, so that they are in the page cache
        for seconds_to_first in first.values():
            seconds_to_first.clear()
        seconds = alternate(programs, rounds=options.rounds)
    report(seconds, first, sizes, missing, options)


def report(
    seconds: dict[str, list[float]],
    first: dict[str, list[float]],
    sizes: dict[str, int],
    missing: list[str],
    options: argparse.Namespace,
) -> None:
    rows, spreads = [], {}
    for name, measured in seconds.items():
        of_limit = divide(seconds[LIMIT], measured)
        rates = [options.photos / value for value in measured]
        row = [name, format_spread(rates, 0), format_spread(of_limit), format_spread(divide(measured, seconds[OURS]))]
        if name == LIMIT:
            row += ["", ""]
        else:
            row += [f"{statistics.median(first[name]):.2f}", f"{sizes[name] / MEGABYTE:,.0f}"]
            spreads[name] = of_limit
        rows.append(row)
    left_out = f" Not installed, left out: {', '.join(missing)}." if missing else ""
    write_report(
        options.out,
        title="Training batches from encoded photos",
        conditions=[
            f"{options.photos:,} JPEG photos of 240 to 500 pixels a side to {SIDE} x {SIDE}, shuffled, batches of "
            f"{BATCH_SIZE}; whole epochs with nothing done to the batches, {options.workers} processes, their start "
            f"counted but for the limit; {options.rounds} alternating rounds. Files are in the page cache. Median "
            f"(quartiles).{left_out}"
        ],
        header=["", "images/s", "of decoding alone", "imclass is faster by", "s to the first batch", "MB on disk"],
        rows=rows,
        spreads=spreads,
        axis="images/s as a ratio to decoding and resizing alone",
    )


def time_epoch(load: Loader, count: int, first: list[float]) -> float:
    """Seconds of all batches, from before the loader is made; those to the first are added to `first`."""
    start = time.perf_counter()
    seen = 0
    for batch in load():
        if not seen:
            first.append(time.perf_counter() - start)
        seen += len(batch[0])
    taken = time.perf_counter() - start
    assert count - BATCH_SIZE < seen <= count, f"expected {count} images, found {seen}"
    return taken * count / seen  # timm leaves out what is less than a batch


def list_loaders(photos: Path, options: argparse.Namespace) -> tuple[dict[str, Loader], dict[str, int], list[str]]:
    """What makes the batches of an epoch and how many bytes it reads them from; packages that are not installed."""
    folder, workers = options.folder, options.workers
    raw, encoded = (folder / f"{photos.name}-{SIDE}-{store}" for store in ("raw", "encoded"))
    pack(photos, raw, FIT, workers=workers)
    pack(photos, encoded, FIT, workers=workers, store="encoded")
    loaders: dict[str, Loader] = {
        OURS: partial(load_ours, encoded, workers, crop=1.0),
        "imclass, encoded, parts cut out (crop 0.3)": partial(load_ours, encoded, workers, crop=0.3),
        "imclass, raw": partial(load_ours, raw, workers, crop=1.0),
        f"ImageFolder, DataLoader({workers})": partial(load_folder, photos, workers),
    }
    sizes = dict(zip(loaders, map(measure_folder, (encoded, encoded, raw, photos)), strict=True))
    peers: dict[str, tuple[str, Path, Write | None, Callable[[Path, int], Iterable[Any]]]] = {
        "timm": (f"timm create_loader({workers})", photos, None, load_by_timm),
        "webdataset": (f"WebDataset, WebLoader({workers})", folder / f"{photos.name}-tars", write_tars, load_tars),
        "streaming": (f"MosaicML Streaming, DataLoader({workers})", folder / f"{photos.name}-mds", write_mds, load_mds),
    }
    for package, (name, place, write, load) in peers.items():
        if find_spec(package):
            if write is not None and not place.is_dir():
                building = place.with_suffix(".building")
                write(photos, building)
                building.rename(place)
            loaders[name], sizes[name] = partial(load, place, workers), measure_folder(place)
    return loaders, sizes, [package for package in peers if not find_spec(package)]


def measure_folder(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def load_ours(folder: Path, workers: int, *, crop: float) -> Iterable[Any]:
    packed: Packed = open_packed(folder, workers=workers)
    split = packed.splits["train"]
    augment, cut = plan_views(split.images, crop=crop, **REST)
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=BATCH_SIZE,
        augment=augment,
        seed=0,
        device=torch.device("cpu"),
        cut=cut,
    )
    return load_batches(dataset)


def make_transform() -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(SIDE), v2.CenterCrop(SIDE), v2.PILToTensor()])


def load_folder(photos: Path, workers: int) -> Iterable[Any]:
    from torchvision.datasets import ImageFolder

    return DataLoader(
        ImageFolder(str(photos), make_transform()), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers
    )


def load_by_timm(photos: Path, workers: int) -> Iterable[Any]:
    """Its own transforms without augmentation, to normalised floats."""
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=str(photos)),
        input_size=(3, SIDE, SIDE),
        batch_size=BATCH_SIZE,
        is_training=True,
        no_aug=True,
        num_workers=workers,
        device=torch.device("cpu"),
        use_prefetcher=False,
        persistent_workers=False,
    )


def list_photos(photos: Path) -> list[tuple[Path, int]]:
    """Files and labels, the classes in turn."""
    paths = sorted(photos.rglob("*.jpg"), key=lambda path: path.name)
    return [(path, int(path.parent.name[-1])) for path in paths]


def write_tars(photos: Path, folder: Path) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=FILES_IN_SHARD, verbose=0) as writer:
        for path, label in list_photos(photos):
            writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": label})


def load_tars(folder: Path, workers: int) -> Iterable[Any]:
    import webdataset

    tars = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars)).shuffle(1_000).decode("pil").to_tuple("jpg", "cls")
    dataset = dataset.map_tuple(make_transform(), None).batched(BATCH_SIZE)
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)


def write_mds(photos: Path, folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as writer:
        for path, label in list_photos(photos):
            writer.write({"image": path.read_bytes(), "label": label})


def load_mds(folder: Path, workers: int) -> Iterable[Any]:
    import io

    from PIL import Image
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    transform = make_transform()

    class Photos(StreamingDataset):
        def __getitem__(self, at: int) -> tuple[Any, int]:
            found = super().__getitem__(at)
            return transform(Image.open(io.BytesIO(found["image"])).convert("RGB")), found["label"]

    clean_stale_shared_memory()
    return DataLoader(Photos(local=str(folder), shuffle=True, batch_size=BATCH_SIZE), BATCH_SIZE, num_workers=workers)


if __name__ == "__main__":
    main()
