"""Two revisions or experiments -> what changed in their images, labels and splits, and what that did to the results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from imclass.data.annotations import SPLITS, read_table
from imclass.errors import InputError
from imclass.files import write_text
from imclass.pages import render_page
from imclass.team.compare import Difference, compare_revisions, describe_verdict, format_difference, prepare_page
from imclass.team.revisions import WORK_TREE, load_pictures, read_file

ANNOTATIONS = Path("data/annotations.csv")
METRICS = Path("reports/metrics.json")
KINDS = ("added", "removed", "renamed", "relabelled", "moved", "other pixels")
MOST_LISTED = 20  # of each kind on the screen
MOST_SHOWN = 200  # of each kind on the page


@dataclass(frozen=True)
class Change:
    """Of one image; one may have changed in several ways.

    Label and split are those after the change, or the last ones of a removed image. `before` is the earlier name of a
    renamed image, the earlier label of a relabelled one, the earlier split of a moved one, and '' for the others.
    """

    kind: str
    image: str
    label: str
    split: str
    before: str


@dataclass(frozen=True)
class DataDiff:
    """How many images there were and are, and what changed, kind after kind."""

    num_before: int
    num_after: int
    changes: list[Change]


@dataclass(frozen=True)
class Diff:
    """Two revisions: their data, and their results or why they cannot be compared."""

    before: str
    after: str
    data: DataDiff
    metrics: pd.DataFrame
    results: Difference | InputError


def diff_revisions(before: str, after: str | None) -> Diff:
    """Compare two revisions (commits, branches, tags, experiments); None is the work tree.

    Raises InputError for an unknown revision and one whose annotations are in neither cache nor remote.
    """
    tables = [
        read_table(f"{name or WORK_TREE}: {ANNOTATIONS}", read_file(ANNOTATIONS, name)) for name in (before, after)
    ]
    try:
        results: Difference | InputError = compare_revisions(before, after)
    except InputError as error:
        results = error
    metrics = [_format_metrics(read_file(METRICS, name)) for name in (before, after)]
    names = before, after or WORK_TREE
    return Diff(*names, diff_tables(*tables), pd.DataFrame(dict(zip(names, metrics, strict=True))).fillna(""), results)


def diff_tables(before: pd.DataFrame, after: pd.DataFrame) -> DataDiff:
    """Compare tables of annotations with columns image, label, split and sha256."""
    both = before.merge(after, on="image", suffixes=("_before", ""))
    gone, new = before[~before.image.isin(after.image)], after[~after.image.isin(before.image)]
    renamed = gone.drop_duplicates("sha256").merge(
        new.drop_duplicates("sha256"), on=["sha256", "label", "split"], suffixes=("_before", "")
    )
    found = {
        "added": new[~new.image.isin(renamed.image)].assign(before=""),
        "removed": gone[~gone.image.isin(renamed.image_before)].assign(before=""),
        "renamed": renamed.assign(before=lambda rows: rows.image_before),
        "relabelled": both[both.label_before != both.label].assign(before=lambda rows: rows.label_before),
        "moved": both[both.split_before != both.split].assign(before=lambda rows: rows.split_before),
        "other pixels": both[both.sha256_before != both.sha256].assign(before=""),
    }
    changes = [
        Change(kind, *row)
        for kind, rows in found.items()
        for row in rows[["image", "label", "split", "before"]].values.tolist()
    ]
    return DataDiff(len(before), len(after), changes)


def format_diff(diff: Diff, *, markdown: bool) -> str:
    """Lines for the screen, or as Markdown for a pull request."""
    style = "github" if markdown else "simple"
    heading, block = ("### ", "```") if markdown else ("", "")
    lines = [f"{heading}Data: {_describe_counts(diff)}", ""]
    for table in _count_changes(diff.data.changes):
        lines += [_format_table(table, style), ""]
    for kind, changes in _group(diff.data.changes).items():
        lines += ["<details><summary>", ""] if markdown else []
        lines += [f"{kind}: {len(changes)}", *(["", "</summary>", "", block] if markdown else [])]
        lines += [f"  {_describe_change(change)}" for change in changes[:MOST_LISTED]]
        lines += [f"  and {len(changes) - MOST_LISTED} more"] if len(changes) > MOST_LISTED else []
        lines += [block, "", "</details>", ""] if markdown else [""]
    if isinstance(diff.results, InputError):
        return "\n".join([*lines, f"{heading}Results", "", f"not compared: {diff.results}"])
    lines += [f"{heading}Results: {describe_verdict(diff.results.comparison)}", ""]
    lines += [_format_table(diff.metrics, style), "", block]
    return "\n".join([*lines, format_difference(diff.results), block]).rstrip()


def write_page(diff: Diff, before: str, after: str | None, path: Path) -> None:
    """Write one HTML file that needs no other, with the pictures before and after.

    Shows at most 200 images of each kind. Raises InputError where the pictures cannot be had.
    """
    groups = _group(diff.data.changes)
    shown = {kind: changes[:MOST_SHOWN] for kind, changes in groups.items()}
    earlier = {one.image for kind in ("removed", "other pixels") for one in shown.get(kind, [])}
    later = {one.image for kind, changes in shown.items() if kind != "removed" for one in changes}
    results = {} if isinstance(diff.results, InputError) else prepare_page(diff.results, after)
    page = render_page(
        Path(__file__).with_name("diff.html"),
        **{"before": diff.before, "after": diff.after, **results},
        diff=diff,
        summary=_describe_counts(diff),
        tables=[table.to_html(border=0) for table in _count_changes(diff.data.changes)],
        changes=groups,
        most=MOST_SHOWN,
        pictures_before=load_pictures(earlier, before),
        pictures_after=load_pictures(later, after),
        describe_change=_describe_change,
        refused=diff.results if isinstance(diff.results, InputError) else None,
    )
    write_text(path, page)


def _describe_counts(diff: Diff) -> str:
    data = diff.data
    counted = f"{diff.before} -> {diff.after}: {data.num_before:,} -> {data.num_after:,} images"
    return counted if len(data.changes) else f"{counted}, no image, label or split changed"


def _count_changes(changes: list[Change]) -> list[pd.DataFrame]:
    """By split and by class; none where nothing changed."""
    if not changes:
        return []
    table = pd.DataFrame(changes)
    by_split = pd.crosstab(table.kind, table.split).reindex(
        index=list(_group(changes)), columns=list(SPLITS), fill_value=0
    )
    by_class = pd.crosstab(table.label, table.kind)[list(by_split.index)]
    return [by_split.rename_axis(None, axis=0), by_class.rename_axis(None, axis=0)]


def _format_table(table: pd.DataFrame, style: str) -> str:
    rows = [[str(name).replace("|", "\\|"), *values] for name, values in zip(table.index, table.values, strict=True)]
    return tabulate(
        rows, headers=["", *table.columns], tablefmt=style, colalign=["left", *["right"] * len(table.columns)]
    )


def _group(changes: list[Change]) -> dict[str, list[Change]]:
    return {kind: found for kind in KINDS if (found := [one for one in changes if one.kind == kind])}


def _describe_change(change: Change) -> str:
    if change.kind == "renamed":
        return f"{change.before} -> {change.image}"
    if change.kind == "relabelled":
        return f"{change.image} ({change.split}): {change.before!r} -> {change.label!r}"
    if change.kind == "moved":
        return f"{change.image} ({change.label!r}): {change.before} -> {change.split}"
    return f"{change.image}: {change.label!r}, {change.split}"


def _format_metrics(content: bytes) -> Mapping[str, str]:
    figures = json.loads(content)
    return {
        name: f"{value:.4f} ({figures['low'][name]:.4f} to {figures['high'][name]:.4f})"
        for name, value in figures["test"].items()
        if name in figures.get("low", {})
    }
