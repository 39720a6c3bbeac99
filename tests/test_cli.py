"""What is loaded before any work is done: start-up is the largest cost of a small run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "sklearn", "pandas", "scipy", "matplotlib", "onnx", "onnxruntime", "torch._dynamo"}
HEAVY |= {"fastapi", "uvicorn"}
LOAD_STAGE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("stage", "stages/{stage}.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
if "imclass.device" in sys.modules:
    sys.modules["imclass.device"].make_deterministic(1)
"""
CALL_HELP = """
import sys
from imclass.cli import main
sys.argv = ["imclass", {command!r}, "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
"""


def list_heavy_modules(code: str) -> tuple[set[str], str]:
    """Which heavy modules `code` loads in a fresh process, and what it prints."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.split()), done.stdout


@pytest.mark.parametrize(
    "command",
    ["", "fetch", "compare", "diff", "accept", "verify", "doctor", "recipe", "lr-find", "predict", "serve"],
)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = CALL_HELP.format(command=command) if command else CALL_HELP.replace("{command!r}, ", "")
    loaded, printed = list_heavy_modules(code)
    assert "Usage: imclass" in printed
    assert loaded == set()


@pytest.mark.parametrize(
    ("stage", "allowed"),
    [
        ("prepare", {"pandas"}),
        ("build", {"pandas"}),
        ("train", {"torch"}),
        ("evaluate", {"torch", "matplotlib"}),
        ("gate", set()),
        ("export", {"torch", "onnx", "onnxruntime"}),
    ],
)
def test_stage_loads_only_what_it_uses(stage: str, allowed: set[str]) -> None:
    loaded, printed = list_heavy_modules(LOAD_STAGE.format(stage=stage))
    assert loaded <= allowed
    assert printed == "", "importing prints nothing"
