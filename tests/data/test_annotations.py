import csv
import os
import re
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imclass.data.annotations import COLUMNS, SPLITS, label_images, read_annotations, read_table, write_annotations
from imclass.data.findings import enforce_policy
from imclass.errors import InputError
from imclass.params import PolicyParams

WriteSource = Callable[[Path, dict[str, bytes]], Path]
ODD_LABELS = [
    *("NA", "null", "None", "nan", "N/A", "-", "007", "1e3", "1.0", "True", "no", "2024-01-01", "0x10"),
    *(
        "=1+1",
        "+1",
        "-1",
        "@x",
        "a,b",
        'a"b',
        "'a'",
        " a ",
        "a\tb",
        "a\nb",
        "é",
        "e\u0301",
        "猫",
        "🐈",
        "\u200b",
        "\u2028",
    ),
]
FAIL = dict.fromkeys(PolicyParams.model_fields, "fail")
# What a CSV can hold: UTF-8 text with neither NUL nor carriage return.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)


def label(source: Path) -> list[tuple[str, ...]]:
    return list(label_images(source)[0][["image", "label", "split", "group"]].itertuples(index=False, name=None))


def refuse(source: Path) -> str:
    """The message of prepare, where every kind of finding that may stop it does."""
    with pytest.raises(InputError) as caught:
        enforce_policy(label_images(source)[1], FAIL, Path("findings.csv"))
    assert str(caught.value).startswith((f"{source}: ", "faults in the data (all are in findings.csv;"))
    return str(caught.value)


def find(source: Path) -> list[tuple[str, str, str, int | None]]:
    return [(found.kind, found.file, found.detail, found.row) for found in label_images(source)[1]]


def refuse_csv(folder: Path, content: str | bytes) -> str:
    """The message about an annotations.csv beside the images 1.png to 4.png."""
    for name in "1.png", "2.png", "3.png", "4.png":
        (folder / name).touch()
    (folder / "annotations.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return refuse(folder).removeprefix(f"{folder}: ").replace("'annotations.csv': ", "")


def make_table(labels: list[str], split: str = "train") -> pd.DataFrame:
    rows = [(f"{at:06}.png", label, split, "", f"{at:064x}") for at, label in enumerate(labels)]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("root", ["", "my set/"])
def test_labels_by_table(tmp_path: Path, write_source: WriteSource, kind: str, root: str) -> None:
    table = b"label,group,image,split\nb,g,i/1.png,test\na,,i/2.jpg,train\n"
    source = write_source(
        tmp_path / kind, {f"{root}annotations.csv": table, f"{root}i/1.png": b"", f"{root}i/2.jpg": b""}
    )
    assert label(source) == [(f"{root}i/1.png", "b", "test", "g"), (f"{root}i/2.jpg", "a", "train", "")]


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("root", ["", "my set/"])
def test_labels_by_folder(tmp_path: Path, write_source: WriteSource, kind: str, root: str) -> None:
    names = ["dog/b/1.PNG", "cat/2.jpeg", "cat/1.png"]
    source = write_source(tmp_path / kind, {root + name: b"" for name in names})
    assert label(source) == [
        (f"{root}cat/1.png", "cat", "", ""),
        (f"{root}cat/2.jpeg", "cat", "", ""),
        (f"{root}dog/b/1.PNG", "dog", "", ""),
    ]


@pytest.mark.parametrize("splits", [SPLITS, ("train", "test"), ("train",)])
@pytest.mark.parametrize("root", ["", "my set/"])
def test_top_folders_give_the_split(
    tmp_path: Path, write_source: WriteSource, splits: tuple[str, ...], root: str
) -> None:
    names = sorted(f"{root}{split}/{kind}/1.png" for split in splits for kind in ("cat", "dog"))
    write_source(tmp_path, dict.fromkeys(names, b""))
    parts = [name.removeprefix(root).split("/") for name in names]
    assert label(tmp_path) == [(name, part[1], part[0], "") for name, part in zip(names, parts, strict=True)]


@pytest.mark.parametrize("other", ["valid/cat/1.png", "validation/dog/1.png", "x.png"])
def test_folder_beside_train_and_test_is_no_class(tmp_path: Path, write_source: WriteSource, other: str) -> None:
    write_source(tmp_path, dict.fromkeys(["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", other], b""))
    top = other.split("/")[0]
    assert refuse(tmp_path).endswith(f"expected top folders train, val, test only, in lower case, found '{top}'")


def test_class_may_be_called_train(tmp_path: Path, write_source: WriteSource) -> None:
    write_source(tmp_path, {"car/1.png": b"", "train/1.png": b""})
    assert [row[1:3] for row in label(tmp_path)] == [("car", ""), ("train", "")]


@pytest.mark.parametrize("root", ["", "set/"])
def test_litter_of_macos_is_no_image_and_no_class(tmp_path: Path, write_source: WriteSource, root: str) -> None:
    litter = ["__MACOSX/set/cat/._1.png", ".DS_Store", f"{root}.DS_Store", f"{root}cat/._1.png", f"{root}.git/x/1.png"]
    images = [f"{root}cat/1.png", f"{root}dog/1.png"]
    source = write_source(tmp_path / "a.zip", dict.fromkeys([*litter, *images], b"")) if root else None
    source = source or write_source(tmp_path / "folder", dict.fromkeys([*litter, *images], b""))
    assert [row[:2] for row in label(source)] == [(images[0], "cat"), (images[1], "dog")]
    assert [found[:2] for found in find(source)] == [("unused_file", name) for name in sorted(set(litter))]


def test_unused_files_and_columns_are_found(tmp_path: Path, write_source: WriteSource) -> None:
    table = b"image,label,width,sha256\n1.png,a,8,0\n2.png,b,8,0\n"
    write_source(tmp_path, {"annotations.csv": table, "1.png": b"", "2.png": b"", "3.png": b"", "more.zip": b""})
    assert find(tmp_path) == [
        ("unused_column", "annotations.csv", "column 'width'", None),
        ("unused_column", "annotations.csv", "column 'sha256'", None),
        ("unused_file", "3.png", "not used", None),
        ("unused_file", "more.zip", "an archive, not opened", None),
    ]


def test_nothing_is_found_where_all_is_used(tmp_path: Path, write_source: WriteSource) -> None:
    assert find(write_source(tmp_path, {"a/1.png": b"", "b/1.png": b""})) == []


def test_rows_without_image_or_label_or_of_a_repeated_file_are_found_and_in_no_table(tmp_path: Path) -> None:
    rows = ["1.png,a", "9.png,a", "2.png,", "3.png,b", "3.png,b", "4.png,a", "4.png,b", "i\\5.png,b", "I/5.PNG,a"]
    (tmp_path / "annotations.csv").write_text("\n".join(["image,label", *rows]))
    (tmp_path / "i").mkdir()
    for name in "1.png", "2.png", "3.png", "4.png", "i/5.png":
        (tmp_path / name).touch()
    assert label(tmp_path) == [("1.png", "a", "", ""), ("3.png", "b", "", "")]
    nowhere = "no such file in the source"
    assert find(tmp_path) == [
        ("missing_file", "9.png", nowhere, 3),
        ("missing_file", "i\\5.png", f"{nowhere}; did you mean 'i/5.png'?", 9),
        ("missing_file", "I/5.PNG", f"{nowhere}; did you mean 'i/5.png'?", 10),
        ("no_label", "2.png", "no label", 4),
        ("repeated_file", "3.png", "in lines 5, 6, as 'b'", 6),
        ("repeated_file", "4.png", "in lines 7, 8, as 'a', 'b'", 7),
        ("repeated_file", "4.png", "in lines 7, 8, as 'a', 'b'", 8),
        ("unused_file", "i/5.png", "not used", None),
    ]


@pytest.mark.parametrize("twin", ["Cat", "cat ", " cat", "c\u0061\u0301t"])
def test_labels_and_names_that_look_alike_are_found(tmp_path: Path, write_source: WriteSource, twin: str) -> None:
    first = unicodedata.normalize("NFC", twin.strip().lower())
    source = write_source(tmp_path / "a.zip", {f"{first}/1.png": b"", f"{twin}/1.png": b"", "dog/1.png": b""})
    kinds = {found[0] for found in find(source)}
    assert ("twin_labels", "", " and ".join(map(repr, sorted([first, twin]))), None) in find(source)
    assert kinds == {"twin_labels", "odd_text" if twin != twin.strip() else "twin_names"}


@pytest.mark.parametrize("odd", ["a\tb", "a\nb", " a", "a\u200b"])
def test_odd_text_is_found(tmp_path: Path, write_source: WriteSource, odd: str) -> None:
    write_source(tmp_path, {f"{odd}/1.png": b"", "other/1.png": b""})
    assert find(tmp_path) == [
        ("odd_text", "", f"label {odd!r}", None),
        *([("odd_text", f"{odd}/1.png", "its name", None)]),
    ]


@pytest.mark.parametrize(
    "odd", ["../cat/1.png", "/cat/1.png", "\\cat/1.png", "cat\\..\\1.png", "C:cat/1.png", "cat/../1.png"]
)
def test_name_in_an_archive_that_leads_out_of_it_is_found(tmp_path: Path, write_source: WriteSource, odd: str) -> None:
    table = f"image,label\n{odd},a\ncat../2..png,b\n".encode()
    source = write_source(tmp_path / "a.zip", {"annotations.csv": table, odd: b"", "cat../2..png": b""})
    assert find(source) == [("odd_path", odd, "absolute, or climbs", None)]


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@x"])
def test_label_that_a_spreadsheet_computes_is_found(tmp_path: Path, write_source: WriteSource, formula: str) -> None:
    write_source(tmp_path, {f"{formula}/1.png": b"", "a-b=c/1.png": b""})
    assert find(tmp_path) == [("formula", "", f"label {formula!r}", None)]


def test_names_from_the_table_need_no_image_suffix(tmp_path: Path, write_source: WriteSource) -> None:
    write_source(tmp_path, {"annotations.csv": b"image,label\nscan,a\n.hidden,b\n", "scan": b"", ".hidden": b""})
    assert [row[:2] for row in label(tmp_path)] == [(".hidden", "b"), ("scan", "a")]


@pytest.mark.parametrize("odd", ODD_LABELS)
def test_labels_are_kept_as_they_are(tmp_path: Path, write_source: WriteSource, odd: str) -> None:
    with (tmp_path / "annotations.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "label"), ("1.png", odd), ("2.png", "other")])
    write_source(tmp_path, {"1.png": b"", "2.png": b""})
    table, _ = label_images(tmp_path)
    assert table.label.tolist() == [odd, "other"]
    write_annotations(table.assign(split="train", sha256="0"), tmp_path / "out.csv")
    assert read_annotations(tmp_path / "out.csv").label.tolist() == [odd, "other"]


@pytest.mark.parametrize("odd", [label for label in ODD_LABELS if "/" not in label])
def test_folder_names_are_kept_as_they_are(tmp_path: Path, write_source: WriteSource, odd: str) -> None:
    write_source(tmp_path, {f"{odd}/1.png": b"", "other/1.png": b""})
    assert sorted(label_images(tmp_path)[0].label) == sorted([odd, "other"])


def test_labels_that_differ_in_case_space_or_form_are_different_classes(tmp_path: Path) -> None:
    labels = ["cat", "Cat", " cat", "cat ", "é", unicodedata.normalize("NFD", "é"), "007", "7"]
    write_annotations(make_table(labels), tmp_path / "a.csv")
    assert read_annotations(tmp_path / "a.csv").label.tolist() == labels


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, min_size=1, max_size=8))
def test_any_label_round_trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str]) -> None:
    monkeypatch.setattr("imclass.files.os.fsync", lambda _: None)  # 200 times; it is slow
    table = make_table(labels)
    write_annotations(table, tmp_path / "a.csv")
    again = read_annotations(tmp_path / "a.csv")
    assert again.equals(table)
    assert [label.encode() for label in again.label] == [label.encode() for label in labels]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(SPLITS), TEXT), min_size=1, max_size=8))
def test_any_image_and_group_round_trip_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, str, str]]
) -> None:
    monkeypatch.setattr("imclass.files.os.fsync", lambda _: None)
    table = pd.DataFrame([(*row, "0") for row in rows], columns=list(COLUMNS), dtype=object)
    write_annotations(table, tmp_path / "a.csv")
    again = list(read_annotations(tmp_path / "a.csv")[["split", "image", "label", "group"]].itertuples(index=False))
    expected = sorted(
        ((row[2], row[0], row[1], row[3]) for row in rows), key=lambda row: (SPLITS.index(row[0]), row[1])
    )
    assert [row[:2] for row in again] == [row[:2] for row in expected]
    assert sorted(again) == sorted(expected)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='image,label"\r\n\0x é', max_size=60).map(str.encode))
def test_any_bytes_give_a_table_of_text_or_one_input_error(content: bytes) -> None:
    for beginning in b"", b"image,label\n":
        try:
            table = read_table("some.csv", beginning + content)
        except InputError as error:
            assert str(error).startswith("some.csv: ")  # noqa: PT017
        else:
            assert all(isinstance(value, str) and value for value in table[["image", "label"]].to_numpy().ravel())


def test_file_is_plain_csv_with_the_splits_in_order(tmp_path: Path) -> None:
    parts = [make_table(["t", "u"], "test"), make_table(["v"], "val"), make_table(["w", "x"], "train")]
    write_annotations(pd.concat(parts).assign(sha256="0"), tmp_path / "a.csv")
    assert re.sub(rb",[0-9a-f]{8}\n", b",CHECK\n", (tmp_path / "a.csv").read_bytes()) == (
        b"image,label,split,group,sha256,check\n000000.png,w,train,,0,CHECK\n000001.png,x,train,,0,CHECK\n"
        b"000000.png,v,val,,0,CHECK\n000000.png,t,test,,0,CHECK\n000001.png,u,test,,0,CHECK\n"
    )


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda lines: [lines[0], lines[1].replace("cat", "car"), *lines[2:]], "2"),
        (lambda lines: [*lines[:2], lines[2].replace("train", "test"), lines[3]], "3"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "23"),
        (lambda lines: lines[:3], "23"),
        (lambda lines: [*lines, lines[3]], "2345"),
    ],
    ids=["label", "split", "order", "cut", "longer"],
)
def test_rows_changed_since_prepare_are_named(
    tmp_path: Path, change: Callable[[list[str]], list[str]], lines: str
) -> None:
    path = tmp_path / "a.csv"
    write_annotations(make_table(["cat", "dog", "cat"]), path)
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match="a.csv: changed since prepare wrote it") as caught:
        read_annotations(path)
    assert re.findall(r"\n  line (\d+): ", str(caught.value)) == list(lines)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_byte_order_mark_do_not_matter(ends: str, mark: str, last: bool) -> None:
    text = 'image,label\n1.png,"a ""b"", c"\n\n2.png,é\n'
    content = mark + (text if last else text.rstrip()).replace("\n", ends)
    table = read_table("a.csv", content.encode())
    assert table.to_dict("split")["data"] == [["1.png", 'a "b", c'], ["2.png", "é"]]
    assert list(table.index) == [2, 4]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("image,label\n1.png,é\n".encode("utf-16"), "line 1: expected UTF-8, found byte 0xff, as in UTF-16"),
        ("image,label\n1.png,a\n".encode("utf-16-be"), "line 1: expected text, found a NUL character"),
        ("image,label\n1.png,a\n2.png,é\n".encode("latin-1"), "line 3: expected UTF-8, found byte 0xe9"),
        ("image,label\n1.png,a\n2.png,b\0\n", "line 3: expected text, found a NUL character"),
        ('image,label\n1.png,a\n2.png,"b\n', "line 3: not CSV: unexpected end of data"),
        ('image,label\n1.png,a\n2.png,"b"x\n', "line 3: not CSV: "),
        (f"image,label\n1.png,{'a' * 200_000}\n", "line 2: not CSV: field larger than field limit"),
        ("image,label\n1.png,a,b\n2.png\n3.png,c\n", "line 2: expected 2 fields, found 3\n  line 3: expected 2 fields"),
        ('image,label\n1.png,"a\nb"\n2.png,b,c\n', "line 4: expected 2 fields, found 3"),
        ("image,label\n1.png,a\n   \n", "line 3: expected 2 fields, found 1"),
        ("image;label\n1.png;a\n", "found image;label\n  line 1: no column 'image'\n  line 1: no column 'label'"),
        ("image,label,image\n1.png,a,2.png\n", "column 'image' stands twice"),
        ("image,label,note,note\n1.png,a,x,y\n", "column 'note' stands twice"),
        (
            "image,Label\n1.png,a\n",
            "found image,Label\n  line 1: no column 'label'\n  line 1: column 'Label': did you mean 'label'?",
        ),
        ("image, label\n1.png,a\n", "column ' label': did you mean 'label'?"),
        ("images,label\n1.png,a\n", "column 'images': did you mean 'image'?"),
        ("image,label,splits\n1.png,a,train\n", "column 'splits': did you mean 'split'?"),
        ("image,label,Group\n1.png,a,g\n", "column 'Group': did you mean 'group'?"),
        ("image,split\n1.png,train\n", "no column 'label'"),
        ("label\na\n", "no column 'image'"),
        ("1.png,a\n2.png,b\n", "found 1.png,a\n  line 1: no column 'image'\n  line 1: no column 'label'"),
        ("", "found an empty file"),
        ("\n\n", "found an empty file"),
        ("image,label\n1.png,\n2.png,b\n,c\n", "line 4: no image"),
        ("image,label\n1.png,a\n5.png,b\n", "line 3: '5.png': no such file in the source"),
        ("image,label\n1.png,a\n./2.png,b\n", "line 3: './2.png': no such file in the source"),
        ("image,label\n1.png,a\n2.PNG,b\n", "line 3: '2.PNG': no such file in the source"),
        ("image,label\n1.png,a\n 2.png,b\n", "line 3: ' 2.png': no such file in the source"),
        ("image,label\n1.png,a\n../x.png,b\n", "line 3: '../x.png': no such file in the source"),
        ("image,label\n1.png,a\n/etc/passwd,b\n", "line 3: '/etc/passwd': no such file in the source"),
        ("image,label\n1.png,a\nC:\\x.png,b\n", "line 3: 'C:\\\\x.png': no such file in the source"),
        ("image,label\n1.png,a\n2.png,b\n1.png,a\n", "line 4: '1.png': in lines 2, 4, as 'a'"),
        ("image,label\n1.png,b\n2.png,b\n1.png,a\n", "line 4: '1.png': in lines 2, 4, as 'a', 'b'"),
        (
            "image,label,split\n1.png,a,train\n2.png,b,Test\n",
            "line 3: split 'Test': expected train, val, test or nothing",
        ),
        ("image,label,split\n1.png,a,train\n2.png,b,\n3.png,b,val\n", "line 3: no split, while other lines have one"),
    ],
)
def test_defect_of_the_table_is_told_with_its_line(tmp_path: Path, content: str | bytes, told: str) -> None:
    assert told in refuse_csv(tmp_path, content)


def test_defects_of_the_same_kind_are_told_at_once(tmp_path: Path) -> None:
    message = refuse_csv(tmp_path, "image,label\n1.png,a\n7.png,a\n2.png,b\n8.png,b\n3.png,\n")
    assert message.splitlines()[1:] == [
        "missing_file: 2 rows without their file",
        "  line 3: '7.png': no such file in the source",
        "  line 5: '8.png': no such file in the source",
        "no_label: 1 rows without a label",
        "  line 6: '3.png': no label",
    ]


@pytest.mark.parametrize("content", ["image,label\n1.png,a\n2.png,a\n", "image,label\n"])
def test_table_of_fewer_than_two_classes_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "2.png").touch()
    (tmp_path / "annotations.csv").write_text(content)
    found = "only 'a'" if "1.png" in content else "no image"
    assert refuse(tmp_path) == f"{tmp_path}: expected images of at least two classes, found {found}"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "found no image"),
        (["notes.txt", "cat/notes.txt"], "found no image"),
        (["cat/1.png", "cat/2.png"], "found only 'cat'"),
        (["set/cat/1.png", "set/cat/2.png"], "found only 'cat'"),
        (["cat/1.png", "dog/1.png", "2.png"], "'2.png': without annotations.csv, expected in the folder of a class"),
        (
            ["train/cat/1.png", "train/2.png"],
            "'train/2.png': without annotations.csv, expected in the folder of a class",
        ),
    ],
)
def test_folders_that_give_no_classes_are_refused(
    tmp_path: Path, write_source: WriteSource, names: list[str], told: str
) -> None:
    (tmp_path / "in").mkdir()
    assert told in refuse(write_source(tmp_path / "in", dict.fromkeys(names, b"")))


@pytest.mark.parametrize("name", [b"a\rb/1.png", b"caf\xe9/1.png"])
def test_name_that_no_csv_gives_back_is_told(tmp_path: Path, write_source: WriteSource, name: bytes) -> None:
    write_source(tmp_path, {"cat/1.png": b"", os.fsdecode(name): b""})
    assert f": {os.fsdecode(name)!r}: label {os.fsdecode(name)[:-6]!r}: expected neither" in refuse(tmp_path)


def test_label_with_a_carriage_return_is_told(tmp_path: Path, write_source: WriteSource) -> None:
    write_source(tmp_path, {"annotations.csv": b'image,label\n1.png,"a\rb"\n2.png,c\n', "1.png": b"", "2.png": b""})
    assert "'1.png': label 'a\\rb': expected neither a carriage return" in refuse(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label,split,group,sha256\n1.png,a,train,,0\n", "expected columns .*,check, found .*,sha256"),
        ("image,label,split,group,sha256,check\n1.png,a,,,0,\n", "line 2: expected a split of train, .* found ''"),
        ("image,label,split,group,sha256,check\n1.png,a,other,,0,\n", "line 2: expected .*, test, found 'other'"),
    ],
)
def test_file_that_prepare_did_not_write_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=f"^{tmp_path / 'a.csv'}: {message}$"):
        read_annotations(tmp_path / "a.csv")


def test_a_long_table_is_written_and_read_without_copies_of_it(tmp_path: Path) -> None:
    count = 5_000
    names = [f"{at:020}.png" for at in range(count)]
    table = pd.DataFrame(
        {"image": names, "label": "a", "split": "train", "group": "", "sha256": "0" * 64}, dtype=object
    )
    peaks = []
    tracemalloc.start()
    try:
        for use in (lambda: write_annotations(table, tmp_path / "t.csv"), lambda: read_annotations(tmp_path / "t.csv")):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            use()
            peaks.append((tracemalloc.get_traced_memory()[1] - before) / count)
    finally:
        tracemalloc.stop()
    assert peaks[0] < 200
    assert peaks[1] < 900
