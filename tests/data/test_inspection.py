"""The stages prepare and build on planted faults: each kind is found, and its clean twin is not."""

import csv
import importlib.util
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.fuzz import FUZZED, make_case, meet, mutate, pack_zip
from imclass.data.findings import read_findings
from imclass.data.packed import open_packed, read_names
from imclass.data.sizes import read_sizes
from imclass.errors import InputError
from imclass.params import Params, load_params

ROOT = Path(__file__).parents[2]
SPLITS = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
Files = dict[str, bytes]
Rows = list[tuple[str, str, str, str]]  # image, label, split, group
Found = list[tuple[str, str]]  # kind and file


def load_stage(name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(name, ROOT / "stages" / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["tqdm"] = lambda files, *_, **__: files  # the type checker would take the first file out of a tqdm
    stage: Callable[..., Any] = getattr(module, name)
    return stage


PREPARE, BUILD = load_stage("prepare"), load_stage("build")
COMMITTED = load_params(ROOT / "params.yaml").model_dump()


def make_params(policy: dict[str, str], **checks: int) -> Params:
    changed = {**COMMITTED["checks"], **checks, "policy": {**COMMITTED["checks"]["policy"], **policy}}
    build = {**COMMITTED["build"], "height": 32, "width": 32}
    return Params.model_validate({**COMMITTED, "checks": changed, "build": build, "workers": 1})


def run(source: Path, out: Path, params: Params) -> None:
    PREPARE(params, source, out / "annotations.csv", out / "before.csv")
    BUILD(
        params,
        source,
        out / "annotations.csv",
        out / "before.csv",
        out / "packed",
        out / "findings.csv",
        out / "sizes.csv",
        out / "data.json",
    )


def read_found(path: Path) -> Found:
    with path.open(newline="") as file:
        return sorted((row["kind"], row["file"]) for row in csv.DictReader(file))


def draw(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A picture of large structures, of another scene for each seed."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def save(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def make_set() -> tuple[Files, Rows]:
    """Two classes of twelve pictures in three splits, each picture with a group of its own split."""
    names = [f"{label}/{at:02}.png" for label in ("cat", "dog") for at in range(12)]
    files = {name: save(draw(at)) for at, name in enumerate(names)}
    return files, [(name, name[:3], SPLITS[at % 12], f"{SPLITS[at % 12]} {at // 2}") for at, name in enumerate(names)]


def write(folder: Path, files: Files, rows: Rows) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with (folder / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "split", "group"), *rows])
    return folder


def change_row(rows: Rows, changed: str, /, **values: str) -> Rows:
    names = ("image", "label", "split", "group")
    return [
        tuple(values.get(name, value) for name, value in zip(names, row, strict=True)) if row[0] == changed else row  # type: ignore[misc]
        for row in rows
    ]


Plant = Callable[[Files, Rows], tuple[Files, Rows]]
TRAIN, VAL, TEST = "cat/00.png", "cat/06.png", "cat/09.png"


def replace_by(content: Callable[[], bytes], name: str = TRAIN) -> Plant:
    return lambda files, rows: ({**files, name: content()}, rows)


def add(name: str, content: Callable[[], bytes] = lambda: save(draw(99))) -> Plant:
    return lambda files, rows: ({**files, name: content()}, rows)


def rename(new: str, content: Callable[[], bytes]) -> Plant:
    def plant(files: Files, rows: Rows) -> tuple[Files, Rows]:
        others = {name: old for name, old in files.items() if name != TRAIN}
        return {**others, new: content()}, change_row(rows, TRAIN, image=new)

    return plant


def change(name: str, /, **values: str) -> Plant:
    return lambda files, rows: (files, change_row(rows, name, **values))


def call_formula(files: Files, rows: Rows) -> tuple[Files, Rows]:
    return files, [(image, label.replace("cat", "=cat"), split, group) for image, label, split, group in rows]


def animate() -> bytes:
    return save(draw(1), "GIF", save_all=True, append_images=[draw(2)])


# kind, its policy in params.yaml, what is planted, the file that is named
PLANTED: list[tuple[str, str, Plant, str]] = [
    ("missing_file", "fail", lambda files, rows: ({k: v for k, v in files.items() if k != TRAIN}, rows), TRAIN),
    ("missing_file", "fail", change(TRAIN, image="../secret.png"), "../secret.png"),
    ("no_label", "fail", change(TRAIN, label=""), TRAIN),
    ("repeated_file", "fail", lambda files, rows: (files, [*rows, rows[0]]), TRAIN),
    ("unreadable", "fail", replace_by(lambda: b""), TRAIN),
    ("unreadable", "fail", replace_by(lambda: save(draw(0))[:-40]), TRAIN),
    ("unreadable", "fail", replace_by(lambda: save(draw(0), "JPEG")[:-200] + b"\xff\xd9"), TRAIN),
    ("unreadable", "fail", replace_by(animate), TRAIN),
    ("unreadable", "fail", replace_by(lambda: b"P5 100000 100000 255\n"), TRAIN),
    ("two_labels", "fail", replace_by(lambda: save(draw(12)), TRAIN), TRAIN),
    ("twin_labels", "fail", lambda files, rows: (files, change_row(rows, TRAIN, label="Cat")), ""),
    ("same_picture", "fail", replace_by(lambda: save(draw(9), "BMP")), TRAIN),
    ("same_picture", "fail", replace_by(lambda: save(draw(6))), TRAIN),
    (
        "shared_group",
        "fail",
        lambda files, rows: (files, change_row(change_row(rows, TRAIN, group="x"), TEST, group="x")),
        TRAIN,
    ),
    ("near_duplicate", "warn", replace_by(lambda: save(draw(9), "JPEG", quality=60)), TRAIN),
    ("near_duplicate", "warn", replace_by(lambda: save(draw(9, (80, 80)))), TRAIN),
    ("small", "fail", replace_by(lambda: save(draw(0, (48, 15)))), TRAIN),
    ("uniform", "warn", replace_by(lambda: save(Image.new("RGB", (48, 48), (90, 90, 90)))), TRAIN),
    ("few_images", "warn", change("cat/09.png", label="dog"), ""),
    ("twin_names", "warn", add("cat/00.PNG"), "cat/00.png"),
    ("odd_text", "warn", change(TRAIN, group="a\tb"), ""),
    ("formula", "warn", call_formula, ""),
    ("unused_file", "warn", add("cat/more.png"), "cat/more.png"),
    ("unused_file", "warn", add("cat/more.zip"), "cat/more.zip"),
    ("wrong_extension", "warn", replace_by(lambda: save(draw(0), "JPEG")), TRAIN),
    ("converted", "warn", replace_by(lambda: save(draw(0).convert("P"))), TRAIN),
    ("converted", "warn", replace_by(lambda: save(draw(0).convert("RGBA"))), TRAIN),
    (
        "converted",
        "warn",
        replace_by(lambda: save(Image.fromarray(np.asarray(draw(0).convert("L")) * np.uint16(257)))),
        TRAIN,
    ),
    ("converted", "warn", rename("cat/00.jpg", lambda: save(draw(0).convert("CMYK"), "JPEG")), "cat/00.jpg"),
    ("converted", "warn", rename("cat/00.jpg", lambda: save(draw(0), "JPEG", exif=turn(6))), "cat/00.jpg"),
    ("converted", "warn", rename("cat/00.tif", lambda: save(draw(0), "TIFF", exif=turn(3))), "cat/00.tif"),
]


def turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


CHECKS = {"smallest_side": 16, "images_per_class": 3}


def test_nothing_is_found_in_a_clean_set(tmp_path: Path) -> None:
    files, rows = make_set()
    source = write(tmp_path / "set", files, rows)
    run(source, tmp_path, make_params({}, **CHECKS))
    assert read_found(tmp_path / "findings.csv") == []
    counts = json.loads((tmp_path / "data.json").read_text())
    assert counts["images"] == {label: {"train": 6, "val": 3, "test": 3} for label in ("cat", "dog")}
    assert not any(counts["findings"].values())


@pytest.mark.parametrize(
    "clean",
    [
        rename("cat/00.jpg", lambda: save(draw(0), "JPEG", exif=turn(1))),
        rename("cat/00.JPEG", lambda: save(draw(0), "JPEG")),
        rename("cat/00", lambda: save(draw(0), "BMP")),
        rename("cat/00.webp", lambda: save(draw(0), "WEBP", lossless=True)),
        replace_by(lambda: save(draw(1))),  # the same picture twice in train, under one label
        replace_by(lambda: save(draw(1), "PNG", compress_level=0)),
        replace_by(lambda: save(draw(0, (16, 90)))),
        replace_by(lambda: save(draw(0).point(lambda level: 100 + level // 12))),
        change(TRAIN, group="a b"),
    ],
)
def test_what_is_sound_is_not_found(clean: Plant, tmp_path: Path) -> None:
    source = write(tmp_path / "set", *clean(*make_set()))
    run(source, tmp_path, make_params({}, **CHECKS))
    assert read_found(tmp_path / "findings.csv") == []


@pytest.mark.parametrize(
    ("kind", "policy", "plant", "file"), PLANTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_planted_fault_is_found_and_met_by_its_policy(
    kind: str, policy: str, plant: Plant, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "set", *plant(*make_set()))
    params = make_params({}, **CHECKS)
    if policy == "fail":
        with pytest.raises(InputError, match=rf"^faults in the data .*\n{kind}: "):
            run(source, tmp_path, params)
        assert not (tmp_path / "packed").exists()
    else:
        run(source, tmp_path, params)
        assert f"{kind}: 1 " in capsys.readouterr().out
    last = tmp_path / "findings.csv" if (tmp_path / "findings.csv").exists() else tmp_path / "before.csv"
    assert (kind, file) in read_found(last)


DROPPED = ["missing_file", "no_label", "repeated_file", "unreadable", "two_labels", "same_picture", "shared_group"]
DROPPED += ["near_duplicate", "small", "uniform"]


@pytest.mark.parametrize(("kind", "plant"), [(kind, plant) for kind, _, plant, _ in PLANTED if kind in DROPPED])
def test_what_is_left_out_is_counted_and_the_others_stay_as_they_are(kind: str, plant: Plant, tmp_path: Path) -> None:
    files, rows = plant(*make_set())
    source = write(tmp_path / "set", files, rows)
    run(source, tmp_path, make_params(dict.fromkeys(DROPPED, "drop"), smallest_side=16))
    packed = open_packed(tmp_path / "packed")
    counts = json.loads((tmp_path / "data.json").read_text())
    names = [name for split in packed.splits for name in read_names(packed, split)]
    left_out = {row[0] for row in rows} - set(names)
    expected = {file for found, file in read_found(tmp_path / "findings.csv") if found in DROPPED}
    assert left_out == (set() if kind == "repeated_file" else expected)
    assert counts["left_out"] == len(expected) >= 1
    assert sum(sum(of.values()) for of in counts["images"].values()) == len(names)
    assert kind == "two_labels" or not [row for row in rows if row[2] == "test" and row[0] in left_out]
    if left_out:
        # The same bytes as of a set that never had the images.
        alone = write(tmp_path / "alone", files, [row for row in rows if row[0] not in left_out])
        (tmp_path / "out").mkdir()
        run(alone, tmp_path / "out", make_params(dict.fromkeys(DROPPED, "drop"), smallest_side=16))
        for file in (tmp_path / "packed").iterdir():
            assert file.read_bytes() == (tmp_path / "out" / "packed" / file.name).read_bytes()


def test_original_sizes_are_those_of_the_pictures_that_stay_upright(tmp_path: Path) -> None:
    files, rows = make_set()
    files |= {
        "cat/00.png": save(draw(0, (40, 70)), exif=turn(6)),
        "cat/01.png": save(draw(1, (300, 20))),
        "cat/02.png": save(draw(2, (9, 90))),
        "cat/03.png": b"",
    }
    source = write(tmp_path / "set", files, rows)
    run(source, tmp_path, make_params({"small": "drop", "unreadable": "drop"}, smallest_side=16))
    assert read_sizes(tmp_path / "sizes.csv").tolist() == [[48, 48, 20], [70, 40, 1], [300, 20, 1]]
    assert sum(len(split.labels) for split in open_packed(tmp_path / "packed").splits.values()) == 22


def break_rows(source: Path) -> Path:
    lines = (source / "annotations.csv").read_text().splitlines()
    broken = [lines[0], *(line + ",more" for line in lines[1:22]), ",cat,train,x", *lines[23:], "x.png,dog,Train,x"]
    (source / "annotations.csv").write_text("\n".join(broken))
    return source


def encode_rows(source: Path) -> Path:
    table = source / "annotations.csv"
    table.write_bytes(table.read_bytes().replace(b"cat,train", b"caf\xe9,train").replace(b"dog,val", b"d\xf6g,val"))
    return source


def null_rows(source: Path) -> Path:
    (source / "annotations.csv").write_bytes(
        (source / "annotations.csv").read_bytes().replace(b"cat,val", b"cat\0,val")
    )
    return source


def damage_members(source: Path) -> Path:
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.*")}
    packed = pack_zip(files, zipfile.ZIP_STORED)
    for name in TRAIN, TEST:
        packed = packed.replace(files[name], files[name][:-1] + b"?")
    archive = source.with_suffix(".zip")
    archive.write_bytes(packed)
    return archive


def lead_out(source: Path) -> Path:
    for name in TRAIN, VAL:
        (source / name).unlink()
        (source / name).symlink_to("/etc/passwd")
    return source


@pytest.mark.parametrize(
    ("spoil", "kind", "expected"),
    [
        (break_rows, "faulty_table", [("annotations.csv", row) for row in [*range(2, 24), 26]]),
        (encode_rows, "faulty_table", [("annotations.csv", row) for row in [*range(2, 8), *range(20, 23)]]),
        (null_rows, "faulty_table", [("annotations.csv", row) for row in range(8, 11)]),
        (damage_members, "faulty_source", [(TRAIN, None), (TEST, None)]),
        (lead_out, "faulty_source", [(TRAIN, None), (VAL, None)]),
    ],
)
def test_all_that_keeps_data_from_being_a_table_of_images_is_told_at_once(
    spoil: Callable[[Path], Path], kind: str, expected: list[tuple[str, int | None]], tmp_path: Path
) -> None:
    source = spoil(write(tmp_path / "set", *make_set()))
    told_in = tmp_path / "before.csv"
    with pytest.raises(InputError, match=rf"^{source}: faults\n") as caught:
        run(source, tmp_path, make_params({}))
    assert str(caught.value).endswith(f"\n(all are in {told_in})")
    assert str(caught.value).count("\n  ") == min(21, len(expected))
    found, policies = read_findings(told_in)
    assert {one.kind for one in found} == {kind}
    assert policies == {kind: "fail"}
    assert sorted((one.file, one.row) for one in found) == sorted(expected)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".csv") == ["before.csv"]


@pytest.mark.parametrize("fuzzed", FUZZED)
def test_damaged_source_gives_a_report_or_one_clear_error_and_no_file_elsewhere(
    fuzzed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of benchmarks/fuzz.py, which has thousands more."""
    monkeypatch.setattr("imclass.files.os.fsync", lambda _: None)  # many times; it is slow
    files, content = make_case(fuzzed)
    assert meet(tmp_path / "sound", fuzzed, files, content, run_committed) == ""
    for seed in range(20):
        meet(tmp_path / "case", fuzzed, files, mutate(fuzzed, content, random.Random(seed)), run_committed)


def run_committed(source: Path, out: Path) -> None:
    run(source, out, make_params({}))


def test_set_of_which_nothing_stays_is_refused(tmp_path: Path) -> None:
    files, rows = make_set()
    source = write(tmp_path / "set", dict.fromkeys(files, b"<html>"), rows)
    with pytest.raises(InputError, match="splits that cannot be used"):
        run(source, tmp_path, make_params({"unreadable": "drop"}))
    assert len(read_found(tmp_path / "findings.csv")) == len(files) + 6  # and each class misses in each split


def test_class_of_which_no_image_stays_is_not_lost_in_silence(tmp_path: Path) -> None:
    files, rows = make_set()
    birds = {f"bird/{split}.png": b"<html>" for split in ("train", "val", "test")}
    more = [(name, "bird", name[5:-4], "") for name in birds]
    source = write(tmp_path / "set", {**files, **birds}, [*rows, *more])
    with pytest.raises(InputError, match=r"class 'bird': no image in split train \(0 in the others\)"):
        run(source, tmp_path, make_params({"unreadable": "drop"}))
