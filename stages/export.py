"""model.safetensors + packed set -> ONNX, a torch.export program, and the proof that both predict alike."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.packed import open_packed
from imclass.device import make_deterministic
from imclass.export.graph import save_onnx, save_program, trace_program
from imclass.export.parity import check_parity, compare, run_onnx, run_program
from imclass.files import write_text, write_whole
from imclass.models.inference import compute_logits
from imclass.models.modelfile import load_model
from imclass.params import Params
from imclass.stage import run


def export(params: Params, packed: Path, model_file: Path, folder: Path, parity_file: Path) -> None:
    make_deterministic(params.threads)
    images = open_packed(packed).splits["test"].images
    model = load_model(model_file)
    expected = torch.softmax(compute_logits(model, images) / model.config.temperature, dim=1).numpy()
    program = trace_program(model)
    with write_whole(folder) as temporary:
        temporary.mkdir()
        save_onnx(program, model, temporary / "model.onnx")
        save_program(program, model, temporary / "model.pt2")
        found = {
            "onnx": run_onnx(temporary / "model.onnx", images, threads=params.threads),
            "program": run_program(temporary / "model.pt2", images),
        }
        parities = {name: compare(expected, probabilities) for name, probabilities in found.items()}
        check_parity(parities, tolerance=params.export.tolerance)
    write_text(parity_file, json.dumps({name: asdict(parity) for name, parity in parities.items()}, indent=2) + "\n")
    for name, parity in parities.items():
        print(
            f"{name}: largest difference {parity.largest_difference:.2g}, {parity.changed_decisions} changed decisions"
        )


if __name__ == "__main__":
    run(export)
