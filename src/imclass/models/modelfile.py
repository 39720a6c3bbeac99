"""Model <-> one safetensors file that alone rebuilds it; reading runs no code from the file.

The metadata has a single key, since safetensors writes several in random order: canonical JSON with the config and a
sha256 over config and weights, which safetensors itself does not check.
"""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imclass.errors import InputError
from imclass.files import write_whole
from imclass.models.classifier import Classifier, ModelConfig, build_model

METADATA_KEY = "imclass"
FORMAT = 1


def save_model(model: Classifier, path: Path) -> None:
    """Write weights and config, whole or not at all. Equal models give equal bytes."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = asdict(model.config)
    record = {"config": config, "format": FORMAT, "sha256": _hash(config, weights)}
    with write_whole(path) as temporary:
        temporary.write_bytes(save(weights, metadata={METADATA_KEY: _to_json(record)}))


def load_model(path: Path) -> Classifier:
    """Rebuild the model, in eval mode on the CPU.

    Raises InputError where the file is not a model of this format, is damaged, or its weights are not finite.
    """
    try:
        # Not load_file: it leaves the metadata out.
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path}: expected a model written by imclass (format {FORMAT}), found another file")
    config = record.get("config")
    if not isinstance(config, dict) or record.get("sha256") != _hash(config, weights):
        raise InputError(f"{path}: damaged: its content is not what was written")
    if set(config) != {field.name for field in fields(ModelConfig)}:
        raise InputError(f"{path}: expected the config of format {FORMAT}, found keys {', '.join(sorted(config))}")
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise InputError(f"{path}: expected finite weights, found others in {', '.join(broken)}")
    try:
        model = build_model(ModelConfig(**config))
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: weights that do not fit the network: {error}") from None
    return model.eval()


def _hash(config: dict[str, Any], weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(_to_json(config).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
