"""Model + images -> which pixels decide: the gradient of a logit, a vector-Jacobian product."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from imclass.models.classifier import Classifier
from imclass.models.inference import BATCH_IMAGES

STRONG = 0.99  # quantile of an image's gradients that is shown in full


def compute_saliency(
    model: Classifier, images: UInt8[np.ndarray, "n c h w"], classes: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "n h w"]:
    """How much each pixel changes the logit of the image's class, in 0..1, the strongest of each image near 1.

    Simonyan et al. 2013, Deep Inside Convolutional Networks: largest absolute gradient of the channels.
    """
    device = model.pixel_mean.device
    found = [np.zeros((0, *images.shape[2:]), np.float32)]
    for start in range(0, len(images), BATCH_IMAGES):
        rows = slice(start, start + BATCH_IMAGES)
        pixels = model.normalise(torch.from_numpy(images[rows]).to(device)).requires_grad_()
        with torch.enable_grad():
            logits = model.classify(pixels)
            chosen = logits.gather(1, torch.from_numpy(classes[rows]).to(device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, pixels)
        found.append(gradient.abs().amax(dim=1).cpu().numpy())
    gradients = np.concatenate(found)
    strong = np.quantile(gradients, STRONG, axis=(1, 2), keepdims=True) if len(gradients) else 1.0
    return np.minimum(gradients / np.maximum(strong, 1e-30), 1).astype(np.float32)
