"""Params and packed set of the work tree -> a learning rate to try, and the picture it is read from."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a file, whatever screen there is

import matplotlib.pyplot as plt
from tqdm import tqdm

from imclass.data.packed import open_packed
from imclass.device import make_deterministic, select_device
from imclass.evaluation.figure import ACCENT, INK, STYLE
from imclass.files import write_whole
from imclass.params import load_params
from imclass.stage import PARAMS_FILE
from imclass.team.revisions import PACKED
from imclass.training.lr_range import NUM_STEPS, Point, measure_losses, propose_rate
from imclass.training.setup import set_up

WEIGHTS = Path("weights")


def find_rate(picture: Path) -> float:
    """Run the range test on the model as its training begins, draw it, and propose a rate.

    Raises InputError where the params are wrong, where there is no packed set, which `dvc repro build` makes, and as
    `measure_losses` and `propose_rate` do.
    """
    params = load_params(PARAMS_FILE)
    make_deterministic(params.threads)
    training = set_up(params, open_packed(PACKED), WEIGHTS, select_device(params.device))
    points = list(tqdm(measure_losses(training), total=NUM_STEPS, unit="step", disable=None, leave=False))
    proposed = propose_rate(points)
    draw_losses(points, proposed, picture)
    return proposed


def draw_losses(points: list[Point], proposed: float, path: Path) -> None:
    """Write the loss against the learning rate as PNG."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.plot([point.rate for point in points], [point.loss for point in points], color=INK)
        axes.axvline(proposed, color=ACCENT)
        axes.annotate(
            f" proposed: {proposed:.2g}", (proposed, 1), xycoords=("data", "axes fraction"), color=ACCENT, va="top"
        )
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_title("training loss while the learning rate rises", loc="left")
        with write_whole(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
        plt.close(figure)
