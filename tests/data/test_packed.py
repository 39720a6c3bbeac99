import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from imclass.data import shards
from imclass.data.packed import open_packed, read_names, write_packed
from imclass.data.shards import Images
from imclass.errors import InputError

COUNTS = {"train": 12, "val": 4, "test": 5}
LABELS = ["cat", "a,b", "é\n"]
ROWS = [(f"{split}/{at:02}, x.png", LABELS[at % 3], split) for split, count in COUNTS.items() for at in range(count)]
FILES = [f"{split}-0000.{kind}" for split in COUNTS for kind in ("csv", "npy")] + ["meta.json"]
Chunks = list[tuple[list[str], UInt8[np.ndarray, "n c h w"]]]


def make_images(channels: int = 3) -> UInt8[np.ndarray, "n c h w"]:
    return np.random.default_rng(0).integers(0, 256, (len(ROWS), channels, 4, 6), np.uint8)


def cut(images: UInt8[np.ndarray, "n c h w"], size: int, seed: int = 0) -> Chunks:
    """Chunks of (names, pixels) in a random order."""
    order = np.random.default_rng(seed).permutation(len(ROWS))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [([ROWS[at][0] for at in part], images[part]) for part in parts]


def cut_rows(rows: list[tuple[str, str, str]], images: UInt8[np.ndarray, "n c h w"]) -> Chunks:
    return [([image for image, _, _ in rows], images)]


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_fit(channels: int = 3) -> dict[str, Any]:
    return {"channels": channels, "height": 4, "width": 6, "fit": "crop", "background": 255}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_packed(tmp_path / "packed", ROWS, cut(make_images(), 5), make_fit())
    return tmp_path / "packed"


def refuse(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_packed(folder)
    assert str(caught.value).startswith(f"{folder}: ")
    return str(caught.value)


def change_meta(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    meta = {key: value for key, value in {**meta, **changes}.items() if value != "gone"}
    (folder / "meta.json").write_text(json.dumps(meta), "utf-8")


def test_what_was_written_is_read(folder: Path) -> None:
    packed = open_packed(folder)
    assert packed.classes == ["a,b", "cat", "é\n"]
    assert packed.fit == make_fit()
    assert {split: len(part.images) for split, part in packed.splits.items()} == COUNTS
    images = np.concatenate([part.images for part in packed.splits.values()])
    labels = np.concatenate([part.labels for part in packed.splits.values()])
    np.testing.assert_array_equal(images, make_images())
    assert [packed.classes[label] for label in labels] == [label for _, label, _ in ROWS]


def test_a_set_of_many_shards_is_read_as_one_of_few(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 72)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 1)
    write_packed(tmp_path / "many", ROWS, cut(make_images(), 5), make_fit())
    few, many = open_packed(folder), open_packed(tmp_path / "many")
    assert len(list((tmp_path / "many").iterdir())) > 15
    for split in COUNTS:
        np.testing.assert_array_equal(many.splits[split].images, few.splits[split].images)
        np.testing.assert_array_equal(many.splits[split].labels, few.splits[split].labels)
        assert read_names(many, split) == read_names(few, split)
    assert (many.mean, many.std) == (few.mean, few.std)
    code = "import sys, pathlib, imclass.data.packed as packed; packed.open_packed(pathlib.Path(sys.argv[1]))"
    command = f'ulimit -S -n 8 && "{sys.executable}" -c "{code}" "{tmp_path / "many"}"'
    subprocess.run(["bash", "-c", command], check=True)  # more shards than files that may be open


def test_left_out_images_are_as_if_they_had_never_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 72)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 1)
    images = make_images()
    left_out = [0, 5, 12, 20]
    kept = [at for at in range(len(ROWS)) if at not in left_out]

    def choose(all_images: Images) -> list[str]:
        np.testing.assert_array_equal(all_images, images)
        return [ROWS[at][0] for at in left_out]

    assert write_packed(tmp_path / "one", ROWS, cut(images, 5), make_fit(), choose) == len(kept)
    rows = [ROWS[at] for at in kept]
    write_packed(tmp_path / "other", rows, cut_rows(rows, images[kept]), make_fit())
    assert read_all(tmp_path / "one") == read_all(tmp_path / "other")


def test_a_change_rewrites_no_shards_but_those_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 72)
    monkeypatch.setattr(shards, "SHARD_IMAGES", 1)
    images = make_images()
    write_packed(tmp_path / "before", ROWS, cut(images, 5), make_fit())
    before = read_all(tmp_path / "before")

    relabelled = [(image, "cat" if at == 4 else label, split) for at, (image, label, split) in enumerate(ROWS)]
    write_packed(tmp_path / "relabelled", relabelled, cut(images, 5), make_fit())
    after = read_all(tmp_path / "relabelled")
    changed = {name for name in after if after[name] != before[name]}
    assert len(changed) == 2
    assert {name.rpartition(".")[2] for name in changed} == {"csv", "json"}

    for at in range(len(ROWS)):
        rows = ROWS[:at] + ROWS[at + 1 :]
        write_packed(tmp_path / "less", rows, cut_rows(rows, np.delete(images, at, axis=0)), make_fit())
        pixels = {content for name, content in read_all(tmp_path / "less").items() if name.endswith("npy")}
        assert len(pixels - set(before.values())) <= 2


def test_names_of_a_split_come_in_the_order_of_its_arrays(folder: Path) -> None:
    packed = open_packed(folder)
    for split in COUNTS:
        assert read_names(packed, split) == [name for name, _, of in ROWS if of == split]
    assert read_names(packed, "other") == []


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_the_training_pixels(tmp_path: Path, channels: int) -> None:
    images = make_images(channels)
    images[12:] = 0  # val and test must not count
    write_packed(tmp_path / "packed", ROWS, cut(images, 4), make_fit(channels))
    packed = open_packed(tmp_path / "packed")
    pixels = images[:12].astype(np.float64).swapaxes(0, 1).reshape(channels, -1) / 255
    np.testing.assert_allclose(packed.mean, pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(packed.std, pixels.std(axis=1), rtol=1e-12)


def test_order_and_size_of_chunks_change_no_byte(folder: Path, tmp_path: Path) -> None:
    for size in 1, 7, 100:
        write_packed(tmp_path / "again", ROWS, cut(make_images(), size, seed=size), make_fit())
        for name in FILES:
            assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), (size, name)


def test_writing_to_opened_images_changes_no_file(folder: Path) -> None:
    images = open_packed(folder).splits["train"].images
    torch.from_numpy(images[:]).zero_()  # and torch takes them without a warning
    np.testing.assert_array_equal(open_packed(folder).splits["train"].images, make_images()[:12])


@pytest.mark.parametrize("level", [0, 128, 255])
def test_training_pixels_of_one_level_are_refused(tmp_path: Path, level: int) -> None:
    images = make_images()
    images[:12, 1] = level
    with pytest.raises(InputError, match="found one level in the whole of channel 2"):
        write_packed(tmp_path / "packed", ROWS, cut(images, 4), make_fit())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written_when_an_image_is_bad(folder: Path) -> None:
    def fail() -> Iterator[tuple[list[str], Any]]:
        yield cut(make_images(), 5)[0]
        raise InputError("3.png: not a sound image")

    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(InputError, match="3.png"):
        write_packed(folder, ROWS, fail(), make_fit())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="3.png"):
        write_packed(folder, ROWS, fail(), make_fit())
    assert list(folder.parent.iterdir()) == []


def test_an_old_set_is_replaced(folder: Path) -> None:
    (folder / "stray").touch()
    write_packed(folder, ROWS, cut(255 - make_images(), 5), make_fit())
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    np.testing.assert_array_equal(open_packed(folder).splits["val"].images, 255 - make_images()[12:16])


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refuse(folder) == f"{folder}: expected a packed set, found no\n  {name}"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert "found no\n  meta.json" in refuse(tmp_path / "nothing")


@pytest.mark.parametrize("name", FILES)
def test_cut_file_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for length in [*range(0, 160, 3), len(content) // 2, len(content) - 2]:
        if length < len(content):
            (folder / name).write_bytes(content[:length])
            refuse(folder)


@pytest.mark.parametrize("name", FILES[:-1])
def test_damaged_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    assert refuse(folder) == f"{folder}: damaged since build wrote it:\n  {name}"


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"meta"', "{}", "{'a': 1}", "\udcff"])
def test_other_content_in_meta_is_refused(folder: Path, text: str) -> None:
    (folder / "meta.json").write_bytes(text.encode(errors="surrogateescape"))
    refuse(folder)


@pytest.mark.parametrize("key", ["classes", "fit", "mean", "sha256", "shards", "std"])
@pytest.mark.parametrize("value", ["gone", None, 3, [], {}])
def test_altered_meta_is_refused(folder: Path, key: str, value: Any) -> None:
    change_meta(folder, **{key: value})
    refuse(folder)


def test_array_that_hides_a_pickle_runs_nothing(folder: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return pytest.fail, ("ran",)

    attack = np.array([Attack()], dtype=object)
    np.save(folder / "val-0000.npy", attack, allow_pickle=True)
    assert "val-0000.npy" in refuse(folder)
