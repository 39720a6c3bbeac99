import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from imclass.data.images import fit_image
from imclass.errors import InputError
from imclass.evaluation.saliency import compute_saliency
from imclass.export.graph import save_onnx, save_program, trace_program
from imclass.export.parity import Parity, Run, Trial, check_parity, compare, open_onnx, open_program
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.params import FitParams

LIBRARY = Path(__file__).parents[2] / "src"
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [16], "dropout": 0.2},
    "cnn": {"name": "cnn", "widths": [8], "dropout": 0.2},
    "resnet": {"name": "resnet", "widths": [8, 16], "blocks": 1},
    **{name: {"name": name} for name in ("resnet18", "mobilenet_v3_small")},
}


def make_model(
    network: str, *, channels: int = 1, side: int = 8, mirror: bool = False, fit: str = "crop"
) -> Classifier:
    torch.manual_seed(0)
    shape = {"channels": channels, "height": side, "width": side, "fit": fit, "background": 255}
    config = ModelConfig(["a", "b", "né"], shape, [0.5] * channels, mirror, NETWORKS[network], [0.25] * channels, 0.5)
    return build_model(config).eval()


@pytest.fixture(params=[("mlp", 1, False), ("cnn", 3, True)], ids=["mlp", "cnn"])
def model(request: pytest.FixtureRequest) -> Classifier:
    network, channels, mirror = request.param
    return make_model(network, channels=channels, mirror=mirror)


def make_images(model: Classifier, count: int) -> np.ndarray:
    shape = (count, *(model.config.fit[key] for key in ("channels", "height", "width")))
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def predict(model: Classifier, images: np.ndarray) -> np.ndarray:
    return model.predict_probabilities(torch.from_numpy(images)).detach().numpy()


def save_both(model: Classifier, folder: Path) -> tuple[Run, Run]:
    program = trace_program(model)
    save_onnx(program, model, folder / "m.onnx")
    save_program(program, model, folder / "m.pt2")
    return open_onnx(folder / "m.onnx", threads=1), open_program(folder / "m.pt2")


def test_both_files_give_the_models_probabilities_for_any_number_of_images(model: Classifier, tmp_path: Path) -> None:
    for run in save_both(model, tmp_path):
        for count in 1, 7, 300:
            images = make_images(model, count)
            np.testing.assert_allclose(run(images.transpose(0, 2, 3, 1)), predict(model, images), atol=1e-6)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_files_take_pictures_of_any_size_grey_or_rgb_as_build_does(
    channels: int, fit: str, tmp_path: Path
) -> None:
    model = make_model("mlp", channels=channels, fit=fit)
    to = FitParams(**model.config.fit)
    runs = save_both(model, tmp_path)
    for height, width in (1, 1), (8, 8), (30, 20), (7, 90), (200, 9), (300, 451):
        for depth in 1, 3:
            pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, depth), np.uint8)
            fitted = np.stack([fit_image(picture.transpose(2, 0, 1), to) for picture in pictures])
            for run in runs:
                np.testing.assert_allclose(run(pictures), predict(model, fitted), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("ignore")
def test_pictures_of_other_channels_are_refused_by_both(channels: int, tmp_path: Path) -> None:
    for run in save_both(make_model("mlp", channels=channels), tmp_path):
        for depth in 2, 4, 5:
            with pytest.raises(Exception, match="(?i)out of|guard|channels"):
                run(np.zeros((1, 8, 8, depth), np.uint8))


@pytest.mark.parametrize("network", ["resnet", "resnet18", "mobilenet_v3_small"])
def test_deep_networks_are_exported_and_explained(network: str, tmp_path: Path) -> None:
    model = make_model(network, channels=3, side=32)
    images = make_images(model, 3)
    for run in save_both(model, tmp_path):
        np.testing.assert_allclose(run(images.transpose(0, 2, 3, 1)), predict(model, images), atol=1e-5)
    assert 0 < compute_saliency(model, images, np.array([0, 1, 2])).mean() < 1


def test_metadata_tells_classes_and_input(tmp_path: Path) -> None:
    model = make_model("mlp")
    program = trace_program(model)
    save_onnx(program, model, tmp_path / "m.onnx")
    save_program(program, model, tmp_path / "m.pt2")
    proto = onnx.load(tmp_path / "m.onnx")
    assert [entry.key for entry in proto.metadata_props] == ["imclass", "sha256"]
    extra = {"imclass": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    expected = {"classes": model.config.classes, "fit": model.config.fit}
    assert json.loads(proto.metadata_props[0].value) == json.loads(extra["imclass"]) == expected


def test_onnx_takes_uint8_and_holds_its_weights(tmp_path: Path) -> None:
    model = make_model("cnn")
    save_onnx(trace_program(model), model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


SCRIPT = """
import sys
from pathlib import Path
from typing import Any
import torch
from imclass.export.graph import save_onnx, save_program, trace_program
from imclass.models.classifier import ModelConfig, build_model
torch.manual_seed(0)
fit = {"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255}
model = build_model(ModelConfig(["a", "b"], fit, [0.5], False, {"name": "cnn", "widths": [8], "dropout": 0.0}, [0.25]))
program = trace_program(model)
save_onnx(program, model, Path(sys.argv[1], "m.onnx"))
save_program(program, model, Path(sys.argv[1], "m.pt2"))
"""


def test_bytes_do_not_depend_on_the_place_of_the_checkout(tmp_path: Path) -> None:
    contents = []
    for name in "a", "a longer name":
        library = tmp_path / name / "src"
        shutil.copytree(LIBRARY, library)
        subprocess.run(
            [sys.executable, "-c", SCRIPT, library.parent], env={**os.environ, "PYTHONPATH": str(library)}, check=True
        )
        contents.append([(library.parent / file).read_bytes() for file in ("m.onnx", "m.pt2")])
    assert contents[0] == contents[1]
    assert not any(b".py" in content for content in contents[0])


def test_comparison_counts_changed_decisions() -> None:
    expected = Trial(np.array([[0.6, 0.4], [0.3, 0.7]], np.float32), 1.0)
    found = Trial(np.array([[0.4, 0.6], [0.3, 0.7]], np.float32), 1.0)
    parity = compare(expected, found)
    assert parity.largest_difference == pytest.approx(0.2)
    assert parity.changed_decisions == 1


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_a_difference_beyond_the_tolerance_fails(difference: float) -> None:
    with pytest.raises(InputError, match=r"onnx: expected probabilities within 0\.001 of the model's"):
        check_parity({"onnx": Parity(difference, 0)}, tolerance=0.001)
    check_parity({"onnx": Parity(0.001, 0)}, tolerance=0.001)
