"""The exported folder in the hands of someone who has none of our code."""

import csv
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageOps
from pipeline import Reproduced, replace, run

from imclass.data.images import decode_image, fit_image
from imclass.data.packed import open_packed
from imclass.export.card import _quote, _quote_in_cell, _write_call
from imclass.export.parity import Trial
from imclass.export.quantize import INT8, judge_int8
from imclass.params import FitParams
from imclass.serving.model import open_model

PACKAGES = ("onnxruntime", "numpy", "pillow")


@pytest.fixture(scope="module")
def strangers_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has three packages and what they need."""
    folder = tmp_path_factory.mktemp("stranger")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *wanted], check=True)
    return python


@pytest.fixture
def call_program(strangers_python: Path, reproduced: Reproduced, tmp_path: Path) -> Callable[..., list[str]]:
    """`call_program(*files)`: the lines that the card's program prints in `tmp_path`, with the model beside it."""
    exported = reproduced.project / "models/export"
    (program,) = re.findall(r"^```python\n(.*?)^```$", (exported / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "predict.py").write_text(program)
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())

    def call(*files: str) -> list[str]:
        command = [str(strangers_python), "-I", "predict.py", *files]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()

    return call


def test_the_cards_program_gets_the_labels_of_the_whole_test_split(
    call_program: Callable[..., list[str]], strangers_python: Path, reproduced: Reproduced, tmp_path: Path
) -> None:
    with zipfile.ZipFile(reproduced.project / "data/raw/digits.zip") as archive:
        archive.extractall(tmp_path)
    with (reproduced.project / "reports/predictions.csv").open() as file:
        expected = {row["image"]: row["predicted"] for row in csv.DictReader(file)}
    assert {line.split("\t")[0]: line.split("\t")[1] for line in call_program(*expected)} == expected
    listed = subprocess.run([strangers_python, "-c", "import imclass"], capture_output=True, text=True, check=False)
    assert "No module named 'imclass'" in listed.stderr


def test_the_cards_program_reads_pictures_as_build_does(call_program: Callable[..., list[str]], tmp_path: Path) -> None:
    model = open_model(tmp_path / "model.onnx", threads=1)
    levels = np.linspace(0, 255, 17 * 12).reshape(12, 17).astype(np.uint8)
    shape = np.random.default_rng(0).integers(0, 256, (12, 17), np.uint8)
    pictures = {
        "grey.png": Image.fromarray(levels),
        "alpha.png": Image.fromarray(np.dstack([np.zeros((12, 17, 3), np.uint8), shape])),
        "grey alpha.png": Image.fromarray(np.dstack([levels, shape])),
        "deep.png": Image.fromarray(np.arange(12 * 17, dtype=np.uint16).reshape(12, 17) * 321),
        "turned.jpg": Image.fromarray(levels),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, picture in pictures.items():
        picture.save(tmp_path / name, exif=exif if name == "turned.jpg" else None)
    for name, line in zip(pictures, call_program(*pictures), strict=True):
        fitted = fit_image(decode_image(name, (tmp_path / name).read_bytes()), model.fit)
        probabilities = model.predict(fitted[None])[0]
        assert line == f"{name}\t{model.classes[probabilities.argmax()]}\t{probabilities.max():.4f}"


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_cards_call_of_pillow_gives_the_pixels_of_build(
    fit: Literal["crop", "pad", "stretch"], channels: Literal[1, 3]
) -> None:
    to = FitParams(channels=channels, height=9, width=7, fit=fit, background=40)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 31, 3), np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    pixels = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
    found = eval(_write_call(to.model_dump()), {"Image": Image, "ImageOps": ImageOps, "picture": picture})
    np.testing.assert_array_equal(np.atleast_3d(np.asarray(found)).transpose(2, 0, 1), fit_image(pixels, to))


@pytest.mark.parametrize(
    ("name", "code", "cell"),
    [
        ("a|b", "`a|b`", r"`a\|b`"),
        ("a`", "`` a` ``", "`` a` ``"),
        ("``<b>", "``` ``<b> ```", "``` ``<b> ```"),
        ("two\nlines", r"`two\nlines`", r"`two\nlines`"),
    ],
)
def test_names_of_classes_end_no_code_and_no_cell(name: str, code: str, cell: str) -> None:
    assert (_quote(name), _quote_in_cell(name)) == (code, cell)


def test_the_card_tells_what_the_run_left_in_its_files(reproduced: Reproduced) -> None:
    card = (reproduced.project / "models/export/README.md").read_text()
    packed = open_packed(reproduced.project / "data/packed")
    assert packed.fingerprint in card
    assert "- `epochs`: 2\n" in card
    assert "On the 347 images of the test split" in card
    assert "| `3` | 126 | 30 | 27 |" in card
    assert (reproduced.project / "models/export/model.safetensors").read_bytes() == (
        reproduced.project / "models/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("limit", "kept"), [("0.5", True), ("0.0", False)])
def test_an_int8_file_is_kept_only_if_it_loses_little(limit: str, kept: bool, project: Path) -> None:
    replace(project / "params.yaml", "int8_loss: null", f"int8_loss: {limit}")
    output = run(project, "dvc", "repro")
    found = re.search(r"int8: accuracy loss (\S+), changed decisions (\d+), size (\S+), kept (\d)", output)
    assert found
    loss, _, size, told = map(float, found.groups())
    int8 = project / "models/export/model-int8.onnx"
    assert int8.is_file() == bool(told) == (loss <= float(limit))
    assert size < 0.9
    if kept:
        assert int8.is_file()
        assert "model-int8.onnx" in (project / "models/export/README.md").read_text()


def test_an_int8_file_that_loses_more_is_deleted(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1, 1])
    full = Trial(np.eye(2, dtype=np.float32)[labels], 1.0)
    worse = Trial(np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], 1.0)
    for name, size in (("model.onnx", 400), (INT8, 100)):
        (tmp_path / name).write_bytes(bytes(size))
    expected = {"accuracy_loss": 0.25, "changed_decisions": 1, "size": 0.25, "kept": 1}
    assert judge_int8(tmp_path, full, worse, labels, limit=0.25) == expected
    assert (tmp_path / INT8).exists()
    assert judge_int8(tmp_path, full, worse, labels, limit=0.24) == {**expected, "kept": 0}
    assert not (tmp_path / INT8).exists()
