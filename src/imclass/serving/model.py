"""A model file, exported or trained, as what those who use it need: classes, the shape of images, probabilities."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from imclass.errors import InputError
from imclass.export.seal import METADATA_KEY, read_sealed
from imclass.export.session import start_session
from imclass.params import FitParams


@dataclass(frozen=True)
class Model:
    """`predict` takes images uint8 N C H W of the shape of `fit`, which pictures are brought to by
    `data.images.fit_image`, and gives probabilities N classes.
    """

    classes: list[str]
    fit: FitParams
    predict: Callable[[UInt8[np.ndarray, "n c h w"]], Float[np.ndarray, "n classes"]]


def open_model(path: Path, *, threads: int) -> Model:
    """Open an exported .onnx file, or the .safetensors file of a trained model, to run on the CPU.

    Only the latter loads PyTorch. Raises InputError for another file, and for one that is damaged.
    """
    if path.suffix == ".onnx":
        return _open_onnx(path, threads)
    if path.suffix == ".safetensors":
        return _open_trained(path, threads)
    raise InputError(f"{path}: expected a model, a .onnx or .safetensors file")


def _open_onnx(path: Path, threads: int) -> Model:
    session = start_session(read_sealed(path), threads=threads)
    about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    (pictures,) = session.get_inputs()

    def predict(batch: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n classes"]:
        return session.run(None, {pictures.name: np.ascontiguousarray(batch.transpose(0, 2, 3, 1))})[0]

    return Model(about["classes"], FitParams(**about["fit"]), predict)


def _open_trained(path: Path, threads: int) -> Model:
    import torch

    from imclass.models.inference import compute_probabilities
    from imclass.models.modelfile import load_model

    torch.set_num_threads(threads)
    model = load_model(path)

    def predict(batch: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n classes"]:
        return compute_probabilities(model, batch)

    return Model(model.config.classes, FitParams(**model.config.fit), predict)
