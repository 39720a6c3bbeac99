"""Model <-> one safetensors file that alone rebuilds it."""

import math
from dataclasses import asdict, fields
from pathlib import Path

from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.tensors import read_tensors, write_tensors

KIND = "model 2"  # the number rises when the format changes


def save_model(model: Classifier, path: Path) -> None:
    """Write weights and config, whole or not at all. Equal models give equal bytes."""
    write_tensors(path, model.state_dict(), {"config": asdict(model.config), "kind": KIND})


def load_model(path: Path) -> Classifier:
    """Rebuild the model, in eval mode on the CPU.

    Raises InputError where the file is not a model of this format, is damaged, or its weights are not finite.
    """
    weights, record = read_tensors(path)
    config = record.get("config")
    if record.get("kind") != KIND or not isinstance(config, dict):
        raise InputError(f"{path}: expected a {KIND!r} of imclass, found {record.get('kind')!r}")
    if config.keys() != {field.name for field in fields(ModelConfig)}:
        raise InputError(f"{path}: expected the config of a {KIND!r}, found keys {', '.join(sorted(config))}")
    temperature = config["temperature"]
    if not isinstance(temperature, float) or not 0 < temperature < math.inf:
        raise InputError(f"{path}: expected a temperature above 0, found {temperature!r}")
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise InputError(f"{path}: expected finite weights, found others in {', '.join(broken)}")
    try:
        model = build_model(ModelConfig(**config))
        model.load_state_dict(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: weights that do not fit the network: {error}") from None
    return model.eval()
