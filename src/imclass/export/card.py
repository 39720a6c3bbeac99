"""What a run left in its files -> the model card, Markdown that goes with the exported files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imclass.files import write_text
from imclass.models.classifier import Classifier
from imclass.params import flatten

HERE = Path(__file__).parent
CARD, PROGRAM = "card.md", "predict.py"


def write_card(
    path: Path,
    model: Classifier,
    parity: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any],
    data: Mapping[str, Any],
) -> None:
    """Write the card. The others are what reports/parity.json, metrics.json and data.json hold."""
    environment = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(code=_quote, cell=_quote_in_cell)
    config = model.config
    program = (HERE / PROGRAM).read_text("utf-8").partition("\n\n")[2].strip()
    found = [f"{kind} {count}" for kind, count in data["findings"].items() if count]
    text = environment.get_template(CARD).render(
        network=config.network["name"],
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        classes=config.classes,
        fit=config.fit,
        call=_write_call(config.fit),
        trained=config.trained,
        params={name: json.dumps(value) for name, value in flatten(config.trained.get("params", {})).items()},
        metrics=metrics,
        data=data,
        findings=", ".join(found),
        largest_difference=max(parity[name]["largest_difference"] for name in ("onnx", "program")),
        changed_decisions=max(parity[name]["changed_decisions"] for name in ("onnx", "program")),
        int8=parity.get("int8", {"kept": 0}),
        snippet=program,
    )
    write_text(path, text)


def _write_call(fit: Mapping[str, Any]) -> str:
    """The call of Pillow that does what build does to a picture of the model's mode."""
    size = f"({fit['width']}, {fit['height']}), Image.Resampling.BILINEAR"
    color = ", ".join([str(fit["background"])] * fit["channels"]) + ("," if fit["channels"] == 1 else "")
    return {
        "crop": f"ImageOps.fit(picture, {size})",
        "pad": f"ImageOps.pad(picture, {size}, color=({color}))",
        "stretch": f"picture.resize({size})",
    }[fit["fit"]]


def _quote(name: str) -> str:
    """As code, which nothing in the name can end: in one line, between more backticks than it has in a row."""
    text = name.replace("\n", "\\n")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _quote_in_cell(name: str) -> str:
    """As code in a table, whose cells end at a `|`."""
    return _quote(name).replace("|", "\\|")
