"""model.safetensors + image files -> ONNX, torch.export program, model card, and the proof that all predict alike."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.packed import open_packed, read_names
from imclass.device import describe_device, make_deterministic
from imclass.export.card import write_card
from imclass.export.graph import save_onnx, save_program, trace_program
from imclass.export.parity import (
    check_parity,
    compare,
    open_onnx,
    open_program,
    read_split_files,
    try_on_files,
    try_on_packed,
)
from imclass.export.quantize import judge_int8, save_int8
from imclass.files import write_text, write_whole
from imclass.models.modelfile import load_model
from imclass.params import Params
from imclass.stage import run


def export(
    params: Params,
    source: Path,
    packed_folder: Path,
    model_file: Path,
    metrics: Path,
    data: Path,
    folder: Path,
    parity_file: Path,
) -> dict[str, object]:
    make_deterministic(params.threads)
    packed = open_packed(packed_folder)
    model = load_model(model_file)
    program = trace_program(model)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        save_onnx(program, model, temporary / "model.onnx")
        save_program(program, model, temporary / "model.pt2")
        shutil.copyfile(model_file, temporary / "model.safetensors")
        runs = {
            "onnx": open_onnx(temporary / "model.onnx", threads=params.threads),
            "program": open_program(temporary / "model.pt2"),
        }
        if params.export.int8_loss is not None:
            int8 = save_int8(temporary, model, packed.splits["val"].images)
            runs["int8"] = open_onnx(int8, threads=params.threads)
        files = read_split_files(source, packed, "test")
        trials = try_on_files(runs, files, read_names(packed, "test"), background=model.config.fit["background"])
        trials["model"] = try_on_packed(model, packed.splits["test"].images)
        parities = {name: compare(trials["model"], trials[name]) for name in ("onnx", "program")}
        check_parity(parities, tolerance=params.export.tolerance)
        found = {name: asdict(parity) for name, parity in parities.items()}
        if params.export.int8_loss is not None:
            labels = packed.splits["test"].labels
            found["int8"] = judge_int8(temporary, trials["onnx"], trials["int8"], labels, limit=params.export.int8_loss)
        reports = {path.stem: json.loads(path.read_text("utf-8")) for path in (metrics, data)}
        write_card(temporary / "README.md", model, found, **reports)
    write_text(parity_file, json.dumps(found, indent=2) + "\n")
    images = len(packed.splits["test"].labels)
    speeds = {f"{name}_images_per_second": round(images / trial.seconds, 1) for name, trial in trials.items()}
    for name, parity in found.items():
        told = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in parity.items())
        print(f"{name}: {told}; {speeds[f'{name}_images_per_second']:,.0f} images/s, with resizing")
    return {"images": images, **speeds, **describe_device(torch.device("cpu"))}


if __name__ == "__main__":
    run(export)
