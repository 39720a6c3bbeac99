"""Python script -> the library files that it imports, directly or through others, and the files that these read."""

import ast
import re
from pathlib import Path

from imclass.files import hash_file

PACKAGE = "imclass"
FILE_NAME = re.compile(r"[\w-]+\.\w+")
LIBRARY = Path(__file__).parents[1]  # the folder of the package


def find_imports(script: Path, library: Path = LIBRARY) -> list[Path]:
    """Files of the package in `library` that running `script` may use, sorted; read as text, nothing is run.

    Beside what is imported these are files, such as a template, that lie beside a module and are named in it.
    `__init__.py` files are left out, since they hold nothing but a docstring.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for file in _read_uses(waiting.pop(), library):
            if file not in found:
                found.add(file)
                if file.suffix == ".py":
                    waiting.append(file)
    return sorted(found)


def hash_imports(script: Path) -> list[str]:
    """The sha256 of a script and of each file that it may use."""
    return [hash_file(file) for file in (script, *find_imports(script))]


def _read_uses(script: Path, library: Path) -> list[Path]:
    modules: list[str] = []
    named: list[str] = []
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and FILE_NAME.fullmatch(node.value):
            named.append(node.value)
    files = [library.joinpath(*name.split(".")).with_suffix(".py") for name in modules if name.startswith(PACKAGE)]
    files += [script.with_name(name) for name in named]
    return [file for file in files if file.is_file()]
