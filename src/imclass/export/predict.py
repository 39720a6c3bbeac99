"""The program in the model card: it has nothing of imclass, and is read as text only."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["imclass"])["classes"]
for path in sys.argv[1:]:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    (probabilities,) = session.run(None, {"pictures": np.asarray(picture)[None]})[0]
    print(path, classes[probabilities.argmax()], f"{probabilities.max():.4f}", sep="\t")
