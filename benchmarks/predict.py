"""Image files -> images/s of `imclass predict`, of a PyTorch loop, and of decoding and the model alone.

The limit decodes bytes that are in memory already and runs the exported model, in as many warm processes on one thread
each, and does nothing with the result.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.build import read_options, time_limit
from benchmarks.data import (
    FASHION_FIT,
    PHOTO_FIT,
    make_fashion_pngs,
    make_photos,
    zip_images,
)
from benchmarks.programs import alternate, divide, run_timed
from benchmarks.report import RESULTS, format_spread, write_report
from imclass.data.annotations import label_images
from imclass.data.images import decode_and_fit
from imclass.data.source import read_files
from imclass.export.graph import save_onnx, trace_program
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.modelfile import save_model
from imclass.params import FitParams
from imclass.serving.model import open_model

NETWORK = {"name": "cnn", "widths": [32, 64], "dropout": 0.0}  # of params.yaml; the weights do not matter here
LIMIT, LOOP = "decoding and model alone", "PyTorch loop, DataLoader({})"


def main() -> None:
    report_speed(read_options(__doc__))


def report_speed(options: argparse.Namespace) -> None:
    pngs = make_fashion_pngs(options.folder, options.idx)
    photos = make_photos(options.folder, options.photos)
    sets = {
        f"{options.count:,} PNG of 28x28": (pngs, options.count, FASHION_FIT),
        f"{options.photos:,} JPEG photos to 64x64": (photos, options.photos, PHOTO_FIT),
    }
    rows, spreads = [], {}
    for title, (source, count, fit) in sets.items():
        archive = zip_images(source, options.folder / f"{source.name}-{count}.zip", count)
        seconds, starts = compare_programs(archive, count, fit, options)
        for name, measured in seconds.items():
            of_limit = divide(seconds[LIMIT], measured)
            started = of_limit
            if name in starts:
                started = divide(seconds[LIMIT], np.subtract(measured, starts[name]).tolist())
                spreads[f"{title}: {name}"] = started
            start = format_spread(starts[name]) if name in starts else ""
            rate = format_spread([count / value for value in measured], 0)
            ratios = format_spread(of_limit), format_spread(started)
            rows.append([title, name, rate, start, *ratios])
    write_report(
        options.out or RESULTS / "predict.md",
        title="Prediction",
        conditions=[
            f"Whole programs, {options.workers} processes that decode; {options.rounds} alternating rounds. Start-up: "
            "the same program on one image. Files are in the page cache. Median (quartiles)."
        ],
        header=["", "", "images/s", "start-up, s", "of decoding and model alone", "the same without start-up"],
        rows=rows,
        spreads=spreads,
        axis="images/s without start-up, as a ratio to decoding and model alone",
    )


def compare_programs(
    archive: Path, count: int, fit: FitParams, options: argparse.Namespace
) -> tuple[Mapping[str, list[float]], Mapping[str, list[float]]]:
    """Seconds of each program in each round, for all images and for one."""
    names = label_images(archive)[0].image
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = make_models(folder, fit)
        contents = dict(read_files(archive, names))
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        single = folder / "single" / Path(names[0]).name
        single.parent.mkdir()
        shutil.copyfile(folder / names[0], single)
        kept.update(contents=list(contents.values()), fit=fit, model=models["onnx"])
        programs: dict[str, Callable[[Path], list[str]]] = {
            "imclass predict, onnx": partial(call_imclass, models["onnx"], options.workers),
            "imclass predict, safetensors": partial(call_imclass, models["safetensors"], options.workers),
            LOOP.format(options.workers): partial(call_loop, models["safetensors"], options.workers),
        }
        inputs = dict.fromkeys(programs, folder / "images") | {"imclass predict, onnx, from a zip": archive}
        programs["imclass predict, onnx, from a zip"] = programs["imclass predict, onnx"]
        with multiprocessing.get_context("spawn").Pool(options.workers, keep_in_worker, (dict(kept),)) as pool:
            whole = {
                LIMIT: partial(time_limit, pool, count, work_kept),
                "decoding alone": partial(time_limit, pool, count, decode_kept),
                **{name: partial(run_timed, call(inputs[name]), folder) for name, call in programs.items()},
            }
            first = {name: partial(run_timed, call(single.parent), folder) for name, call in programs.items()}
            alternate(whole, rounds=1)  # reads all files once, so that they are in the page cache
            seconds: dict[str, list[float]] = {name: [] for name in whole}
            starts: dict[str, list[float]] = {name: [] for name in first}
            for _ in range(options.rounds):
                for into, measured in (seconds, alternate(whole, rounds=1)), (starts, alternate(first, rounds=1)):
                    for name, values in measured.items():
                        into[name] += values
    return seconds, starts


def make_models(folder: Path, fit: FitParams) -> dict[str, Path]:
    """The same untrained network, as both kinds of file."""
    half = [0.5] * fit.channels
    config = ModelConfig([str(at) for at in range(10)], fit.model_dump(), half, mirror=False, network=NETWORK, std=half)
    model = build_model(config).eval()
    paths = {kind: folder / f"model.{kind}" for kind in ("onnx", "safetensors")}
    save_onnx(trace_program(model), model, paths["onnx"])
    save_model(model, paths["safetensors"])
    return paths


def call_imclass(model: Path, workers: int, source: Path) -> list[str]:
    code = "from imclass.cli import main; main()"
    arguments = [str(model), str(source.resolve()), "--out", "out.csv", "--workers", str(workers)]
    return [sys.executable, "-c", code, "predict", *arguments]


def call_loop(model: Path, workers: int, source: Path) -> list[str]:
    script = Path(__file__).with_name("torch_predict.py")
    return [sys.executable, str(script), str(model), str(source.resolve()), "out.csv", str(workers)]


def keep_in_worker(values: dict[str, Any]) -> None:
    kept.update(values, opened=open_model(values["model"], threads=1))


def decode_kept(positions: range) -> np.ndarray:
    return np.stack([decode_and_fit("", kept["contents"][at], kept["fit"]) for at in positions])


def work_kept(positions: range) -> None:
    kept["opened"].predict(decode_kept(positions))


kept: dict[str, Any] = {}


if __name__ == "__main__":
    main()
