"""Named tensors and a record about them <-> one safetensors file; reading runs no code from the file.

The metadata has a single key, since safetensors writes several in random order: canonical JSON with the record and a
sha256 over record and tensors, which safetensors itself does not check.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imclass.errors import InputError
from imclass.files import write_whole

METADATA_KEY = "imclass"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: dict[str, Any]) -> None:
    """Write tensors of any device and memory format, whole or not at all. `record` holds plain JSON values.

    Equal tensors and records give equal bytes.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {METADATA_KEY: _to_json({"record": record, "sha256": _hash(record, plain)})}
    with write_whole(path) as temporary:
        temporary.write_bytes(save(plain, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the record.

    Raises InputError where the file is not one of ours or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            ours = isinstance(metadata, dict) and isinstance(metadata.get("record"), dict)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if ours else {}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None
    if not ours:
        raise InputError(f"{path}: expected a file written by imclass, found another")
    record = metadata["record"]
    if metadata.get("sha256") != _hash(record, tensors):
        raise InputError(f"{path}: damaged: its content is not what was written")
    return tensors, record


def _hash(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(_to_json(record).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
