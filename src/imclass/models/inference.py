"""Model + images -> logits, in eval mode and without gradients."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from imclass.device import explain_out_of_memory
from imclass.models.classifier import Classifier

# At once, and fixed, since the size of a batch can change the last bits.
BATCH_IMAGES = 1000
BATCH_PIXELS = 2**20


def count_at_once(images: UInt8[np.ndarray, "n c h w"]) -> int:
    """How many such images a model is given at once."""
    return min(BATCH_IMAGES, -(-BATCH_PIXELS // (images.shape[2] * images.shape[3])))


def compute_logits(model: Classifier, images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n classes"]:
    """Logits of all images, in their order, on the CPU; the model's mode is left as it was.

    Raises InputError when memory does not suffice.
    """
    device = model.pixel_mean.device
    was_training = model.training
    model.eval()
    size = count_at_once(images)
    advice = "free some, or take another device or machine"
    with torch.inference_mode(), explain_out_of_memory(f"{size} images at once, a fixed number", advice):
        logits = [model(batch.to(device)).cpu() for batch in torch.from_numpy(images).split(size)]
    model.train(was_training)
    return torch.cat(logits)
