"""Exported files + real images -> how far their probabilities are from the model's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from imclass.errors import InputError

BATCH_IMAGES = 256


@dataclass(frozen=True)
class Parity:
    """The largest difference of any probability, and how many images get another class."""

    largest_difference: float
    changed_decisions: int


def run_onnx(path: Path, images: UInt8[np.ndarray, "n c h w"], *, threads: int) -> Float[np.ndarray, "n classes"]:
    """Probabilities by ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: np.asarray(batch)})[0] for batch in _cut(images)])


def run_program(path: Path, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n classes"]:
    """Probabilities by the torch.export program, on the CPU."""
    program = torch.export.load(path).module()
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


def _cut(images: UInt8[np.ndarray, "n c h w"]) -> list[np.ndarray]:
    return [images[start : start + BATCH_IMAGES] for start in range(0, len(images), BATCH_IMAGES)]
