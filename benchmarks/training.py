"""Fashion-MNIST at batch 64 -> images/s of imclass and of what one would use instead, as ratios to the compute limit.

The limit is the same network on one constant batch that is never loaded.
"""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.data import Fashion, add_data_options, make_fashion, repeat_packed
from benchmarks.peers import (
    BATCH_SIZE,
    LR,
    NETWORKS,
    Peer,
    list_peers,
    make_classifier,
    train_as_notes,
    train_as_quickstart,
)
from benchmarks.programs import MEGABYTE, Usage, copy_checkout, divide, read_command, run_watched
from benchmarks.report import RESULTS, format_spread, write_report
from benchmarks.slices import Loop, Slices, Step, compare_disturbed, compare_loops
from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import Split
from imclass.training.fit import fit
from imclass.training.optimizer import build_optimizer
from imclass.training.schedule import constant
from imclass.training.state import State, start_training
from imclass.training.step import Learner

LONGER = 20  # turns of loops with workers, which load some batches ahead while others run
MEMORY_IMAGES = (60_000, 300_000)
NEIGHBOURS = {
    "a busy loop": "print(flush=True)\nwhile True: pass",
    "another training": (
        "import torch; torch.set_num_threads({threads}); a, b = torch.rand(64, 784), torch.rand(784, 512)\n"
        "print(flush=True)\nwhile True: a @ b"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--network", choices=list(NETWORKS), default="mlp")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, for all alike")
    parser.add_argument("--seconds", type=float, default=0.15, help="length of a turn")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--out", type=Path, help="Markdown file; the plot is put beside it")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--memory", action="store_true", help="measure the peak memory of the train stage instead")
    mode.add_argument("--neighbour", action="store_true", help="measure what a busy neighbour costs instead")
    options = parser.parse_args()
    fashion = make_fashion(options.folder, options.idx)
    if options.memory:
        report_memory(fashion, options)
    elif options.neighbour:
        report_neighbours(fashion, options)
    else:
        report_speed(fashion, options)


def report_speed(fashion: Fashion, options: argparse.Namespace) -> None:
    peers, missing = list_peers()
    make = partial(make_loop, fashion, options.network, options.threads)
    limit = make(train_on_one_batch)
    imclass = {"imclass": make(train_as_imclass)}
    loops = {
        "compute limit, once more": limit,  # how far the measuring itself is off
        **imclass,
        "imclass, flip and shift 2": make(partial(train_as_imclass, flip=True, shift=2)),
    }
    if options.network == "cnn":
        loops["compute limit, not channels_last"] = make(
            partial(train_on_one_batch, memory_format=torch.contiguous_format)
        )
    loops |= {name: make(peer) for name, peer in peers.items()}
    slices = compare_loops(limit, loops, seconds=options.seconds, rounds=options.rounds)
    rows = make_rows(slices)
    spreads = {name: found.ratios for name, found in slices.items()}

    with_workers = "the notes' loop, 2 workers"
    loops = imclass | {with_workers: make(partial(train_as_notes, workers=2))}
    long = compare_loops(limit, loops, seconds=LONGER * options.seconds, rounds=max(2, options.rounds // 4))
    rows.append(make_rows(long)[1])
    spreads[with_workers] = long[with_workers].ratios

    conditions = [
        f"Network {options.network}, batch {BATCH_SIZE}, SGD {LR}, float32, PyTorch's threads: {options.threads}, no "
        f"workers unless said; {options.rounds} rounds of {options.seconds} s turns in one process "
        f"({LONGER} times as long with workers). Median (quartiles).",
        *([f"Not installed and left out: {', '.join(missing)}."] if missing else []),
    ]
    write_report(
        options.out or RESULTS / f"training-{options.network}-{options.threads}.md",
        title=f"Training, {options.network}, threads: {options.threads}",
        conditions=conditions,
        header=["", "images/s", "of the compute limit", "imclass is faster by"],
        rows=rows,
        spreads=spreads,
        axis="images/s as a ratio to the compute limit",
    )


def make_rows(slices: dict[str, Slices]) -> list[list[str]]:
    ours = slices["imclass"].ratios
    return [
        [name, format_spread(found.rates, 0), format_spread(found.ratios), format_spread(divide(ours, found.ratios))]
        for name, found in slices.items()
    ]


def report_neighbours(fashion: Fashion, options: argparse.Namespace) -> None:
    wanted: dict[str, Peer] = {
        "imclass": train_as_imclass,
        "compute limit": train_on_one_batch,
        "torchvision FashionMNIST, ToTensor": train_as_quickstart,
        "the notes' loop (CSV and folder)": train_as_notes,
    }
    rows, spreads = [], {}
    for neighbour, code in NEIGHBOURS.items():
        for threads in (1, 2):
            command = [sys.executable, "-c", code.format(threads=threads)]
            loops = {name: make_loop(fashion, options.network, threads, loop) for name, loop in wanted.items()}
            slices = compare_disturbed(command, loops, seconds=options.seconds, rounds=options.rounds)
            for name, found in slices.items():
                rows.append([name, str(threads), neighbour, format_spread(found.rates, 0), format_spread(found.ratios)])
                spreads[f"{name}, threads: {threads}, {neighbour}"] = found.ratios
    write_report(
        options.out or RESULTS / f"training-neighbour-{options.network}.md",
        title="Training beside a busy process",
        conditions=[
            f"Network {options.network}, batch {BATCH_SIZE}; {options.rounds} rounds, each turn of {options.seconds} s "
            "beside the process between two quiet ones of the same loop. Median (quartiles)."
        ],
        header=["", "threads", "neighbour", "images/s beside it", "of the quiet turns"],
        rows=rows,
        spreads=spreads,
        axis="images/s beside the neighbour as a ratio to quiet turns",
    )


def report_memory(fashion: Fashion, options: argparse.Namespace) -> None:
    peaks: dict[int, list[float]] = {}
    bare: list[float] = []
    rounds = 3
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            bare.append(run_watched([sys.executable, "-c", "import torch"], Path(folder)).own_peak)
        for images in MEMORY_IMAGES:
            packed = repeat_packed(fashion.packed, options.folder / f"packed-{images}", images)
            peaks.setdefault(images, []).append(train_one_epoch(packed, options).own_peak)
    rows = []
    for images, own_peaks in peaks.items():
        peak, torch_peak = statistics.median(own_peaks), statistics.median(bare)
        shards = (options.folder / f"packed-{images}").glob("*.npy")
        mapped = sum(shard.stat().st_size for shard in shards) / MEGABYTE
        figures = (peak, torch_peak, mapped, peak - torch_peak - mapped)
        rows.append([f"{images:,} images", *(f"{figure:,.0f}" for figure in figures)])
    write_report(
        options.out or RESULTS / "training-memory.md",
        title="Memory of the train stage",
        conditions=[
            f"One epoch, network {options.network}, batch {BATCH_SIZE}, threads: {options.threads}, each in a process "
            f"of its own; MB, median of {rounds}. Pages of the mapped file that were read count as resident, but can "
            "be taken back at any time."
        ],
        header=["", "peak RSS", "of it `import torch`", "mapped shards", "all else"],
        rows=rows,
        spreads={"import torch": bare, **{f"{images:,} images": found for images, found in peaks.items()}},
        axis="peak RSS in MB",
    )


def train_one_epoch(packed: Path, options: argparse.Namespace) -> Usage:
    with tempfile.TemporaryDirectory() as folder:
        changes = {
            "epochs": 1,
            "batch_size": BATCH_SIZE,
            "lr": LR,
            "threads": options.threads,
            "model": {"name": options.network},
        }
        project = copy_checkout(Path(folder), changes)
        (project / "data" / "packed").symlink_to(packed.resolve())
        return run_watched(read_command(project, "train"), project)


def make_loop(fashion: Fashion, network: str, threads: int, train: Peer) -> Loop:
    def loop(step: Step) -> None:
        torch.set_num_threads(threads)  # for OpenMP, of each thread on its own
        train(fashion, network, step)

    return loop


def train_as_imclass(fashion: Fashion, network: str, step: Step, *, flip: bool = False, shift: int = 0) -> None:
    """The train stage's own loader, optimizer and loop."""
    split = fashion.packed.splits["train"]
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=BATCH_SIZE,
        augment=partial(flip_and_shift, flip=flip, shift=shift),
        seed=0,
        device=torch.device("cpu"),
    )
    batches = load_batches(dataset)
    model = make_classifier(fashion, network).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, name="sgd", lr=LR, momentum=0.0, weight_decay=0.0)
    torch.use_deterministic_algorithms(True)
    fit(
        start_training(model, optimizer, num_batches=len(dataset)),
        batches,
        Split(split.images[:BATCH_SIZE], split.labels[:BATCH_SIZE]),
        Turns(step),
        epochs=1_000_000,
        schedule=partial(constant, num_steps=0, peak=LR),
        learn=Learner(nn.CrossEntropyLoss(reduction="sum"), dataset.division),
    )


class Turns:
    """Counts the steps where `fit` asks whether to save, and ends imclass's setting of PyTorch while others run."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def is_due(self) -> bool:
        torch.use_deterministic_algorithms(False)
        self.step(BATCH_SIZE)
        torch.use_deterministic_algorithms(True)
        return False

    def save(self, state: State) -> None:
        """Nothing: a checkpoint is written once an epoch."""


def train_on_one_batch(
    fashion: Fashion, network: str, step: Step, *, memory_format: torch.memory_format = torch.channels_last
) -> None:
    """The compute limit."""
    split = fashion.packed.splits["train"]
    images, labels = torch.from_numpy(split.images[:BATCH_SIZE]), torch.from_numpy(split.labels[:BATCH_SIZE])
    model = make_classifier(fashion, network).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    criterion = nn.CrossEntropyLoss()
    model.train()
    while True:
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step(BATCH_SIZE)


if __name__ == "__main__":
    main()
