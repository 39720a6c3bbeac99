"""What the folder tree promises: who may import whom, and that DVC knows what each stage runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imclass.imports import find_imports

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src"
STAGES = ("prepare", "build", "train", "evaluate", "gate", "export")
# Imports point to an earlier entry only; the files of one room may import each other, but not in circles.
ROOMS = [
    "errors",
    "files",
    "pages",
    "imports",
    "tensors",
    "params",
    "record",
    "ranks",
    "stage",
    "device",
    "data",
    "models",
    "training",
    "evaluation",
    "export",
    "serving",
    "team",
    "cli",
]


def name_module(file: Path) -> str:
    return ".".join(file.relative_to(LIBRARY).with_suffix("").parts)


def read_direct_imports(file: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("imclass"):
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("stage", STAGES)
def test_deps_of_a_stage_are_the_files_it_imports(stage: str) -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    deps = pipeline["stages"][stage]["deps"]
    code = [dep for dep in deps if dep.startswith(("src/", "stages/"))]
    script = ROOT / "stages" / f"{stage}.py"
    expected = [script, *find_imports(script)]
    assert code == [file.relative_to(ROOT).as_posix() for file in expected]


@pytest.mark.parametrize("stage", STAGES)
def test_imports_found_as_text_are_those_that_python_makes(stage: str) -> None:
    script = ROOT / "stages" / f"{stage}.py"
    code = f"import runpy, sys; runpy.run_path({str(script)!r}); print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = {module for module in printed.split() if module.startswith("imclass.")}
    loaded = {name for name in modules if LIBRARY.joinpath(*name.split(".")).with_suffix(".py").is_file()}
    assert loaded <= {name_module(file) for file in find_imports(script)}


@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=name_module)
def test_imports_point_to_earlier_rooms(file: Path) -> None:
    if file.name == "__init__.py":
        body = ast.parse(file.read_bytes()).body
        assert [type(node) for node in body] == [ast.Expr], "an __init__.py holds a docstring and nothing else"
        return
    room = name_module(file).split(".")[1]
    for module in read_direct_imports(file):
        assert ROOMS.index(module.split(".")[1]) <= ROOMS.index(room), f"{name_module(file)} imports {module}"
    assert file not in find_imports(file), "imports itself through others"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_thin(stage: str) -> None:
    source = (ROOT / "stages" / f"{stage}.py").read_text()
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert functions == [stage]
    assert len(source.splitlines()) <= 100


def test_files_that_a_module_names_beside_itself_are_found() -> None:
    found = find_imports(ROOT / "stages" / "evaluate.py")
    report = LIBRARY / "imclass" / "evaluation" / "report"
    assert {file for file in report.iterdir() if file.suffix in (".html", ".css", ".js")} <= set(found)
    others = {file for file in find_imports(ROOT / "stages" / "export.py") if file.suffix != ".py"}
    assert others == {LIBRARY / "imclass" / "export" / "card.md"}
