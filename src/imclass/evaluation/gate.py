"""Decisions of a model and of the accepted one -> whether it may leave the house."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imclass.errors import InputError, list_problems
from imclass.evaluation.comparison import LEVEL, Comparison, compare_decisions, describe_unshared, find_shared
from imclass.evaluation.metrics import Estimate, estimate_share
from imclass.evaluation.predictions import Decision


@dataclass(frozen=True)
class Verdict:
    """What was found, as plain values for a JSON file, and a sentence for each requirement that is not met.

    DVC shows the verdict among its metrics, and leaves out what is in lists. `note` tells what was not compared.
    """

    found: dict[str, Any]
    note: str
    reasons: list[str]


def judge(
    decisions: Mapping[str, Decision],
    accepted: Mapping[str, Decision],
    classes: list[str],
    *,
    accuracy: float,
    class_recall: float,
) -> Verdict:
    """Hold a model against the floors and against the accepted model, where there is one.

    A floor is met where the lower end of the 95 % interval reaches it: then the model is shown to be so good.
    """
    reasons = []
    supports = Counter(one.label for one in decisions.values())
    rights = Counter(one.label for one in decisions.values() if one.predicted == one.label)
    overall = estimate_share(rights.total(), len(decisions))
    recalls = {name: estimate_share(rights[name], supports[name]) for name in classes}
    if overall.low < accuracy:
        reasons.append(f"accuracy {_show(overall, len(decisions))} of at least {accuracy:g} (gate.accuracy)")
    reasons += [
        f"class {name!r}: recall {_show(recall, supports[name])} of at least {class_recall:g} (gate.class_recall)"
        for name, recall in recalls.items()
        if recall.low < class_recall
    ]
    comparison = compare_decisions(accepted, decisions) if find_shared(accepted, decisions) else None
    if comparison and comparison.p_worse < LEVEL:
        gap = comparison.difference
        reasons.append(
            f"worse than the accepted model: accuracy {gap.value:+.4f} (95 % interval {gap.low:+.4f} to "
            f"{gap.high:+.4f}), {len(comparison.newly_wrong)} newly wrong, {len(comparison.newly_right)} newly right "
            f"of {comparison.images} images, p {comparison.p_worse:.2g}"
        )
    accepted_found = _describe(comparison, accepted, decisions)
    lowest = min(recalls, key=lambda name: recalls[name].low)
    found = {
        "verdict": "failed" if reasons else "passed",
        "reasons": reasons,
        "checks": [
            {"of": "accuracy", "floor": accuracy, "low": round(overall.low, 6)},
            {"of": "class_recall", "floor": class_recall, "low": round(recalls[lowest].low, 6), "class": lowest},
            {"of": "accepted", **accepted_found},
        ],
    }
    return Verdict(found, accepted_found["note"], reasons)


def check_verdict(verdict: Verdict) -> None:
    """Raise InputError with all reasons against a model that has failed."""
    if verdict.reasons:
        raise InputError(f"this model is not to be exported\n{list_problems(verdict.reasons)}")


def _describe(
    comparison: Comparison | None, accepted: Mapping[str, Decision], decisions: Mapping[str, Decision]
) -> dict[str, Any]:
    if not comparison:
        what = "no test image in common with the accepted model" if accepted else "no model accepted yet"
        return {"note": f"{what}: not compared"}
    return {
        "note": describe_unshared(accepted, decisions),
        "images": comparison.images,
        "newly_right": len(comparison.newly_right),
        "newly_wrong": len(comparison.newly_wrong),
        "difference": {end: round(value, 6) for end, value in asdict(comparison.difference).items()},
        "p_worse": round(comparison.p_worse, 6),
    }


def _show(share: Estimate, images: int) -> str:
    interval = f"95 % interval {share.low:.4f} to {share.high:.4f}, {images} images"
    return f"{share.value:.4f} ({interval}): expected a lower end"
