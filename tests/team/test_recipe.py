import shutil
from pathlib import Path

import pytest

from imclass.errors import InputError
from imclass.params import flatten, load_params, read_yaml
from imclass.team.recipe import adopt_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "params").glob("*.yaml")))
def test_every_recipe_gives_valid_params_whatever_was_there(name: str, folder: Path) -> None:
    for other in sorted(path.stem for path in (folder / "params").glob("*.yaml")):
        shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
        if name != "finetune" and other != "finetune":  # it wants colour
            adopt_recipe(other, folder / "params.yaml")
        adopt_recipe(name, folder / "params.yaml")
        load_params(folder / "params.yaml")
        assert adopt_recipe(name, folder / "params.yaml") == []


def test_recipes_name_the_same_keys_so_that_one_can_follow_another() -> None:
    own = "build.", "model.mlp.", "model.cnn.", "model.resnet."
    keys = {
        path.stem: {key for key in flatten(read_yaml(path)) if not key.startswith(own)}
        for path in (ROOT / "params").glob("*.yaml")
    }
    assert all(named == keys["notes"] for named in keys.values()), keys


def test_only_values_change_and_every_change_is_told(folder: Path) -> None:
    before = (folder / "params.yaml").read_text().splitlines()
    changes = adopt_recipe("notes", folder / "params.yaml")
    after = (folder / "params.yaml").read_text().splitlines()
    assert "epochs: 24 -> 5" in changes
    assert "model.mean: None -> [0.0]" in changes
    assert load_params(folder / "params.yaml").model.mean == [0.0]
    comments = [line.partition("#")[2] for line in before]
    assert [line.partition("#")[2] for line in after if line.strip()[:1] != "-"] == [
        comment for comment, line in zip(comments, before, strict=True) if line.strip()[:1] != "-"
    ]


def test_a_recipe_that_does_not_fit_changes_nothing(folder: Path) -> None:
    (folder / "params" / "mine.yaml").write_text("lr: -1.0\ntrain:\n  optimiser: sgd\n")
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(InputError, match=r"params/mine\.yaml: 2 problems\n.*(\n.*)*train\.optimiser: unknown key; did"):
        adopt_recipe("mine", folder / "params.yaml")
    assert (folder / "params.yaml").read_bytes() == before


def test_an_unknown_recipe_is_told_with_those_there_are(folder: Path) -> None:
    with pytest.raises(InputError, match=r"params/quick\.yaml: no such recipe; there are .*fast.*notes"):
        adopt_recipe("quick", folder / "params.yaml")
