"""predictions.csv + those of the accepted model -> gate.json, and a stop for a model that must not be exported."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.evaluation.gate import check_verdict, judge
from imclass.evaluation.predictions import read_classes, read_decisions
from imclass.files import write_text
from imclass.params import Params
from imclass.stage import run


def gate(params: Params, predictions_file: Path, accepted_file: Path, verdict_file: Path) -> None:
    predictions, accepted = (path.read_text(encoding="utf-8") for path in (predictions_file, accepted_file))
    verdict = judge(
        read_decisions(predictions, str(predictions_file)),
        read_decisions(accepted, str(accepted_file)),
        read_classes(predictions),
        **params.gate.model_dump(),
    )
    write_text(verdict_file, json.dumps(verdict.found, indent=2, ensure_ascii=False) + "\n")
    check_verdict(verdict)
    print("passed:", verdict.note or "not worse than the accepted model")


if __name__ == "__main__":
    run(gate)
