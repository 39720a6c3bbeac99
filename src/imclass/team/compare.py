"""Two revisions or experiments -> which test images they decide differently, and whether one is better.

Their files are read through DVC, from its cache or its remote: the work tree is left as it is.
"""

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imclass.errors import InputError
from imclass.evaluation.comparison import Comparison, compare_decisions, describe_unshared
from imclass.evaluation.predictions import Decision, read_decisions
from imclass.files import write_text

PREDICTIONS = Path("reports/predictions.csv")
PACKED = Path("data/packed")
WORK_TREE = "work tree"
MOST_LISTED = 20  # of newly right and newly wrong images on the screen
MOST_SHOWN = 200  # of each on the page
TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Difference:
    """Two revisions by their names, what each decided, and what that tells."""

    before: str
    after: str
    decisions_before: dict[str, Decision]
    decisions_after: dict[str, Decision]
    comparison: Comparison

    @property
    def unshared(self) -> str:
        """A sentence on the images that only one of them judged."""
        return describe_unshared(self.decisions_before, self.decisions_after)


def compare_revisions(before: str, after: str | None) -> Difference:
    """Compare the predictions of two revisions (commits, branches, tags, experiments); None is the work tree.

    Raises InputError for an unknown revision, one whose predictions are in neither cache nor remote, and two without
    a test image in common.
    """
    first, second = (
        read_decisions(_read(PREDICTIONS, name).decode(), f"{name or WORK_TREE}: {PREDICTIONS}")
        for name in (before, after)
    )
    return Difference(before, after or WORK_TREE, first, second, compare_decisions(first, second))


def describe_verdict(comparison: Comparison) -> str:
    """One sentence, with the number of images that would be needed where there are too few."""
    needed = comparison.images_needed
    if comparison.verdict != "not distinguishable" or needed is None:
        return comparison.verdict
    return (
        f"not distinguishable: such a difference would show on about {needed:,} images (chance 80 %, "
        f"here {comparison.images:,})"
    )


def format_difference(difference: Difference) -> str:
    """Lines for the screen."""
    comparison = difference.comparison
    gap = comparison.difference
    lines = [
        f"{difference.before} -> {difference.after}: {comparison.images} test images",
        *filter(None, [difference.unshared]),
        f"accuracy {comparison.before.value:.4f} -> {comparison.after.value:.4f}, difference {gap.value:+.4f} "
        f"(95 % interval {gap.low:+.4f} to {gap.high:+.4f})",
        f"{len(comparison.newly_right)} newly right, {len(comparison.newly_wrong)} newly wrong "
        f"(McNemar's test: p {comparison.p_value:.2g})",
        describe_verdict(comparison),
    ]
    for title, images in ("newly right", comparison.newly_right), ("newly wrong", comparison.newly_wrong):
        lines += [f"{title}:"] if images else []
        lines += [f"  {image}: {describe_change(difference, image)}" for image in images[:MOST_LISTED]]
        lines += [f"  and {len(images) - MOST_LISTED} more"] if len(images) > MOST_LISTED else []
    changed = {name: one for name, one in comparison.classes.items() if one.right_before != one.right_after}
    if changed:
        width = max(map(len, changed))
        lines.append("classes with another number of right images:")
        lines += [
            f"  {name:<{width}}  {one.right_before:>5} -> {one.right_after:>5} of {one.images}"
            for name, one in changed.items()
        ]
    return "\n".join(lines)


def describe_change(difference: Difference, image: str) -> str:
    """What an image is, and what it was and is taken for."""
    before, after = difference.decisions_before[image], difference.decisions_after[image]
    return f"{after.label!r}, taken for {before.predicted!r} -> {after.predicted!r}"


def write_page(difference: Difference, revision: str | None, path: Path) -> None:
    """Write one HTML file that needs no other, with the images as `revision` (None: the work tree) holds them.

    Shows at most 200 newly right and 200 newly wrong images. Raises InputError where the images cannot be had.
    """
    from jinja2 import Environment, StrictUndefined

    comparison = difference.comparison
    groups = {"Newly wrong": comparison.newly_wrong, "Newly right": comparison.newly_right}
    shown = {title: images[:MOST_SHOWN] for title, images in groups.items()}
    pictures = _load_pictures({image for images in shown.values() for image in images}, revision)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        difference=difference,
        comparison=comparison,
        verdict=describe_verdict(comparison),
        groups=groups,
        shown=shown,
        pictures=pictures,
        describe=lambda image: describe_change(difference, image),
    )
    write_text(path, page)


def _read(path: Path, revision: str | None) -> bytes:
    if revision is None:
        return path.read_bytes()
    with _open_files(revision, path) as files:
        return files.read_bytes(path.as_posix())


@contextmanager
def _open_files(revision: str, path: Path) -> Iterator[Any]:
    """A revision's files as DVC sees them, to read `path` from."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        yield DVCFileSystem(rev=revision)
    except FileNotFoundError:
        raise InputError(
            f"{revision}: its {path} is in neither DVC's cache nor a remote: run `dvc pull`, or the pipeline there"
        ) from None
    except DvcException as error:
        raise InputError(f"{revision}: expected a revision or an experiment of this project: {error}") from None


def _load_pictures(images: set[str], revision: str | None) -> Mapping[str, str]:
    """PNG files of the images as data URLs, by name, from the packed set of a revision."""
    meta = PACKED / "meta.json"
    if revision is None or (meta.exists() and meta.read_bytes() == _read(meta, revision)):
        return _encode(PACKED, images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "packed")
        with _open_files(revision, PACKED) as files:
            files.get(PACKED.as_posix(), str(folder), recursive=True)
        return _encode(folder, images)


def _encode(packed: Path, images: set[str]) -> dict[str, str]:
    import numpy as np
    from PIL import Image

    from imclass.data.packed import open_packed, read_names

    data = open_packed(packed)
    rows = {name: row for row, name in enumerate(read_names(data, "test"))}
    if missing := images - rows.keys():
        raise InputError(
            f"{PACKED}: expected the test images of {PREDICTIONS}, found no {min(missing)}: run the pipeline"
        )
    urls = {}
    for image in images:
        pixels = np.asarray(data.splits["test"].images[rows[image]]).transpose(1, 2, 0)
        stream = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
        urls[image] = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return urls
