"""`imclass predict` as a user runs it, on the digits' model, and on files of every kind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pipeline import Reproduced, ShareFolder

from imclass.data.images import SUFFIXES
from imclass.data.source import IMAGE_SUFFIXES, MAX_FILE_BYTES

ROOT = Path(__file__).parents[2]
CALL = "from imclass.cli import main; main()"
Encode = Callable[..., bytes]
WriteSource = Callable[[Path, dict[str, bytes]], Path]


def predict(
    *arguments: object, folder: Path, code: str = CALL, packages: Path = ROOT, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code, "predict", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{packages}"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=120, **options)


def read_rows(done: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    assert done.returncode == 0, done.stderr.decode()
    return list(csv.reader(done.stdout.decode().splitlines(keepends=True)))


def list_names(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [row[0] for row in read_rows(done)[1:]]


@pytest.fixture(scope="session")
def onnx(reproduced: Reproduced) -> Path:
    return reproduced.project / "models/export/model.onnx"


@pytest.fixture(scope="session")
def pngs(encode: Encode) -> list[bytes]:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    return [encode(Image.fromarray(image), "PNG") for image in images]


@pytest.mark.parametrize("model", ["models/export/model.onnx", "models/model.safetensors"])
def test_digits_get_the_probabilities_that_evaluate_wrote(reproduced: Reproduced, model: str) -> None:
    header, *rows = read_rows(predict(model, "data/raw/digits.zip", "--top", 10, folder=reproduced.project))
    assert header == ["image", *(f"{what}_{n}" for n in range(1, 11) for what in ("label", "probability"))]
    assert len(rows) == 1797
    with (reproduced.project / "reports/predictions.csv").open(newline="") as file:
        expected = {row["image"]: row for row in csv.DictReader(file)}
    found = {row[0].removeprefix("data/raw/digits.zip/"): row[1:] for row in rows}
    for name, row in expected.items():
        labels, probabilities = found[name][::2], [float(text) for text in found[name][1::2]]
        assert labels[0] == row["predicted"]
        assert probabilities == sorted(probabilities, reverse=True)
        for label, probability in zip(labels, probabilities, strict=True):
            assert probability == pytest.approx(float(row[f"p_{label}"]), abs=3e-6)


def test_inputs_of_every_kind_come_in_their_order(
    tmp_path: Path, onnx: Path, pngs: list[bytes], write_source: WriteSource
) -> None:
    write_source(tmp_path / "b", {"z.png": pngs[0], "sub/a.PNG": pngs[1], "table.csv": b"", ".hid.png": pngs[2]})
    write_source(tmp_path / "c.zip", {"2.png": pngs[3], "1.png": pngs[4], "read.me": b""})
    write_source(tmp_path / "d.tar.gz", {"x/2.png": pngs[5], "x/1.png": pngs[6]})
    write_source(tmp_path / "many", {"2.png": pngs[9], "in/1.png": pngs[10], "[1].png": pngs[11]})
    (tmp_path / "plain").write_bytes(pngs[7])
    (tmp_path / "listed").write_bytes(pngs[8])
    given = ["plain", "c.zip", "-", "b/", "many/**", "d.tar.gz", "many/*.png", "many/[1].png", "./b/z.png", "**/i*"]
    done = predict(onnx, *given, folder=tmp_path, input=b"listed\nplain\n")
    many = ["many/2.png", "many/[1].png", "many/in/1.png"]
    assert list_names(done) == [
        *["plain", "c.zip/2.png", "c.zip/1.png", "listed", "plain", "b/sub/a.PNG", "b/z.png", *many],
        *["d.tar.gz/x/2.png", "d.tar.gz/x/1.png", "many/2.png", "many/[1].png", "many/[1].png", "./b/z.png"],
        "many/in/1.png",
    ]
    assert b"left out 2 files that are no images by their names" in done.stderr  # hidden or another suffix
    rows = {row[0]: row[1:] for row in read_rows(done)[1:]}
    assert rows["./b/z.png"] == rows["b/z.png"] != rows["plain"]


@pytest.mark.parametrize(
    ("given", "listed", "why"),
    [
        ("nothing.png", b"", "nothing.png: expected an image, folder, archive or pattern, found nothing there"),
        ("*.jpg", b"", "*.jpg: expected images, found none"),
        ("empty", b"", "empty: expected images, found none, beside 1 other files"),
        ("-", b"", "-: expected images, found none"),
        ("-", b"a.png\ngone.png\n", "gone.png: expected an image"),
        ("-", b"empty\n", "empty: expected a file, found a folder"),
        ("bad.zip", b"", "bad.zip: not a sound zip or tar archive"),
    ],
)
def test_inputs_that_stand_for_nothing_are_named_before_anything_is_written(
    tmp_path: Path, onnx: Path, pngs: list[bytes], given: str, listed: bytes, why: str
) -> None:
    (tmp_path / "a.png").write_bytes(pngs[0])
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 not really")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    done = predict(onnx, "a.png", given, "--out", "out.csv", folder=tmp_path, input=listed)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"imclass: {why}")
    assert not (tmp_path / "out.csv").exists()


ODD_NAMES = ["with space.png", "a,b.png", 'quo"te.png', "new\nline.png", "fußball 足球.png"]


def test_each_format_holds_the_same_whatever_the_names_are(
    tmp_path: Path, onnx: Path, pyarrow: Path, pngs: list[bytes], write_source: WriteSource
) -> None:
    folder = write_source(tmp_path / "odd", dict(zip(ODD_NAMES, pngs, strict=False)))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(pngs[5])  # not UTF-8, which no table can hold
    names = [f"odd/{name}" for name in sorted([*ODD_NAMES, r"caf\xe9.png"])]
    for top in 1, 3:
        for suffix in "csv", "jsonl", "parquet":
            done = predict(
                onnx, "odd", "--top", top, "--out", f"new/out{top}.{suffix}", folder=tmp_path, packages=pyarrow
            )
            assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
        with (tmp_path / f"new/out{top}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        lines = (tmp_path / f"new/out{top}.jsonl").read_text("utf-8").split("\n")[:-1]
        columns = read_parquet(tmp_path / f"new/out{top}.parquet", pyarrow)
        assert sorted(row[0] for row in rows) == names
        assert list(columns) == header
        assert header[:3] == (["image", "label", "probability"] if top == 1 else ["image", "label_1", "probability_1"])
        for row, line, values in zip(rows, lines, zip(*columns.values(), strict=True), strict=True):
            best = [{"label": row[at], "probability": float(row[at + 1])} for at in range(1, 2 * top, 2)]
            assert json.loads(line) == {"image": row[0], "predictions": best}
            assert [text if isinstance(text, str) else f"{text:.6f}" for text in values] == row
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        f"out{top}.{suffix}" for top in (1, 3) for suffix in ("csv", "jsonl", "parquet")
    )


@pytest.fixture(scope="session")
def pyarrow(share_folder: ShareFolder) -> Path:
    """A folder that has it: pandas changes what it does where it can find it, so the environment does not."""

    def install(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", folder, "pyarrow==26.0.1"], check=True)

    return share_folder("pyarrow", install)


def read_parquet(path: Path, pyarrow: Path) -> dict[str, list[Any]]:
    code = (
        "import json, sys; from pyarrow import parquet; print(json.dumps(parquet.read_table(sys.argv[1]).to_pydict()))"
    )
    env = {**os.environ, "PYTHONPATH": str(pyarrow)}
    done = subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, check=True)
    columns: dict[str, list[Any]] = json.loads(done.stdout)
    return columns


def test_unreadable_files_are_told_and_all_others_predicted(
    tmp_path: Path, onnx: Path, pngs: list[bytes], write_source: WriteSource
) -> None:
    bad = {f"{at:02}.png": b"<html>" for at in range(10, 40)}
    write_source(tmp_path / "in.zip", {"00.png": pngs[0], "01.png": pngs[1][:-20], **bad, "99.png": pngs[2]})
    (tmp_path / "annotations.csv").write_text("image,label\n")  # named by the user: tried
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    done = predict(onnx, "in.zip", "annotations.csv", "huge.png", "--out", "out.csv", folder=tmp_path)
    assert done.returncode == 1
    first, *told = done.stderr.decode().splitlines()
    assert first == "imclass: 33 of 35 images cannot be read, all others are predicted"
    assert "  'in.zip/01.png': not a sound image: truncated" in told
    assert f"  'huge.png': expected at most {MAX_FILE_BYTES} bytes, found {MAX_FILE_BYTES + 1}" in told
    assert len(told) == 21
    assert told[-1] == "  and 13 more"
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["image", "in.zip/00.png", "in.zip/99.png"]


@pytest.mark.parametrize(
    ("model", "arguments", "why"),
    [
        ("", ("--top", 11), "--top: expected 1 to 10, the number of classes, found 11"),
        ("", ("--out", "out.parquet"), "--out: Parquet needs pyarrow: pip install pyarrow"),
        ("", ("--out", "out.xlsx"), "out.xlsx: expected a table, a .csv, .jsonl or .parquet file"),
        ("a.png", (), "a.png: expected a model, a .onnx or .safetensors file"),
        ("none.onnx", (), "[Errno 2] No such file or directory: 'none.onnx'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, onnx: Path, pngs: list[bytes], model: str, arguments: tuple[object, ...], why: str
) -> None:
    (tmp_path / "a.png").write_bytes(pngs[0])
    done = predict(model or onnx, "a.png", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"imclass: {why}\n")


@pytest.fixture(scope="session")
def many(share_folder: ShareFolder, pngs: list[bytes]) -> Path:
    """Folders `few` and `more` of images, 2,000 and 12,000."""

    def make(folder: Path) -> None:
        for name, count in ("few", 2_000), ("more", 12_000):
            (folder / name).mkdir()
            for number in range(count):
                (folder / name / f"{number:05}.png").write_bytes(pngs[number % 12])

    return share_folder("predict-many", make)


IN_WORKERS = f"from imclass.data import workers; workers.SECONDS_WORTH_WORKERS = 0.0; {CALL}"


@pytest.mark.parametrize("model", ["models/export/model.onnx", "models/model.safetensors"])
def test_workers_change_no_byte(reproduced: Reproduced, many: Path, model: str) -> None:
    path = reproduced.project / model
    here, there = (predict(path, "few", "--workers", n, code=IN_WORKERS, folder=many) for n in (1, 2))
    assert len(list_names(here)) == 2_000
    assert here.stdout == there.stdout


def test_memory_does_not_grow_with_the_number_of_images(onnx: Path, pyarrow: Path, many: Path, tmp_path: Path) -> None:
    tell = "[getrusage(who).ru_maxrss // 1024 for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]"
    told = f"import atexit, sys; from resource import *; atexit.register(lambda: print(*{tell}, file=sys.stderr))"
    code = f"{told}; {IN_WORKERS}"
    out = tmp_path / "out.parquet"
    peaks = []
    for name in "few", "more":
        done = predict(onnx, name, "--workers", 2, "--out", out, code=code, folder=many, packages=pyarrow)
        assert done.returncode == 0, done.stderr.decode()
        peaks.append([int(text) for text in done.stderr.split()])
    assert len(read_parquet(out, pyarrow)["image"]) == 12_000
    assert all(more < few + 12 for few, more in zip(*peaks, strict=True)), peaks  # MB; the pixels and rows: far less


def test_closed_pipe_and_ctrl_c_end_it_quietly(onnx: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    command = [sys.executable, "-c", IN_WORKERS, "predict", str(onnx)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    options: dict[str, Any] = {"cwd": many, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell lets what it starts in the background ignore SIGINT: the tests themselves, and all that they start.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command, *["more"] * 20], **options) as piped:
        assert piped.stdout is not None
        assert piped.stderr is not None
        assert piped.stdout.readline() == b"image,label,probability\n"
        piped.stdout.close()
        assert piped.stderr.read() == b""
    assert piped.returncode == 1
    with subprocess.Popen([*command, *["more"] * 20, "--out", str(out)], **options, start_new_session=True) as stopped:
        deadline = time.monotonic() + 60
        while not out.with_name(".out.csv.tmp").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # among workers
        os.killpg(stopped.pid, signal.SIGINT)
        assert stopped.communicate() == (b"", b"")
    assert stopped.returncode == 130
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(stopped.pid, 0)  # no worker is left


def test_onnx_needs_neither_torch_nor_pandas(onnx: Path, tmp_path: Path, pngs: list[bytes]) -> None:
    (tmp_path / "a.png").write_bytes(pngs[0])
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {CALL}"
    done = predict(onnx, "a.png", code=code, folder=tmp_path)
    assert done.returncode == 0
    loaded = set(done.stderr.decode().split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "pandas", "sklearn", "matplotlib", "pyarrow"}


def test_names_of_images_end_as_decoders_take_them() -> None:
    assert sorted(suffix for suffixes in SUFFIXES.values() for suffix in suffixes) == sorted(IMAGE_SUFFIXES)
