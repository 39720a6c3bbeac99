"""HTML template -> page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def render_page(template: Path, *, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """The page of a template that may take others from its folder; what is missing is an error, not empty."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import

    environment = Environment(
        loader=FileSystemLoader(template.parent, encoding="utf-8"),
        autoescape=True,  # names of classes and files are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template.name).render(values)
