"""Python script -> the library files that it imports, directly or through others."""

import ast
from pathlib import Path

PACKAGE = "imclass"


def find_imports(script: Path, library: Path) -> list[Path]:
    """Files of the package below `library` that running `script` may import, sorted; read as text, nothing is run.

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


def _read_imports(script: Path, library: Path) -> list[Path]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [library.joinpath(*name.split(".")).with_suffix(".py") for name in modules if name.startswith(PACKAGE)]
    return [file for file in files if file.is_file()]
