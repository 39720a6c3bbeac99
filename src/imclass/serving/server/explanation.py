"""Trained model + picture -> what the model looked at, and the training images that look alike to it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from imclass.data.images import fit_image
from imclass.data.packed import open_packed
from imclass.errors import InputError
from imclass.evaluation.report.sheets import draw_saliency, draw_sheet
from imclass.evaluation.saliency import compute_saliency
from imclass.models.inference import compute_logits, compute_probabilities
from imclass.models.modelfile import load_model
from imclass.params import FitParams
from imclass.serving.server.intake import Limits, decode_within
from imclass.serving.server.neighbours import Neighbours

SAME_MODEL = 1e-2  # largest difference of any probability between a model and its export
NEAREST = 6


class Explanations:
    """Explains pictures by the trained model of an export.

    Raises InputError where the file is not that model: it must give `expected`, the probabilities of `probe`.
    """

    def __init__(
        self,
        trained: Path,
        packed: Path | str,
        limits: Limits,
        probe: UInt8[np.ndarray, "n c h w"],
        expected: Float[np.ndarray, "n classes"],
        classes: list[str],
    ) -> None:
        torch.set_num_threads(1)
        self._limits = limits
        self._model = load_model(trained)
        self._fit = FitParams(**self._model.config.fit)
        other = InputError(f"{trained}: expected the model that was exported, found another")
        shape = (self._fit.channels, self._fit.height, self._fit.width)
        if shape != probe.shape[1:] or self._model.config.classes != classes:
            raise other
        found = compute_probabilities(self._model, probe)
        if not np.abs(found - expected).max() <= SAME_MODEL:
            raise other
        self._neighbours: Neighbours | str
        try:
            self._neighbours = packed if isinstance(packed, str) else self._open_neighbours(packed)
        except (InputError, OSError) as error:
            self._neighbours = str(error)

    def work_ahead(self) -> bool:
        """Compute some features of training images; False where all are computed."""
        if isinstance(self._neighbours, str) or self._neighbours.compared == self._neighbours.planned:
            return False
        self._neighbours.compare_more()
        return True

    def explain(self, content: bytes) -> dict[str, Any]:
        """For the picture in a file: the image of it that the model sees, the class it finds, the saliency of that
        class as a layer to lay over the image, and the nearest training images. Pictures are data URIs.

        Raises InputError where it is not a sound picture or beyond a limit.
        """
        pixels = decode_within(content, self._limits, self._fit.background)
        image = fit_image(pixels, self._fit)[None].copy()  # Pillow's may not be written to, which PyTorch warns of
        winner = compute_logits(self._model, image).argmax(1).numpy()
        answer: dict[str, Any] = {
            "label": self._model.config.classes[winner[0]],
            "image": draw_sheet(image).uri,
            "saliency": draw_saliency(compute_saliency(self._model, image, winner)).uri,
        }
        if isinstance(self._neighbours, str):
            return {**answer, "no_nearest": self._neighbours}
        nearest = self._neighbours.find(image[0], NEAREST)
        return {
            **answer,
            "nearest": [
                {"label": one.label, "cosine": one.cosine, "image": draw_sheet(one.image[None]).uri} for one in nearest
            ],
            "compared": self._neighbours.compared,
            "planned": self._neighbours.planned,
            "training_images": self._neighbours.total,
        }

    def _open_neighbours(self, folder: Path) -> Neighbours:
        packed = open_packed(folder)
        if packed.fit != self._model.config.fit:
            raise InputError(f"{folder}: expected images as the model takes them, found others ({packed.fit})")
        return Neighbours(self._model, packed)
