"""The page that asks the endpoint: one file, which loads nothing but the answers."""

import base64
import hashlib
from pathlib import Path

from imclass.evaluation import report
from imclass.pages import render_page
from imclass.serving.model import Model
from imclass.serving.server.explaining import Explainer
from imclass.serving.server.intake import Limits

PAGE, STYLE, SCRIPT = "page.html", "page.css", "page.js"
FOLDER, REPORT = Path(__file__).parent, Path(report.__path__[0])  # whose style the page shares


def write_page(model: Model, sha256: str, explainer: Explainer | str, limits: Limits) -> str:
    """The page as HTML."""
    return render_page(
        FOLDER / PAGE,
        classes=len(model.classes),
        fit=model.fit,
        sha256=sha256,
        no_explanation=explainer if isinstance(explainer, str) else "",
        limits=limits,
        style=_read_style(),
        script=_read_script(),
    )


def _read_style() -> str:
    return "".join((folder / STYLE).read_text("utf-8") for folder in (REPORT, FOLDER))


def _read_script() -> str:
    return (FOLDER / SCRIPT).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_read_script())}",
        f"style-src {_hash(_read_style())}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
