"""Files of a source -> table of its labelled images; the table <-> annotations.csv.

The table has one row per image and text in every column: image (name in the source), label, split (train, val or
test), group ('' where none is given) and sha256 (of the file's bytes). The file holds the splits one after another,
each sorted by name.
"""

import csv
import difflib
import io
from pathlib import Path, PurePosixPath

import pandas as pd

from imclass.data.source import list_files, read_files
from imclass.errors import InputError, list_problems
from imclass.files import CHECK, find_changed_rows, name_in_errors, write_checked_rows

SPLITS = ("train", "val", "test")
COLUMNS = ("image", "label", "split", "group", "sha256")
REQUIRED = ("image", "label")
ANNOTATIONS_FILE = "annotations.csv"  # in a source, gives the labels
IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


def label_images(source: Path) -> pd.DataFrame:
    """The labelled images of a source as columns image, label, split and group, '' where split or group is not given.

    Labels come from the source's annotations.csv, else each image's top folder is its label. One folder around
    everything is looked through; top folders train, val and test give the split.
    Raises InputError naming file and row for whatever does not fit.
    """
    names = list_files(source)
    root = _find_root(names)
    if root + ANNOTATIONS_FILE in names:
        table = _label_by_table(source, root, names)
    else:
        table = _label_by_folder(source, root, names)
    if table.label.nunique() < 2:
        found = f"only {table.label.iloc[0]!r}" if len(table) else "no image"
        raise InputError(f"{source}: expected images of at least two classes, found {found}")
    _check_text(source, table)
    return table.sort_values("image", ignore_index=True)


def read_table(where: str, content: bytes) -> pd.DataFrame:
    """A CSV of annotations as text, value for value, indexed by line number.

    Raises InputError naming `where` and the line: other encodings than UTF-8, a missing or unknown column, a line with
    too few or too many fields, an empty image or label.
    """
    rows = _read_rows(where, content)
    header = rows[0][1] if rows else []
    _check_header(where, header)
    problems = [
        f"line {line}: expected {len(header)} fields, found {len(row)}"
        for line, row in rows[1:]
        if len(row) != len(header)
    ]
    if problems:
        raise InputError(f"{where}: lines that do not fit the header\n{list_problems(problems)}")
    table = pd.DataFrame(
        [row for _, row in rows[1:]], columns=header, index=[line for line, _ in rows[1:]], dtype=object
    )
    problems = [f"line {line}: no {column}" for column in REQUIRED for line in table.index[table[column] == ""]]
    if problems:
        raise InputError(f"{where}: lines without image or label\n{list_problems(problems)}")
    unused = [column for column in header if column not in (*COLUMNS, CHECK)]
    if unused:
        print(f"{where}: columns not used: {', '.join(unused)}")
    return table[[column for column in (*COLUMNS, CHECK) if column in header]]


def write_annotations(table: pd.DataFrame, path: Path) -> None:
    """Write the table, split by split and sorted by name, whole or not at all."""
    order = table.split.map(SPLITS.index)
    table = table.assign(order=order).sort_values(["order", "image"])
    write_checked_rows(path, COLUMNS, table[list(COLUMNS)].itertuples(index=False))


def read_annotations(path: Path) -> pd.DataFrame:
    """Read what `write_annotations` wrote.

    Raises InputError where the file is not such a table, or has changed since.
    """
    with name_in_errors(path):
        content = path.read_bytes()
    table = read_table(str(path), content)
    if tuple(table.columns) != (*COLUMNS, CHECK) or not table.split.isin(SPLITS).all():
        raise InputError(f"{path}: expected columns {','.join([*COLUMNS, CHECK])} and a known split in each row")
    if changed := find_changed_rows(table.values.tolist()):
        lines = [f"line {table.index[at]}: {table.image.iloc[at]!r}" for at in changed]
        raise InputError(
            f"{path}: changed since prepare wrote it; labels and splits belong in the source\n{list_problems(lines)}"
        )
    return table[list(COLUMNS)].reset_index(drop=True)


def _find_root(names: list[str]) -> str:
    """The prefix of all names but hidden ones: '', or the one folder around everything, with its slash."""
    tops = {name.split("/", 1)[0] for name in names if not _is_hidden(name)}
    if len(tops) != 1 or tops <= set(SPLITS):
        return ""
    root = f"{tops.pop()}/"
    images_inside = any(_is_image(name) and name.count("/") == 1 for name in names)
    return "" if images_inside and root + ANNOTATIONS_FILE not in names else root


def _label_by_table(source: Path, root: str, names: list[str]) -> pd.DataFrame:
    where = f"{source}: {root}{ANNOTATIONS_FILE}"
    table = read_table(where, next(read_files(source, [root + ANNOTATIONS_FILE]))[1])
    for column in "split", "group":
        if column not in table:
            table[column] = ""
    table["image"] = root + table.image
    known = set(names)
    problems = [
        f"line {line}: {image!r}: no such file in the source"
        for line, image in table.image[~table.image.isin(known)].items()
    ]
    for image, rows in table[table.image.duplicated(keep=False)].groupby("image"):
        labels = ", ".join(repr(label) for label in sorted(set(rows.label)))
        problems.append(f"lines {', '.join(map(str, rows.index))}: {image!r}: more than once, as {labels}")
    problems += [
        f"line {line}: split {split!r}: expected {', '.join(SPLITS)} or nothing"
        for line, split in table.split[~table.split.isin(["", *SPLITS])].items()
    ]
    given = table.split != ""
    if given.any() and not given.all():
        line = table.index[~given][0]
        problems.append(f"line {line}: no split, while other lines have one: expected all or none")
    if problems:
        raise InputError(f"{where}: rows that do not fit the source\n{list_problems(problems)}")
    _tell_unused(names, {*table.image, root + ANNOTATIONS_FILE})
    return table[["image", "label", "split", "group"]]


def _label_by_folder(source: Path, root: str, names: list[str]) -> pd.DataFrame:
    images = [name for name in names if _is_image(name)]
    tops = {image.removeprefix(root).split("/", 1)[0] for image in images}
    by_split = bool(tops) and tops <= set(SPLITS)
    if not by_split and {"train", "test"} <= {top.lower() for top in tops}:
        others = ", ".join(map(repr, sorted(tops - set(SPLITS))[:5]))
        raise InputError(f"{source}: expected top folders {', '.join(SPLITS)} only, in lower case, found {others}")
    depth = 2 if by_split else 1
    rows, problems = [], []
    for image in images:
        parts = image.removeprefix(root).split("/")
        if len(parts) <= depth:
            problems.append(f"{image}: not in the folder of a class")
        else:
            rows.append((image, parts[depth - 1], parts[0] if by_split else "", ""))
    if problems:
        raise InputError(
            f"{source}: without {ANNOTATIONS_FILE}, expected a folder per class\n{list_problems(problems)}"
        )
    _tell_unused(names, set(images))
    return pd.DataFrame(rows, columns=["image", "label", "split", "group"], dtype=object)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _check_text(source: Path, table: pd.DataFrame) -> None:
    """Refuse what no CSV file gives back as it was: a carriage return, and a file name that is not UTF-8."""
    problems = [
        f"{image!r}, label {label!r}: expected neither a carriage return nor bytes that are not UTF-8"
        for image, label, group in zip(table.image, table.label, table.group, strict=True)
        if "\r" in (text := image + label + group) or text != text.encode(errors="replace").decode()
    ]
    if problems:
        raise InputError(f"{source}: names or labels that cannot be written down\n{list_problems(problems)}")


def _tell_unused(names: list[str], used: set[str]) -> None:
    unused = [name for name in names if name not in used]
    if unused:
        print(f"files not used: {len(unused)}, such as {unused[0]}")


def _read_rows(where: str, content: bytes) -> list[tuple[int, list[str]]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        utf16 = ", as in UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        found = f"byte 0x{content[error.start]:02x}{utf16}"
        raise InputError(f"{where}: line {line}: expected UTF-8, found {found}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{where}: line {line}: expected text, found a NUL character")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num}: not CSV: {error}") from None


def _check_header(where: str, header: list[str]) -> None:
    problems = [f"no column {column!r}" for column in REQUIRED if column not in header]
    problems += [f"column {column!r} stands twice" for column in sorted(set(header)) if header.count(column) > 1]
    for column in header:
        close = difflib.get_close_matches(column.strip().lower(), set(COLUMNS) - set(header), n=1, cutoff=0.7)
        if column not in COLUMNS and close:
            problems.append(f"column {column!r}: did you mean {close[0]!r}?")
    if problems:
        found = ",".join(header) or "an empty file"
        raise InputError(
            f"{where}: expected columns image,label[,split][,group], found {found}\n{list_problems(problems)}"
        )
