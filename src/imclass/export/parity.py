"""Exported files + real images -> how far their probabilities are from the model's."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from imclass.data.shards import Images
from imclass.errors import InputError
from imclass.export.seal import read_sealed

BATCH_IMAGES = 256


@dataclass(frozen=True)
class Parity:
    """The largest difference of any probability, and how many images get another class."""

    largest_difference: float
    changed_decisions: int


def run_onnx(path: Path, images: Images, *, threads: int) -> Float[np.ndarray, "n classes"]:
    """Probabilities by ONNX Runtime, on the CPU.

    Raises InputError where the file is damaged, or keeps weights in other files.
    """
    import onnx
    import onnxruntime

    content = read_sealed(path)
    tensors = onnx.external_data_helper._get_all_tensors(onnx.load_model_from_string(content))
    if outside := [tensor.name for tensor in tensors if onnx.external_data_helper.uses_external_data(tensor)]:
        raise InputError(f"{path}: expected all weights inside, found {outside[0]!r} in another file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: np.asarray(batch)})[0] for batch in _cut(images)])


def run_program(path: Path, images: Images) -> Float[np.ndarray, "n classes"]:
    """Probabilities by the torch.export program, on the CPU.

    Raises InputError where the file is damaged: PyTorch runs code that a foreign one may hold.
    """
    program = torch.export.load(io.BytesIO(read_sealed(path))).module()
    with torch.inference_mode():
        return torch.cat([program(torch.from_numpy(batch)) for batch in _cut(images)]).numpy()


def compare(expected: Float[np.ndarray, "n k"], found: Float[np.ndarray, "n k"]) -> Parity:
    """Compare probabilities of the same images."""
    return Parity(
        largest_difference=float(np.abs(expected - found).max()),
        changed_decisions=int((expected.argmax(axis=1) != found.argmax(axis=1)).sum()),
    )


def check_parity(parities: dict[str, Parity], *, tolerance: float) -> None:
    """Raise InputError when a file differs from the model by more than `tolerance` in any probability."""
    for name, parity in parities.items():
        if not parity.largest_difference <= tolerance:
            raise InputError(
                f"{name}: expected probabilities within {tolerance:g} of the model's (export.tolerance), "
                f"found a difference of {parity.largest_difference:.3g}"
            )


def _cut(images: Images) -> list[np.ndarray]:
    return [images[start : start + BATCH_IMAGES] for start in range(0, len(images), BATCH_IMAGES)]
