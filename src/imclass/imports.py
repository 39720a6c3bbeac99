"""Python script -> the library files that it imports, directly or through others."""

import ast
from pathlib import Path

from imclass.files import hash_file

PACKAGE = "imclass"
LIBRARY = Path(__file__).parents[1]  # the folder of the package


def find_imports(script: Path, library: Path = LIBRARY) -> list[Path]:
    """Files of the package in `library` that running `script` may import, sorted; read as text, nothing is run.

    `__init__.py` files are left out, since they hold nothing but a docstring.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for file in _read_imports(waiting.pop(), library):
            if file not in found:
                found.add(file)
                waiting.append(file)
    return sorted(found)


def hash_imports(script: Path) -> list[str]:
    """The sha256 of a script and of each file that it may import."""
    return [hash_file(file) for file in (script, *find_imports(script))]


def _read_imports(script: Path, library: Path) -> list[Path]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [library.joinpath(*name.split(".")).with_suffix(".py") for name in modules if name.startswith(PACKAGE)]
    return [file for file in files if file.is_file()]
