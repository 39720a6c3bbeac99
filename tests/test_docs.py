"""What the documents show is run as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pipeline import list_run_stages, run

from benchmarks.plan import plan
from imclass.data.packed import write_packed
from imclass.imports import find_imports

ROOT = Path(__file__).parents[1]
FIT = {"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255}


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """A folder with a packed set and a few images beside their annotations, as the documents name them."""
    rows = [(f"{number}", "ab"[number % 2], split) for number, split in enumerate(["train"] * 4 + ["val", "test"])]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), np.uint8)
    (tmp_path / "data").mkdir()
    write_packed(tmp_path / "data" / "packed", rows, [([name for name, _, _ in rows], pixels)], FIT)
    images = tmp_path / "my-images"
    (images / "images").mkdir(parents=True)
    (images / "images" / "1.png").write_bytes(encode(Image.fromarray(pixels[0, 0]), "PNG"))
    (images / "annotations.csv").write_text("image,label\nimages/1.png,a\n")
    return tmp_path


def test_python_in_the_documents_runs(folder: Path) -> None:
    blocks = [
        block for path in ROOT.glob("docs/*.md") for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.S)
    ]
    assert len(blocks) >= 2
    for block in blocks:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=folder, env=env, check=True)


@pytest.mark.parametrize("path", [ROOT / "README.md", *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_table_of_what_larger_sets_cost_is_the_scripts() -> None:
    assert plan() in (ROOT / "docs" / "scaling.md").read_text()


def test_files_named_in_the_readme_exist_or_are_outs() -> None:
    text = (ROOT / "README.md").read_text()
    pipeline = (ROOT / "dvc.yaml").read_text()
    for name in re.findall(r"`((?:reports|models|data|training|evaluation|docs)/[\w./-]+\.\w+)`", text):
        found = (ROOT / name).exists() or (ROOT / "src/imclass" / name).exists()
        assert found or name in pipeline or name == "models/export/model.onnx", name


def test_a_network_of_ones_own_is_added_as_the_document_says(project: Path) -> None:
    section = (ROOT / "docs/models.md").read_text().split("## A network of your own")[1]
    (module,), (diff,), (commands,) = (
        re.findall(rf"```{kind}\n(.*?)```", section, re.S) for kind in ("python", "diff", "sh")
    )
    (project / "src/imclass/models/tiny.py").write_text(module)
    assembly = project / "src/imclass/models/classifier.py"
    text = assembly.read_text()
    for before, added in re.findall(r"^ (.*)\n\+(.*)$", diff, re.MULTILINE):
        assert text.count(f"{before}\n") == 1
        text = text.replace(f"{before}\n", f"{before}\n{added}\n")
    assembly.write_text(text)
    output = run(project, "bash", "-euc", commands)
    assert list_run_stages(output) == ["train", "evaluate", "gate", "export"]
    assert re.search(r"^Conv2d +64 x 8 x 8 +640 +640$", output, re.MULTILINE)
    for stage in "train", "evaluate", "export":
        script = project / "stages" / f"{stage}.py"
        imported = [path.relative_to(project).as_posix() for path in find_imports(script, project / "src")]
        deps = yaml.safe_load((project / "dvc.yaml").read_text())["stages"][stage]["deps"]
        assert imported == [dep for dep in deps if dep.startswith("src/")]
