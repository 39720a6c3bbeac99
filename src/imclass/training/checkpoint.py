"""State of a training <-> checkpoints on disk, so that a training that was killed goes on as if it had not been.

Checkpoints are not outs of the pipeline, which DVC deletes before it runs a stage. They lie in a folder named by the
fingerprint of all that decides the result, so that another learning rate never finds them.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from imclass.errors import InputError
from imclass.files import hold_lock, name_in_errors
from imclass.ranks import ALONE, Ranks
from imclass.tensors import read_tensors, write_tensors
from imclass.training.history import Epoch
from imclass.training.state import State

KIND = "checkpoint 4"  # the number rises when the format changes
KEPT = 2  # of one training: the newest, and one to fall back to
MAX_BYTES = 4 * 2**30  # of all trainings together
SECONDS_BETWEEN = 60.0  # at most so much of an epoch is lost
LOCK_FILE = "lock"


class NoCheckpoints:
    """What ranks have that do not lead."""

    def is_due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass


class Checkpoints:
    """The checkpoints of one training, held by one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved = time.monotonic()
        self.stopped_by: int | None = None

    def stop(self, signal_number: int, _: object) -> None:
        """Signal handler: let the training end after the step under way. A second signal ends it at once."""
        self.stopped_by = signal_number
        signal.signal(signal_number, signal.SIG_DFL)

    def is_due(self) -> bool:
        """Whether to save before the epoch has ended."""
        return self.stopped_by is not None or time.monotonic() - self.saved > SECONDS_BETWEEN

    def save(self, state: State) -> None:
        """Write the state, whole or not at all, and drop all but the newest two.

        Ends the process, with the status that shells give it, where a signal asked for that.
        """
        name = f"{len(state.history):06}-{state.step:09}.safetensors"
        tensors, record = _flatten(state)
        write_tensors(self.folder / name, tensors, record)
        for path in self._list()[:-KEPT]:
            path.unlink()
        self.saved = time.monotonic()
        if self.stopped_by is not None:
            print(f"stopped by {signal.Signals(self.stopped_by).name}; run again to go on", file=sys.stderr)
            sys.exit(128 + self.stopped_by)

    def restore(self, state: State) -> bool:
        """Bring the state to the newest sound checkpoint -> whether there was one.

        A damaged one is told, set aside as *.damaged, and the one before it used.
        """
        for path in reversed(self._list()):
            try:
                tensors, record = read_tensors(path)
                if record.get("kind") != KIND:
                    raise InputError(f"{path}: expected a {KIND!r}, found {record.get('kind')!r}")
            except (InputError, OSError) as error:
                print(f"checkpoint set aside: {error}", file=sys.stderr)
                path.rename(path.with_suffix(".damaged"))
                continue
            _unflatten(state, tensors, record)
            return True
        return False

    def list_shorter(self) -> "list[Checkpoints]":
        """Those of trainings that differ only in having fewer epochs, the longest first."""
        name, epochs = self.folder.name.rsplit("-", 1)
        others = {int(path.name.rsplit("-", 1)[1]): path for path in self.folder.parent.glob(f"{name}-*")}
        return [Checkpoints(others[count]) for count in sorted(others, reverse=True) if count < int(epochs)]

    def _list(self) -> list[Path]:
        """Oldest first; names sort by progress, whatever the clock says."""
        return sorted(self.folder.glob("*.safetensors"))


def locate_checkpoints() -> Path:
    """The folder of all checkpoints: in the main checkout, also where DVC runs an experiment in a temporary one."""
    return Path(os.environ.get("DVC_ROOT", "."), ".checkpoints")


@contextmanager
def hold_checkpoints(root: Path, decisive: Mapping[str, Any], *, epochs: int) -> Iterator[Checkpoints]:
    """The checkpoints of a training of `epochs`, waiting while another process holds them.

    `decisive` holds all else that decides its result, as plain JSON values. Within the context SIGTERM and SIGINT let
    the step under way end and its state be saved. Other trainings' checkpoints are removed, the longest unused first,
    until all fit into 4 GiB; never held ones.
    """
    folder = root / f"{_fingerprint(decisive)}-{epochs}"
    with name_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK_FILE).touch()
    with hold_lock(folder / LOCK_FILE, "the same training"):
        _prune(root, keep=folder)
        checkpoints = Checkpoints(folder)
        handlers = {number: signal.signal(number, checkpoints.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield checkpoints
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def resume(state: State, checkpoints: Checkpoints | NoCheckpoints, *, extends: bool, ranks: Ranks = ALONE) -> int:
    """Bring the state of all ranks to where an earlier run was, and say so -> how many epochs that had ended.

    Without one, a shorter training that differs in nothing else is gone on with where its schedule `extends` to more
    epochs, which a constant learning rate does.
    """
    if isinstance(checkpoints, Checkpoints):
        _resume(state, checkpoints, extends=extends)
    if ranks.size > 1:
        tensors, record = _flatten(state)
        # From the CPU: each rank would unpickle them onto the GPU of the leader.
        tensors, record = ranks.broadcast(({name: tensor.cpu() for name, tensor in tensors.items()}, record))
        if not ranks.leads:
            _unflatten(state, tensors, record)
    return len(state.history)


def _resume(state: State, checkpoints: Checkpoints, *, extends: bool) -> None:
    if checkpoints.restore(state):
        print(f"going on after {len(state.history)} epochs and {state.step} batches of an earlier run")
        return
    for shorter in checkpoints.list_shorter():
        if not extends:
            print(
                "a shorter training is there, but the schedule of this one differs from the first step: starting anew"
            )
            break
        if shorter.restore(state):
            print(f"going on after the {len(state.history)} epochs of a shorter training")
            break


def _fingerprint(decisive: Mapping[str, Any]) -> str:
    text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _prune(root: Path, keep: Path) -> None:
    folders = sorted((folder for folder in root.iterdir() if folder.is_dir()), key=lambda path: path.stat().st_mtime)
    total = sum(_measure(folder) for folder in folders)
    for folder in folders:
        if total <= MAX_BYTES:
            return
        if folder == keep:
            continue
        with (folder / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            total -= _measure(folder)
            shutil.rmtree(folder)


def _measure(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _flatten(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    moments = {
        at: {name: tensor for name, tensor in moment.items() if tensor is not None}  # plain SGD keeps none
        for at, moment in state.optimizer.state_dict()["state"].items()
    }
    average = {} if state.average is None else state.average.state_dict()
    tensors = {
        **{f"model/{name}": tensor for name, tensor in state.model.state_dict().items()},
        **{f"average/{name}": tensor for name, tensor in average.items()},
        **{f"best/{name}": tensor for name, tensor in state.best_weights.items()},
        **{f"optimizer/{at}/{name}": tensor for at, moment in moments.items() for name, tensor in moment.items()},
        "epoch/losses": state.losses,
        "epoch/correct": state.correct,
    }
    record = {
        "kind": KIND,
        "step": state.step,
        "history": [asdict(epoch) for epoch in state.history],
        "scaler": state.scaler.state_dict(),  # empty but for float16
    }
    return tensors, record


def _unflatten(state: State, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, rest = name.split("/", 1)
        groups.setdefault(group, {})[rest] = tensor
    state.model.load_state_dict(groups["model"])
    if state.average is not None:
        state.average.load_state_dict(groups["average"])
    state.best_weights = groups.get("best", {})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups.get("optimizer", {}).items():
        at, key = name.split("/", 1)
        moments.setdefault(int(at), {})[key] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.losses.copy_(groups["epoch"]["losses"])
    state.correct.copy_(groups["epoch"]["correct"])
    if state.scaler.is_enabled():
        state.scaler.load_state_dict(record["scaler"])
    state.step = record["step"]
    state.history = [Epoch(**epoch) for epoch in record["history"]]
