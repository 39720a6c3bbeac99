import json
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.models.modelfile import load_model, save_model
from imclass.tensors import write_tensors

CONFIG = ModelConfig(
    classes=["né", "=1+1", "007"],
    fit={"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255},
    mean=[0.25],
    mirror=False,
    network={"name": "cnn", "widths": [4], "dropout": 0.1},
    std=[0.5],
    temperature=0.7,
    trained={"data": "9f", "params": {"lr": 0.1}},
)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


def test_a_file_alone_rebuilds_the_model(model: Classifier, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))


def test_equal_models_give_equal_bytes_in_any_memory_format(model: Classifier, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a")
    save_model(load_model(tmp_path / "a").to(memory_format=torch.channels_last), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_flipped_bit_or_cut_is_refused(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    sound = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(InputError, match="model.safetensors"):
            load_model(path)
        path.write_bytes(sound[: chance.randrange(len(sound))])
        with pytest.raises(InputError, match="model.safetensors"):
            load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (pickle.dumps(print), "not a safetensors file"),
        (save({"weight": torch.zeros(2)}), "expected a file written by imclass"),
        (save({"weight": torch.zeros(2)}, {"imclass": "[1]"}), "expected a file written by imclass"),
        (save({"weight": torch.zeros(2)}, {"imclass": "{"}), "not a safetensors file"),
        (save({"weight": torch.zeros(2)}, {"imclass": '{"record":{}}'}), "damaged"),
    ],
    ids=["empty", "pickle", "foreign", "list", "broken-json", "no-config"],
)
def test_another_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "m")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", {"weight": torch.zeros(2)}, {"kind": "checkpoint 1"})
    with pytest.raises(InputError, match="expected a 'model 2' of imclass, found 'checkpoint 1'"):
        load_model(tmp_path / "m")


def test_weights_that_are_not_numbers_are_refused(model: Classifier, tmp_path: Path) -> None:
    model.get_parameter("network.stem.weight").data[0] = torch.nan
    save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match=r"expected finite weights, found others in network\.stem\.weight"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_gives_no_probabilities_is_refused(
    temperature: float, model: Classifier, tmp_path: Path
) -> None:
    model.config = replace(CONFIG, temperature=temperature)
    save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match="expected a temperature above 0, found"):
        load_model(tmp_path / "m")


def test_weights_of_another_network_are_refused(model: Classifier, tmp_path: Path) -> None:
    model.config = replace(CONFIG, network={"name": "cnn", "widths": [5], "dropout": 0.1})
    save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match="weights that do not fit the network"):
        load_model(tmp_path / "m")


def test_a_network_that_this_checkout_does_not_have_is_named(model: Classifier, tmp_path: Path) -> None:
    model.config = replace(CONFIG, network={"name": "tiny"})
    save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match=r"/m: model\.name: expected mlp, .*, found 'tiny'"):
        load_model(tmp_path / "m")


def test_metadata_is_one_key_of_canonical_json(model: Classifier, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["imclass"]
    record = json.loads(header["__metadata__"]["imclass"])
    assert record["record"]["config"]["classes"] == CONFIG.classes
    assert set(load(content)) == set(model.state_dict())
