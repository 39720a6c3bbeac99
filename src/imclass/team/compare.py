"""Two revisions or experiments -> which test images they decide differently, and whether one is better.

Their files are read through DVC, from its cache or its remote: the work tree is left as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imclass.evaluation.comparison import Comparison, compare_decisions, describe_unshared
from imclass.evaluation.predictions import Decision, read_decisions
from imclass.files import write_text
from imclass.pages import render_page
from imclass.team.revisions import WORK_TREE, load_pictures, read_file

PREDICTIONS = Path("reports/predictions.csv")
MOST_LISTED = 20  # of newly right and newly wrong images on the screen
MOST_SHOWN = 200  # of each on the page


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
        read_decisions(read_file(PREDICTIONS, name).decode(), f"{name or WORK_TREE}: {PREDICTIONS}")
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
    write_text(path, render_page(Path(__file__).with_name("compare.html"), **prepare_page(difference, revision)))


def prepare_page(difference: Difference, revision: str | None) -> dict[str, Any]:
    """What compare.html shows."""
    comparison = difference.comparison
    groups = {"Newly wrong": comparison.newly_wrong, "Newly right": comparison.newly_right}
    shown = {title: images[:MOST_SHOWN] for title, images in groups.items()}
    pictures = load_pictures({image for images in shown.values() for image in images}, revision)
    return {
        "before": difference.before,
        "after": difference.after,
        "difference": difference,
        "comparison": comparison,
        "verdict": describe_verdict(comparison),
        "groups": groups,
        "shown": shown,
        "pictures": pictures,
        "describe": lambda image: describe_change(difference, image),
    }
