"""The real stages over one source, once with a raw set and once with an encoded one, give the same bytes."""

import csv
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encode_picture
from PIL import Image

from imclass.data import encoded
from imclass.data.packed import open_packed
from imclass.params import Params, load_params
from imclass.tensors import read_tensors

ROOT = Path(__file__).parents[1]
DROPPED = ["unreadable", "repeated_file", "two_labels", "same_picture", "near_duplicate", "small"]
REPORTS = ["history", "findings", "sizes", "classes", "predictions", "reliability"]


def load_stage(name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(name, ROOT / "stages" / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "tqdm" in vars(module):
        vars(module)["tqdm"] = lambda files, *_, **__: files  # the type checker would take the first file out of a tqdm
    stage: Callable[..., Any] = getattr(module, name)
    return stage


def draw(seed: int, size: tuple[int, int]) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def write_source(folder: Path) -> Path:
    """120 pictures of two classes, of which some are copies in other splits or under other labels, small or damaged."""
    rows = []
    for at in range(120):
        png = at % 3 == 0
        name, picture = f"{at:03}.{'png' if png else 'jpg'}", draw(at, (40 + at % 7, 52 - at % 5))
        content = encode_picture(picture, "PNG") if png else encode_picture(picture, "JPEG", quality=90)
        rows.append((name, "ab"[at % 2], "test" if at % 6 == 5 else "val" if at % 6 == 4 else "train"))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for copy, of in ("001.jpg", "005.jpg"), ("002.jpg", "007.jpg"), ("012.png", "015.png"):
        shutil.copy(folder / of, folder / copy)
    (folder / "003.png").write_bytes(encode_picture(draw(11, (44, 51)), "PNG"))  # nearly 011.jpg, in test
    (folder / "008.jpg").write_bytes((folder / "008.jpg").read_bytes()[:400])
    (folder / "006.png").write_bytes(encode_picture(draw(500, (3, 3)), "PNG"))
    with (folder / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "split"), *rows])
    return folder


def make_params(store: str, crop: float) -> Params:
    values = load_params(ROOT / "params.yaml").model_dump()
    values |= {"epochs": 2, "batch_size": 16, "workers": 2, "device": "cpu"}
    values["build"] |= {"channels": 3, "height": 16, "width": 20, "store": store}
    values["checks"] |= {"smallest_side": 8, "policy": values["checks"]["policy"] | dict.fromkeys(DROPPED, "drop")}
    values["augment"] |= {"flip": True, "crop": crop, "color": 0.2, "mix": "cutmix"}
    values["model"] |= {"name": "mlp"}
    return Params.model_validate(values)


def reproduce(source: Path, out: Path, params: Params) -> None:
    reports = {name: out / f"{name}.csv" for name in (*REPORTS, "before", "annotations", "accepted")}
    packed, model = out / "packed", out / "model.safetensors"
    PREPARE(params, source, reports["annotations"], reports["before"])
    found = reports["findings"], reports["sizes"]
    BUILD(params, source, reports["annotations"], reports["before"], packed, *found, out / "data.json")
    TRAIN(params, packed, out / "weights", model, reports["history"])
    shutil.copy(ROOT / "reports" / "accepted.csv", out)
    tables = reports["classes"], reports["predictions"], reports["reliability"]
    figures = (out / "metrics.json", *tables, out / "report.html", out / "summary.png")
    EVALUATE(params, packed, model, reports["history"], *found, reports["accepted"], *figures)


PREPARE, BUILD, TRAIN, EVALUATE = map(load_stage, ("prepare", "build", "train", "evaluate"))


@pytest.mark.parametrize("worth", [0, 2**40], ids=["workers", "this process"])
def test_both_stores_give_the_same_model_findings_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoded, "WORTH_WORKERS", worth)
    source = write_source(tmp_path / "source")
    for store in "raw", "encoded":
        (tmp_path / store).mkdir()
        reproduce(source, tmp_path / store, make_params(store, crop=1.0))
    names = {path.name for path in (tmp_path / "raw").iterdir()} - {"packed", "model.safetensors", "report.html"}
    assert {f"{name}.csv" for name in REPORTS} | {"metrics.json", "data.json", "summary.png"} <= names
    for name in names:
        assert (tmp_path / "raw" / name).read_bytes() == (tmp_path / "encoded" / name).read_bytes(), name
    with (tmp_path / "raw" / "findings.csv").open(newline="") as file:
        found = {row["kind"] for row in csv.DictReader(file)}
    assert found >= {"unreadable", "two_labels", "same_picture", "near_duplicate", "small"}
    (ours, record), (theirs, their_record) = (
        read_tensors(tmp_path / store / "model.safetensors") for store in ("encoded", "raw")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    data = [meta["config"]["trained"].pop("data") for meta in (record, their_record)]
    assert data == [open_packed(tmp_path / store / "packed").fingerprint for store in ("encoded", "raw")]
    assert record == their_record  # but for the name of the data


def test_training_on_parts_of_the_full_pictures_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, histories = write_source(tmp_path / "source"), []
    for store in "raw", "encoded":
        (tmp_path / store).mkdir()
        reproduce(source, tmp_path / store, make_params(store, crop=0.4))
        histories.append((tmp_path / store / "history.csv").read_bytes())
    assert histories[0] != histories[1]
