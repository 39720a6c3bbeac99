"""packed set -> model.safetensors of the best epoch, and the history of all."""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.packed import open_packed, read_names
from imclass.device import describe_device, make_deterministic, select_device
from imclass.errors import InputError
from imclass.imports import hash_imports
from imclass.models.inference import compute_logits
from imclass.models.modelfile import save_model
from imclass.models.summary import summarise_layers
from imclass.params import Params
from imclass.ranks import find_ranks
from imclass.stage import run_in_ranks
from imclass.training.checkpoint import NoCheckpoints, hold_checkpoints, locate_checkpoints, resume
from imclass.training.fit import DivergedError, fit
from imclass.training.history import write_history
from imclass.training.review import review
from imclass.training.schedule import build_schedule
from imclass.training.setup import set_up
from imclass.training.temperature import calibrate


def train(params: Params, packed: Path, weights: Path, model_file: Path, history_file: Path) -> dict[str, object]:
    make_deterministic(params.threads)
    ranks = find_ranks()
    device = select_device(params.device, ranks)
    data = open_packed(packed, workers=params.workers, ranks=ranks)
    train_split, val = data.splits["train"], data.splits["val"]
    training = set_up(params, data, weights, device, ranks)
    state = training.state
    print(summarise_layers(state.model))
    decisive = {
        "code": hash_imports(Path(__file__)),
        "data": data.fingerprint,
        "params": params.describe_training(),
        "versions": [torch.__version__, torch.backends.cpu.get_cpu_capability(), device.type],
        "weights": state.model.config.trained["weights"],
    }
    held = hold_checkpoints(locate_checkpoints(), decisive, epochs=params.epochs)
    with held if ranks.leads else nullcontext(NoCheckpoints()) as checkpoints:
        done = resume(state, checkpoints, extends=params.train.schedule == "constant", ranks=ranks)
        try:
            fit(
                state,
                training.batches,
                val,
                checkpoints,
                epochs=params.epochs,
                schedule=build_schedule(
                    params.train.schedule, num_steps=params.epochs * state.steps_per_epoch, peak=params.lr
                ),
                learn=training.learn,
                patience=params.train.patience,
                ranks=ranks,
            )
        except DivergedError as error:
            names = read_names(data, "train")
            raise InputError(f"{error}\nits images: {', '.join(names[row] for row in error.rows)}") from None
    val_logits = compute_logits(state.model, val.images, ranks).numpy()
    if not ranks.leads:
        return {}
    calibrate(state.model, val_logits, val.labels)
    save_model(state.model, model_file)
    write_history(state.history, history_file)
    predicted = val_logits.argmax(1)
    print(review(state.history, val.labels, predicted, data.classes, batches_per_epoch=state.steps_per_epoch))
    learnt = len(train_split.labels) * (len(state.history) - done)
    return {"images": learnt, "resumed": done, "processes": ranks.size, **describe_device(device)}


if __name__ == "__main__":
    run_in_ranks(train)
