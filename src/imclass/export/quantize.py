"""ONNX file -> one that computes in 8-bit whole numbers: a fraction of the size, and of the time on CPUs made for it.

Convolutions and linear layers only; the ranges of their inputs are those that pictures to calibrate by bring about.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.data.shards import Images
from imclass.export.graph import INPUT, write_onnx
from imclass.export.parity import Trial, compare
from imclass.models.classifier import Classifier

CALIBRATION_IMAGES = 512  # evenly from the whole split: its classes may follow each other
BATCH_IMAGES = 64
ONNX, INT8 = "model.onnx", "model-int8.onnx"


def save_int8(folder: Path, model: Classifier, images: Images) -> Path:
    """Quantise the exported ONNX file in `folder` statically, calibrated on packed images, into one beside it."""
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = _cut(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    path = folder / INT8
    quantised = path.with_suffix(".quantised")
    logging.disable(logging.WARNING)  # advice to fuse layers first, which the exporter has done
    try:
        quantize_static(
            folder / ONNX,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        # In its own order a condition comes before what it takes from the graph around it.
        ordered = TopologicalSortPass()(onnx_ir.from_proto(onnx.load(quantised))).model
        write_onnx(onnx_ir.to_proto(ordered), model, path)
    finally:
        logging.disable(logging.NOTSET)
        quantised.unlink(missing_ok=True)
    return path


def judge_int8(
    folder: Path, full: Trial, int8: Trial, labels: Int64[np.ndarray, " n"], *, limit: float
) -> dict[str, float]:
    """What the int8 file of an export costs and saves; it is deleted where it loses more accuracy than `limit`.

    `size` is its share of the full file's bytes.
    """
    right = [int((trial.decisions == labels).sum()) for trial in (full, int8)]
    loss = (right[0] - right[1]) / len(labels)
    size = (folder / INT8).stat().st_size / (folder / ONNX).stat().st_size
    if loss > limit:
        (folder / INT8).unlink()
    return {
        "accuracy_loss": round(loss, 6),
        "changed_decisions": compare(full, int8).changed_decisions,
        "size": round(size, 4),
        "kept": int(loss <= limit),
    }


def _cut(images: Images) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
    rows = np.linspace(0, len(images) - 1, min(len(images), CALIBRATION_IMAGES)).astype(int)
    for start in range(0, len(rows), BATCH_IMAGES):
        yield np.ascontiguousarray(images[rows[start : start + BATCH_IMAGES]].transpose(0, 2, 3, 1))
