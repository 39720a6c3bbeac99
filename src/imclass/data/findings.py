"""Faults of the data: the kinds there are, what is done about each, the table and the counts that tell of them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imclass.errors import InputError, list_problems
from imclass.files import read_checked_rows, write_checked_rows, write_text

# Worst first. What is done is told by params.yaml (checks.policy), and is a warning where nothing is written there.
KINDS = {
    "faulty_source": "files, members or archives that cannot be read, or must not be",
    "faulty_table": "faults for which annotations.csv makes no table of images",
    "missing_file": "rows without their file",
    "no_label": "rows without a label",
    "repeated_file": "rows of a file that has another row",
    "unreadable": "files that are no sound picture",
    "two_labels": "pictures that have another label elsewhere",
    "twin_labels": "labels that differ only in case, white space or Unicode form",
    "same_picture": "pictures that are in another split too",
    "shared_group": "images of a group that is in another split too",
    "near_duplicate": "pictures that are nearly one of another split",
    "small": "pictures with a side below checks.smallest_side",
    "uniform": "pictures of nearly one level",
    "few_images": "classes with fewer images in a split than checks.images_per_class",
    "shifted_share": "classes with another share of a split than of train",
    "twin_names": "files whose names differ only in case or Unicode form",
    "odd_path": "files whose names lead out of the source; they are read from inside it",
    "odd_text": "names and labels with control characters or outer white space",
    "formula": "labels that a spreadsheet takes for a formula; they stay text",
    "unused_file": "files that are no image here",
    "unused_column": "columns that nothing reads",
    "wrong_extension": "pictures of another format than their name says",
    "converted": "pictures that were brought to grey or RGB, or turned upright",
}
ROW_KINDS = ("missing_file", "no_label", "repeated_file")  # of rows that no table holds
POLICIES = ("fail", "drop", "warn")  # stop; leave the image out; go on
COLUMNS = ("file", "row", "kind", "policy", "detail")
MOST_WARNED = 3  # of a kind, on the screen


@dataclass(frozen=True)
class Finding:
    """`file` is the image that is left out where the policy is drop, '' where there is none.

    `row` is the line in the source's annotations.csv, where the finding is about one. Those of one kind
    come by `weight`, the heaviest first; no file holds it.
    """

    kind: str
    file: str
    detail: str
    row: int | None = None
    weight: float = 0.0

    def __str__(self) -> str:
        line = [] if self.row is None else [f"line {self.row}"]
        return ": ".join([*line, *([repr(self.file)] if self.file else []), self.detail])


class DataError(InputError):
    """Data that give no table of images: `findings` are all that stands in the way, of the first two kinds."""

    def __init__(self, source: Path, findings: Sequence[Finding]) -> None:
        told = [_escape(str(found)) for found in findings]
        self.findings = findings
        super().__init__(f"{source}: {told[0]}" if len(told) == 1 else f"{source}: faults\n{list_problems(told)}")


def find_left_out(findings: Iterable[Finding], policy: Mapping[str, str]) -> set[str]:
    """The images that the policy (by kind) leaves out; rows that are at fault are in no table anyway."""
    return {found.file for found in findings if policy.get(found.kind) == "drop" and found.kind not in ROW_KINDS}


def enforce_policy(findings: Sequence[Finding], policy: Mapping[str, str], told_in: Path) -> None:
    """Print what is left out and warned of. Raises InputError with the findings whose kind has the policy fail."""
    failing = [finding for finding in findings if policy.get(finding.kind) == "fail"]
    if failing:
        counts = Counter(finding.kind for finding in failing)
        lines = [
            f"{kind}: {counts[kind]} {what}\n{list_problems(_sort(failing, kind))}"
            for kind, what in KINDS.items()
            if counts[kind]
        ]
        advice = f"all are in {told_in}; checks.policy says what is done about each kind"
        raise InputError("\n".join([f"faults in the data ({advice})", *lines]))
    for kind, what in KINDS.items():
        if told := _sort(findings, kind):
            left_out = ", left out" if policy.get(kind) == "drop" else ""
            print(f"{kind}: {len(told)} {what}{left_out}", list_problems(told, MOST_WARNED), sep="\n")


def write_findings(path: Path, findings: Iterable[Finding], policy: Mapping[str, str]) -> None:
    """Write a CSV table file,row,kind,policy,detail,check, the worst first, whole or not at all."""
    order = list(KINDS)
    ranked = sorted(
        findings,
        key=lambda found: (POLICIES.index(policy.get(found.kind, "warn")), order.index(found.kind), _rank(found)),
    )
    rows = [
        (
            _escape(found.file),
            "" if found.row is None else found.row,
            found.kind,
            policy.get(found.kind, "warn"),
            _escape(found.detail),
        )
        for found in ranked
    ]
    write_checked_rows(path, COLUMNS, rows)


def read_findings(path: Path) -> tuple[list[Finding], dict[str, str]]:
    """What `write_findings` wrote, in its order, and the policy of each kind among them.

    Raises InputError for any other table, and where it has changed since.
    """
    rows = read_checked_rows(path, COLUMNS)
    findings = [Finding(kind, name, detail, int(row) if row else None) for name, row, kind, _, detail in rows]
    return findings, {kind: policy for _, _, kind, policy, _ in rows}


def write_counts(
    path: Path,
    findings: Iterable[Finding],
    policy: Mapping[str, str],
    images: Mapping[Any, Mapping[Any, int]],
) -> None:
    """Write JSON: `findings` per kind, `images` that stay per class and split, and how many rows were `left_out`."""
    findings = list(findings)
    counts = Counter(found.kind for found in findings)
    left_out = {(found.file, found.row) for found in findings if policy.get(found.kind) == "drop"}
    content = {"findings": {kind: counts[kind] for kind in KINDS}, "images": images, "left_out": len(left_out)}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _sort(findings: Iterable[Finding], kind: str) -> list[str]:
    chosen = [finding for finding in findings if finding.kind == kind]
    return [_escape(str(found)) for found in sorted(chosen, key=_rank)]


def _rank(found: Finding) -> tuple[float, str, int, str]:
    return -found.weight, found.file, found.row or 0, found.detail


def _escape(text: str) -> str:
    """A name as it can be written and printed: what has no shape, and bytes that are no UTF-8, as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
