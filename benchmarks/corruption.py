"""Damaged and hostile files -> whether whoever opens them says so, by name, and runs nothing that they hold."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.project import FaultError
from imclass.data.annotations import read_annotations
from imclass.data.findings import read_findings
from imclass.data.packed import open_packed
from imclass.data.sizes import read_sizes
from imclass.errors import InputError
from imclass.export.parity import open_onnx, open_program
from imclass.models.modelfile import load_model
from imclass.tensors import METADATA_KEY, read_tensors
from imclass.training.history import read_history

PICTURES = np.zeros((1, 8, 8, 1), np.uint8)
PACKED_FILES = ("meta.json", "train-0000.npy", "test-0000.csv")  # one of each kind
# Each artifact that a later stage or a user opens, and what opens it.
READERS: dict[str, Callable[[Path], object]] = {
    "data/annotations.csv": lambda path: read_annotations(path).to_numpy().tolist(),
    "data/findings.csv": read_findings,
    "reports/findings.csv": read_findings,
    "reports/sizes.csv": lambda path: read_sizes(path).tolist(),
    **{f"data/packed/{name}": lambda path: open_packed(path.parent) for name in PACKED_FILES},
    "reports/history.csv": read_history,
    "models/model.safetensors": load_model,
    "checkpoint": read_tensors,
    "models/export/model.onnx": lambda path: open_onnx(path, threads=1)(PICTURES),
    "models/export/model.pt2": lambda path: open_program(path)(PICTURES),
}


def list_artifacts(project: Path) -> dict[str, Path]:
    """The files of a project that was run, by the name of their reader."""
    checkpoint = max(project.glob(".checkpoints/*/0*.safetensors"))
    return {name: checkpoint if name == "checkpoint" else project / name for name in READERS}


def list_attacks(canary: Path) -> Iterator[bytes]:
    """Files that make `canary` appear when something in them is run, and headers that ask for too much."""

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.dumps(Attack(), protocol)
        yield pickle.dumps({"model": Attack()}, protocol)
    for zipped in True, False:
        stream = io.BytesIO()
        torch.save({"state_dict": Attack()}, stream, _use_new_zipfile_serialization=zipped)
        yield stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, np.array([Attack()], dtype=object), allow_pickle=True)
    yield stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, images=np.array([Attack()], dtype=object))
    yield stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data/sample_inputs/model.pt", pickle.dumps(Attack()))
        archive.writestr("archive/data.pkl", pickle.dumps(Attack()))
    yield stream.getvalue()
    yield struct.pack("<Q", 2**62) + b"{}"
    yield struct.pack("<Q", 99_999_999) + b"{" * 1000
    yield save({"a": torch.full((3,), torch.nan)})
    many = json.dumps(
        {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(300_000)}
    )
    yield struct.pack("<Q", len(many)) + many.encode()
    entry = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    twice = f'{{"__metadata__":{{"{METADATA_KEY}":"{{}}"}},{entry},{entry}}}'.encode()
    yield struct.pack("<Q", len(twice)) + twice + b"\0"
    yield b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999, 1, 8, 8), }"
    yield b"[" * 100_000
    yield b""


def refuse(name: str, path: Path, content: bytes) -> bool:
    """Whether a file of this content is refused by its name; False where it reads the same, as if nothing were."""
    sound = path.read_bytes()
    if content == sound:
        return False
    expected = READERS[name](path) if name.endswith(".csv") else None
    copy = path
    if name.startswith("data/packed"):
        shutil.copytree(path.parent, path.parent.with_name("damaged"), dirs_exist_ok=True)
        copy = path.parent.with_name("damaged") / path.name
    else:
        copy = path.with_name(f"damaged-{path.name}")
    copy.write_bytes(content)
    try:
        found = READERS[name](copy)
    except InputError as error:
        if copy.name not in str(error) and copy.parent.name not in str(error):
            raise FaultError(f"{name}: not named: {error}") from None
        return True
    if expected is not None and found == expected:
        return False
    raise FaultError(f"{name}: taken, though damaged")
