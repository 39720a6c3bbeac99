"""Model -> ONNX and a torch.export program: uint8 images in, probabilities out, nothing of imclass needed to run them.

Their metadata key `imclass` holds JSON with the classes and the fit of the images. Neither keeps the traces of source
lines that PyTorch records, which would carry the path of the checkout into the bytes.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import ExportedProgram

from imclass.export.seal import seal_onnx, seal_zip
from imclass.files import write_whole
from imclass.models.classifier import Classifier

METADATA_KEY = "imclass"
INPUT, OUTPUT = "images", "probabilities"


class _Probabilities(nn.Module):
    """The one method of the model that leaves the house, as a forward."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.model.predict_probabilities(images)


def trace_program(model: Classifier) -> ExportedProgram:
    """Trace the model in eval mode for any number of images."""
    shape = (2, *(model.config.fit[key] for key in ("channels", "height", "width")))
    images = torch.zeros(shape, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(
            _Probabilities(model.eval()), (images,), dynamic_shapes=({0: torch.export.Dim("n")},)
        )
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def save_program(program: ExportedProgram, model: Classifier, path: Path) -> None:
    """Write the program for `torch.export.load`, whole or not at all."""
    archive = io.BytesIO()  # not a file: the archive would hold the stem of the temporary name
    torch.export.save(program, archive, extra_files={METADATA_KEY: _describe(model)})
    with write_whole(path) as temporary:
        temporary.write_bytes(seal_zip(archive.getvalue()))


def save_onnx(program: ExportedProgram, model: Classifier, path: Path) -> None:
    """Write the program as ONNX with its weights inside, whole or not at all."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        converted = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT])
    assert converted is not None
    proto = converted.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
    proto.doc_string = ""
    onnx.helper.set_model_props(proto, {METADATA_KEY: _describe(model)})
    onnx.checker.check_model(proto)
    with write_whole(path) as temporary:
        temporary.write_bytes(seal_onnx(proto.SerializeToString(deterministic=True)))


def _describe(model: Classifier) -> str:
    about: dict[str, Any] = {"classes": model.config.classes, "fit": model.config.fit}
    return json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
