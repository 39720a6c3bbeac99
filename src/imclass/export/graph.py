"""Model -> ONNX and a torch.export program: pictures in, probabilities out, nothing of imclass needed to run them.

Pictures are uint8 N H W C, as Pillow and NumPy have them: RGB or grey, upright, of any size, those of a batch of one.
Resizing, normalisation, softmax and temperature are inside. The metadata key `imclass` holds JSON with the classes and
the fit of the images. Neither file keeps the traces of source lines that PyTorch records, which would carry the path
of the checkout into the bytes.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from imclass.export.resize import Resize
from imclass.export.seal import METADATA_KEY, seal_onnx, seal_zip
from imclass.files import write_whole
from imclass.models.classifier import Classifier

INPUT, OUTPUT = "pictures", "probabilities"
DIMENSIONS = {0: Dim("number"), 1: Dim("height"), 2: Dim("width"), 3: Dim("channels", max=3)}
TRACED = (2, 20, 30, 3)  # number, height, width and channels of the pictures that a graph is traced with: no matter


class PictureClassifier(nn.Module):
    """What leaves the house: the whole way from pictures to probabilities."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.resize = Resize(model.config.fit)
        self.model = model.eval()

    def forward(self, pictures: UInt8[Tensor, "n h w c"]) -> Float[Tensor, "n classes"]:
        return self.model.predict_probabilities(self.resize(pictures))


def trace_program(model: Classifier) -> ExportedProgram:
    """Trace the model in eval mode for any number of pictures of any size."""
    pictures = torch.zeros(TRACED, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(PictureClassifier(model), (pictures,), dynamic_shapes=(DIMENSIONS,))
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        converted = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT])
    assert converted is not None
    write_onnx(converted.model_proto, model, path)


def write_onnx(proto: Any, model: Classifier, path: Path) -> None:
    """Write a graph (onnx.ModelProto) with what is told of the model, whole or not at all."""
    import onnx

    for node in proto.graph.node:
        del node.metadata_props[:]
    proto.doc_string = ""
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {METADATA_KEY: _describe(model)})
    onnx.checker.check_model(proto)
    with write_whole(path) as temporary:
        temporary.write_bytes(seal_onnx(proto.SerializeToString(deterministic=True)))


def _describe(model: Classifier) -> str:
    about: dict[str, Any] = {"classes": model.config.classes, "fit": model.config.fit}
    return json.dumps(about, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
