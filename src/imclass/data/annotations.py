"""Files of a source -> table of its labelled images; the table <-> annotations.csv.

The table has one row per image and text in every column: image (name in the source), label, split (train, val or
test), group ('' where none is given) and sha256 (of the file's bytes). The file holds the splits one after another,
each sorted by name.
"""

import csv
import difflib
import io
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from imclass.data.findings import ROW_KINDS, DataError, Finding
from imclass.data.source import is_archive, is_hidden, is_image, list_files, read_files
from imclass.errors import InputError, list_problems
from imclass.files import CHECK, find_changed_rows, name_in_errors, write_checked_rows

SPLITS = ("train", "val", "test")
Fault = tuple[int, str]  # line of a table, and what is wrong with it
GIVEN = ("image", "label", "split", "group")  # columns of a source's table
COLUMNS = (*GIVEN, "sha256")
REQUIRED = ("image", "label")
ANNOTATIONS_FILE = "annotations.csv"  # in a source, gives the labels
FORMULA = ("=", "+", "-", "@")  # how a label begins that a spreadsheet computes


def label_images(source: Path) -> tuple[pd.DataFrame, list[Finding]]:
    """The labelled images of a source as columns image, label, split and group, '' where split or group is not given.

    Labels come from the source's annotations.csv, else each image's top folder is its label. One folder around
    everything is looked through; top folders train, val and test give the split. Rows that name no image, have no label
    or repeat another are left out of the table, and are findings, as is all else that is doubtful.
    Raises DataError naming files and rows where no such table can be made.
    """
    names = list_files(source)
    root = _find_root(names)
    if root + ANNOTATIONS_FILE in names:
        table, findings = _label_by_table(source, root, names)
    else:
        table, findings = _label_by_folder(source, root, names)
    if table.label.nunique() < 2 and not any(found.kind in ROW_KINDS for found in findings):
        found = f"only {table.label.iloc[0]!r}" if len(table) else "no image"
        raise DataError(source, [_find(f"expected images of at least two classes, found {found}")])
    _check_text(source, table)
    return table.sort_values("image", ignore_index=True), [*findings, *_find_doubtful_text(names, table)]


def read_table(where: str, content: bytes) -> pd.DataFrame:
    """A CSV of annotations as text, value for value, indexed by line number.

    Raises InputError naming `where` and the line: other encodings than UTF-8, a missing, misspelt or doubled column, a
    line with too few or too many fields, an empty image or label.
    """
    table, faults = _parse_table(content)
    faults += [(line, "no label") for line in table.index[table.label == ""]]
    if faults:
        problems = [f"line {line}: {what}" for line, what in faults]
        raise InputError(f"{where}: not a table of labelled images\n{list_problems(problems)}")
    return table[[column for column in (*COLUMNS, CHECK) if column in table]]


def _parse_table(content: bytes) -> tuple[pd.DataFrame, list[Fault]]:
    """The rows that fit the header and name an image, and what is wrong with the others, or with all."""
    rows, faults = _read_rows(content)
    header = rows[0][1] if rows else []
    faults = faults or _check_header(header)
    if faults:
        return pd.DataFrame(columns=list(REQUIRED), dtype=object), faults
    image = header.index("image")
    lines, fitting = [], []
    for line, row in rows[1:]:
        if len(row) != len(header):
            faults.append((line, f"expected {len(header)} fields, found {len(row)}"))
        elif not row[image]:
            faults.append((line, "no image"))
        else:
            lines.append(line)
            fitting.append(row)
    return pd.DataFrame(fitting, columns=header, index=lines, dtype=object), faults


def write_annotations(table: pd.DataFrame, path: Path) -> None:
    """Write the table, split by split and sorted by name, whole or not at all."""
    order = table.split.map(SPLITS.index)
    table = table.assign(order=order).sort_values(["order", "image"])
    write_checked_rows(path, COLUMNS, table[list(COLUMNS)].to_numpy())


def read_annotations(path: Path) -> pd.DataFrame:
    """Read what `write_annotations` wrote.

    Raises InputError where the file is not such a table, or has changed since.
    """
    with name_in_errors(path):
        content = path.read_bytes()
    table = read_table(str(path), content)
    if tuple(table.columns) != (*COLUMNS, CHECK):
        raise InputError(f"{path}: expected columns {','.join([*COLUMNS, CHECK])}, found {','.join(table.columns)}")
    if (unknown := ~table.split.isin(SPLITS)).any():
        line, split = _number(table.split[unknown])[0]
        raise InputError(f"{path}: line {line}: expected a split of {', '.join(SPLITS)}, found {split!r}")
    if changed := find_changed_rows(table.to_numpy()):
        lines = [f"line {table.index[at]}: {table.image.iloc[at]!r}" for at in changed]
        raise InputError(
            f"{path}: changed since prepare wrote it; labels and splits belong in the source\n{list_problems(lines)}"
        )
    return table[list(COLUMNS)].reset_index(drop=True)


def _find_root(names: list[str]) -> str:
    """The prefix of all names but hidden ones: '', or the one folder around everything, with its slash."""
    tops = {name.split("/", 1)[0] for name in names if not is_hidden(name)}
    if len(tops) != 1 or tops <= set(SPLITS):
        return ""
    root = f"{tops.pop()}/"
    images_inside = any(is_image(name) and name.count("/") == 1 for name in names)
    return "" if images_inside and root + ANNOTATIONS_FILE not in names else root


def _label_by_table(source: Path, root: str, names: list[str]) -> tuple[pd.DataFrame, list[Finding]]:
    path = root + ANNOTATIONS_FILE
    table, faults = _parse_table(next(read_files(source, [path]))[1])
    unused = [column for column in table if column not in GIVEN]
    findings = [Finding("unused_column", path, f"column {column!r}") for column in unused]
    for column in "split", "group":
        if column not in table:
            table[column] = ""
    table = table[list(GIVEN)].assign(image=root + table.image)
    expected = f"expected {', '.join(SPLITS)} or nothing"
    unknown = table.split[~table.split.isin(["", *SPLITS])]
    faults += [(line, f"split {split!r}: {expected}") for line, split in _number(unknown)]
    given = table.split != ""
    if given.any():
        none = "no split, while other lines have one: expected all or none"
        faults += [(line, none) for line in table.index[~given]]
    if faults:
        raise DataError(
            source, [Finding("faulty_table", path, what, line) for line, what in sorted(faults, key=itemgetter(0))]
        )
    findings += _find_missing_files(table, root, names)
    unlabelled = table.image[table.label == ""]
    findings += [Finding("no_label", image, "no label", line) for line, image in _number(unlabelled)]
    findings += _find_repeated_rows(table)
    findings += _find_unused(names, {*table.image, path})
    left_out = [found.row for found in findings if found.kind in ROW_KINDS]
    return table[~table.index.isin(left_out)], findings


def _find(what: str, image: str = "") -> Finding:
    return Finding("faulty_source", image, what)


def _number(column: "pd.Series[Any]") -> list[tuple[int, str]]:
    """(line, value) of each row."""
    return list(zip(column.index.tolist(), column.tolist(), strict=True))


def _find_missing_files(table: pd.DataFrame, root: str, names: list[str]) -> list[Finding]:
    missing = table.image[~table.image.isin(set(names))]
    if missing.empty:
        return []
    alike = {_fold(name): name for name in names}
    findings = []
    for line, image in _number(missing):
        written = image.removeprefix(root)
        close = alike.get(_fold(root + written.replace("\\", "/").removeprefix("./")))
        hint = f"; did you mean {close.removeprefix(root)!r}?" if close else ""
        findings.append(Finding("missing_file", written, f"no such file in the source{hint}", line))
    return findings


def _find_repeated_rows(table: pd.DataFrame) -> list[Finding]:
    """All rows of a file but the first, or all of them where they contradict each other."""
    findings = []
    for image, rows in table[table.image.duplicated(keep=False)].groupby("image"):
        labels = ", ".join(repr(label) for label in sorted(set(rows.label)))
        lines = rows.index.tolist()
        told = f"in lines {', '.join(map(str, lines))}, as {labels}"
        differ = len(rows.drop_duplicates()) > 1
        findings += [Finding("repeated_file", str(image), told, line) for line in (lines if differ else lines[1:])]
    return findings


def _label_by_folder(source: Path, root: str, names: list[str]) -> tuple[pd.DataFrame, list[Finding]]:
    images = [name for name in names if is_image(name)]
    tops = {image.removeprefix(root).split("/", 1)[0] for image in images}
    by_split = bool(tops) and tops <= set(SPLITS)
    if not by_split and {"train", "test"} <= {top.lower() for top in tops}:
        expected = f"expected top folders {', '.join(SPLITS)} only, in lower case"
        raise DataError(source, [_find(f"{expected}, found {top!r}") for top in sorted(tops - set(SPLITS))])
    depth = 2 if by_split else 1
    rows, faults = [], []
    for image in images:
        parts = image.removeprefix(root).split("/")
        if len(parts) <= depth:
            faults.append(_find(f"without {ANNOTATIONS_FILE}, expected in the folder of a class", image))
        else:
            rows.append((image, parts[depth - 1], parts[0] if by_split else "", ""))
    if faults:
        raise DataError(source, faults)
    table = pd.DataFrame(rows, columns=["image", "label", "split", "group"], dtype=object)
    return table, _find_unused(names, set(images))


def _check_text(source: Path, table: pd.DataFrame) -> None:
    """Refuse what no CSV file gives back as it was: a carriage return, and a file name that is not UTF-8."""
    faults = [
        _find(f"label {label!r}: expected neither a carriage return nor bytes that are not UTF-8", image)
        for image, label, group in zip(table.image, table.label, table.group, strict=True)
        if "\r" in (text := image + label + group) or text != text.encode(errors="replace").decode()
    ]
    if faults:
        raise DataError(source, faults)


def _find_unused(names: list[str], used: set[str]) -> list[Finding]:
    return [
        Finding("unused_file", name, "an archive, not opened" if is_archive(name) else "not used")
        for name in names
        if name not in used
    ]


def _find_doubtful_text(names: list[str], table: pd.DataFrame) -> list[Finding]:
    labels = sorted(set(table.label))
    findings = [
        Finding("twin_labels", "", " and ".join(map(repr, twins)))
        for twins in _find_twins(labels, lambda label: " ".join(_fold(label).split()))
    ]
    findings += [
        Finding("twin_names", twin, f"beside {first!r}")
        for first, *twins in _find_twins(names, _fold)
        for twin in twins
    ]
    findings += [Finding("odd_path", name, "absolute, or climbs") for name in names if _leaves(name)]
    texts = [("", f"label {label!r}", label) for label in labels]
    texts += [("", f"group {group!r}", group) for group in sorted(set(table.group))]
    texts += [(image, "its name", image) for image in table.image]
    findings += [Finding("odd_text", file, what) for file, what, text in texts if _is_odd(text)]
    findings += [Finding("formula", "", f"label {label!r}") for label in labels if label.startswith(FORMULA)]
    return findings


def _find_twins(texts: Iterable[str], fold: Callable[[str], str]) -> list[list[str]]:
    """Texts that `fold` makes equal, those of each group sorted."""
    alike = defaultdict(list)
    for text in texts:
        alike[fold(text)].append(text)
    return [sorted(twins) for twins in alike.values() if len(twins) > 1]


def _fold(text: str) -> str:
    """As a file system may that looks at neither case nor Unicode form."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _is_odd(text: str) -> bool:
    return text != text.strip() or not (text.isprintable() or text.replace(" ", "").isprintable())


def _leaves(name: str) -> bool:
    """Whether the name leads out of a folder that an archive is unpacked into, on some system. Here none ever is."""
    return name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/")


def _read_rows(content: bytes) -> tuple[list[tuple[int, list[str]]], list[Fault]]:
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], _find_other_encoding(content)
    if b"\0" in content:
        return [], [
            (at, "expected text, found a NUL character")
            for at, line in enumerate(content.split(b"\n"), 1)
            if b"\0" in line
        ]
    # Not io.StringIO, which takes four bytes for each character.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row], []
    except csv.Error as error:
        return [], [(reader.line_num, f"not CSV: {error}")]


def _find_other_encoding(content: bytes) -> list[Fault]:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return [(1, f"expected UTF-8, found byte 0x{content[0]:02x}, as in UTF-16")]
    faults = []
    for at, line in enumerate(content.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            faults.append((at, f"expected UTF-8, found byte 0x{line[error.start]:02x}"))
    return faults


def _check_header(header: list[str]) -> list[Fault]:
    problems = [f"no column {column!r}" for column in REQUIRED if column not in header]
    problems += [f"column {column!r} stands twice" for column in sorted(set(header)) if header.count(column) > 1]
    for column in header:
        close = difflib.get_close_matches(column.strip().lower(), set(GIVEN) - set(header), n=1, cutoff=0.7)
        if column not in COLUMNS and close:
            problems.append(f"column {column!r}: did you mean {close[0]!r}?")
    if not problems:
        return []
    found = ",".join(header) or "an empty file"
    return [(1, what) for what in (f"expected columns image,label[,split][,group], found {found}", *problems)]
