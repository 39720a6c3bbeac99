"""A recipe, which is the part of params.yaml that differs, -> params.yaml."""

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imclass.errors import InputError
from imclass.files import write_text
from imclass.params import check_params, flatten, read_yaml

RECIPES = Path("params")


def adopt_recipe(name: str, params_file: Path) -> list[str]:
    """Write the values of params/`name`.yaml into the params, whose comments stay -> "key: before -> after" of each.

    Raises InputError where there is no such recipe, or the params would not be valid.
    """
    recipe = RECIPES / f"{name}.yaml"
    if not recipe.is_file():
        there = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise InputError(f"{recipe}: no such recipe; there are {there or 'none'}")
    return change_params(params_file, read_yaml(recipe), origin=recipe)


def change_params(params_file: Path, changes: Mapping[str, Any], *, origin: Path) -> list[str]:
    """Change values in params.yaml, as DVC does: comments and order stay. `origin` is named in errors."""
    from ruamel.yaml import YAML  # slow to import

    before = read_yaml(params_file)
    after = _merge(copy.deepcopy(before), changes)
    check_params(after, origin)
    yaml_1_2 = YAML()
    text = io.StringIO()
    yaml_1_2.dump(_merge(yaml_1_2.load(params_file.read_text("utf-8")), changes), text)
    write_text(params_file, text.getvalue())
    old = flatten(before)
    return [f"{key}: {old[key]} -> {value}" for key, value in flatten(after).items() if value != old[key]]


def _merge(values: Any, changes: Mapping[str, Any]) -> Any:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            _merge(values[key], value)
        else:
            values[key] = value
    return values
