"""The program in the model card: it has nothing of imclass, and is read as text only."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["imclass"])


def read_picture(path: str) -> np.ndarray:
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode.startswith("I;16"):
        return ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)[..., None]
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (about["fit"]["background"],) * 3 + (255,))
        picture = Image.alpha_composite(behind, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


for path in sys.argv[1:]:
    (probabilities,) = session.run(None, {"pictures": read_picture(path)[None]})[0]
    print(path, about["classes"][probabilities.argmax()], f"{probabilities.max():.4f}", sep="\t")
