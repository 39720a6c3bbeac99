import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imclass.export.graph import save_onnx, save_program, trace_program
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.modelfile import save_model
from imclass.team.deviation import measure_deviation

CONFIG = ModelConfig(
    classes=["a", "b"],
    fit={"channels": 1, "height": 4, "width": 4, "fit": "crop", "background": 255},
    mean=[0.5],
    mirror=False,
    network={"name": "mlp", "hidden": [], "dropout": 0.0},
    std=[0.5],
)


@pytest.mark.parametrize(
    ("suffix", "one", "other", "expected"),
    [
        (".json", '{"loss": 0.5, "n": [1, 2]}', '{"n": [1, 2], "loss": 0.25}', 0.25),
        (".json", '{"loss": 0.5}', '{"loss": NaN}', math.inf),
        (".json", '{"loss": NaN}', '{ "loss": NaN}', 0.0),
        (".json", '{"loss": 0.5}', '{"lost": 0.5}', math.inf),
        (".json", '{"loss": true}', '{"loss": 1}', math.inf),
        (".csv", "image,p\na,0.5\nb,1e-3\n", "image,p\na,0.5\nb,2e-3\n", 1e-3),
        (".csv", "image,p\na,0.5\n", "image,p\nb,0.5\n", math.inf),
        (".csv", "label\n007\n", "label\n7\n", math.inf),
        (".csv", "p\n0.5\n", "p\n0.5\n0.5\n", math.inf),
        (".png", "same", "same", 0.0),
        (".png", "1.0", "1.1", math.inf),
    ],
)
def test_text(suffix: str, one: str, other: str, expected: float, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "other")]
    for path, text in zip(paths, (one, other), strict=True):
        path.write_text(text)
    assert measure_deviation(*paths) == pytest.approx(expected, abs=1e-12)


def test_arrays_and_folders(tmp_path: Path) -> None:
    ramp = np.arange(5000, dtype=np.float32).reshape(2500, 2)
    for name, array in ("one", ramp), ("other", ramp + np.float32(0.5) * (ramp == 4999)), ("short", ramp[1:]):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "ramp.npy", array)
    assert measure_deviation(tmp_path / "one", tmp_path / "one") == 0
    assert measure_deviation(tmp_path / "one", tmp_path / "other") == 0.5
    assert measure_deviation(tmp_path / "one", tmp_path / "short") == math.inf
    (tmp_path / "other" / "more").touch()
    assert measure_deviation(tmp_path / "one", tmp_path / "other") == math.inf


def test_models_and_their_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    writers: dict[str, Callable[[Path], object]] = {
        "model.safetensors": lambda path: save_model(model, path),
        "model.onnx": lambda path: save_onnx(trace_program(model), model, path),
        "model.pt2": lambda path: save_program(trace_program(model), model, path),
    }
    for folder in "one", "other":
        for name, write in writers.items():
            write(tmp_path / folder / name)
        with torch.no_grad():
            next(model.parameters())[0, 0] += 2**-10
    for name in writers:
        difference = measure_deviation(tmp_path / "one" / name, tmp_path / "other" / name)
        if name == "model.safetensors":
            assert difference == pytest.approx(2**-10, rel=1e-3)
        else:
            assert 0 < difference < 2**-10  # of probabilities
