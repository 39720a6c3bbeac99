"""Model + images -> which pixels decide: the gradient of a logit, a vector-Jacobian product."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from imclass.models.classifier import Classifier
from imclass.models.inference import count_at_once

STRONG = 0.99  # quantile of an image's gradients that is shown in full


def compute_saliency(
    model: Classifier, images: UInt8[np.ndarray, "n c h w"], classes: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "n h w"]:
    """How much each pixel changes the logit of the image's class, in 0..1, the strongest of each image near 1.

    Simonyan et al. 2013, Deep Inside Convolutional Networks: largest absolute gradient of the channels; here its mean
    around each pixel, as far as it is above that of most pixels.
    """
    device = model.pixel_mean.device
    found = [np.zeros((0, *images.shape[2:]), np.float32)]
    size = count_at_once(images)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        pixels = model.normalise(torch.from_numpy(images[rows]).to(device)).requires_grad_()
        with torch.enable_grad():
            logits = model.classify(pixels)
            chosen = logits.gather(1, torch.from_numpy(classes[rows]).to(device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, pixels)
        strongest = gradient.abs().amax(dim=1, keepdim=True)
        side = max(images.shape[2:]) // 10 | 1
        around = torch.nn.functional.avg_pool2d(strongest, side, 1, side // 2, count_include_pad=False)
        found.append(around.squeeze(1).cpu().numpy())
    gradients = np.concatenate(found)
    if not len(gradients):
        return gradients
    weak, strong = np.quantile(gradients, [0.5, STRONG], axis=(1, 2), keepdims=True)
    return np.clip((gradients - weak) / np.maximum(strong - weak, 1e-30), 0, 1).astype(np.float32)
