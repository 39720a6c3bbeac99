"""Model + images -> logits or probabilities, in eval mode and without gradients."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from imclass.data.encoded import read_in_order
from imclass.data.shards import Images
from imclass.device import explain_out_of_memory
from imclass.models.classifier import Classifier
from imclass.ranks import ALONE, Ranks

# At once, and fixed, since the size of a batch can change the last bits.
BATCH_IMAGES = 1000
BATCH_PIXELS = 2**20


def count_at_once(images: Images) -> int:
    """How many such images a model is given at once."""
    return min(BATCH_IMAGES, -(-BATCH_PIXELS // (images.shape[2] * images.shape[3])))


def compute_logits(model: Classifier, images: Images, ranks: Ranks = ALONE) -> Float[Tensor, "n classes"]:
    """Logits of all images, in their order, on the CPU; the model's mode is left as it was.

    Each of the `ranks` computes some of the batches, and gets all logits.
    Raises InputError when memory does not suffice.
    """
    device = model.pixel_mean.device
    was_training = model.training
    model.eval()
    size = count_at_once(images)
    share = size * -(-len(images) // (size * ranks.size))  # of each rank but the last
    first, end = (min(rank * share, len(images)) for rank in (ranks.rank, ranks.rank + 1))
    starts = range(first, end, size)
    advice = "free some, or take another device or machine"
    # Filled in place: a small tensor kept from each batch would lie between large ones, and keep memory from reuse.
    own = torch.empty(end - first, len(model.config.classes), dtype=model.pixel_mean.dtype)
    with torch.inference_mode(), explain_out_of_memory(f"{size} images at once, a fixed number", advice):
        batches = map(torch.from_numpy, read_in_order(images, starts))
        for start, batch in zip(starts, batches, strict=True):
            own[start - first : start - first + size] = model(batch.to(device))
    model.train(was_training)
    if ranks.size == 1:
        return own
    padded = nn.functional.pad(own, (0, 0, 0, share - len(own)))
    return ranks.all_gather(padded).flatten(0, 1)[: len(images)]


def compute_probabilities(model: Classifier, images: Images) -> Float[np.ndarray, "n classes"]:
    """Softmax of all images' logits / the model's temperature, in their order."""
    return torch.softmax(compute_logits(model, images) / model.config.temperature, dim=1).numpy()
