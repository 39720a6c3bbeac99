"""Model + images -> logits, in eval mode and without gradients."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from imclass.models.classifier import Classifier

BATCH_IMAGES = 1000  # fixed, since the size of a batch can change the last bits


def compute_logits(model: Classifier, images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n classes"]:
    """Logits of all images, in their order, on the CPU; the model's mode is left as it was."""
    device = model.pixel_mean.device
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [model(batch.to(device)).cpu() for batch in torch.from_numpy(images).split(BATCH_IMAGES)]
    model.train(was_training)
    return torch.cat(logits)
