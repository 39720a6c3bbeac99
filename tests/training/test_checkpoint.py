import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import Split, write_packed
from imclass.models.classifier import ModelConfig, build_model
from imclass.training import checkpoint
from imclass.training.checkpoint import Checkpoints, hold_checkpoints, resume
from imclass.training.fit import fit
from imclass.training.optimizer import build_optimizer
from imclass.training.schedule import constant, one_cycle
from imclass.training.state import State, start_training
from imclass.training.step import Learner

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(
    classes=["dark", "bright"],
    fit={"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255},
    mean=[0.5],
    mirror=False,
    network={"name": "cnn", "widths": [4], "dropout": 0.3},
    std=[0.5],
)


def make_split(count: int, seed: int) -> Split:
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 2, count)
    images = chance.integers(0, 156, (count, 1, 8, 8)) + 100 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


class Killed(BaseException):
    pass


class KillingSaver:
    """Saves like the product, but more often, and ends the training at a step of its own."""

    def __init__(self, checkpoints: Checkpoints, *, every: int, kill_at: int | None) -> None:
        self.checkpoints, self.every, self.kill_at = checkpoints, every, kill_at
        self.steps = 0

    def is_due(self) -> bool:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed
        return self.steps % self.every == 0

    def save(self, state: State) -> None:
        self.checkpoints.save(state)


def make_state(optimizer: str) -> tuple[State, ShuffledBatches]:
    split = make_split(150, seed=0)
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=4,
        augment=partial(flip_and_shift, flip=True, shift=1),
        seed=0,
        device=torch.device("cpu"),
    )
    torch.manual_seed(0)
    model = build_model(CONFIG).to(memory_format=torch.channels_last)
    built = build_optimizer(model, name=optimizer, lr=0.1, momentum=0.9, weight_decay=0.01)
    return start_training(model, built, num_batches=len(dataset), averaged=optimizer == "adamw"), dataset


def train(
    checkpoints: Checkpoints, *, optimizer: str = "sgd", kill_at: int | None = None, every: int = 7, epochs: int = 3
) -> State:
    state, dataset = make_state(optimizer)
    resume(state, checkpoints, extends=True)
    saver = KillingSaver(checkpoints, every=every, kill_at=kill_at)
    fit(
        state,
        load_batches(dataset),
        make_split(40, seed=1),
        saver,
        epochs=epochs,
        schedule=partial(one_cycle if epochs == 3 else constant, num_steps=3 * len(dataset), peak=0.05),
        learn=Learner(nn.CrossEntropyLoss(reduction="sum"), dataset.division, ema=0.9),
    )
    return state


def read_weights(state: State) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in state.model.state_dict().values()])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    with hold_checkpoints(tmp_path / "checkpoints", {"lr": 0.1}, epochs=3) as held:
        yield held


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    states = {}
    for name in "sgd", "adamw":
        with hold_checkpoints(folder / name, {}, epochs=3) as held:
            states[name] = train(held, optimizer=name)
    return states


def test_the_scale_of_float16_gradients_goes_on(checkpoints: Checkpoints) -> None:
    (state, _), (restored, _) = make_state("sgd"), make_state("sgd")
    state.scaler, restored.scaler = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    checkpoints.save(state)
    assert checkpoints.restore(restored)
    assert restored.scaler.get_scale() == 8.0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kill_at", [1, 8, 37, 38, 39, 60, 100, 113])
def test_killed_at_any_step_and_resumed_equals_uninterrupted(
    optimizer: str, kill_at: int, checkpoints: Checkpoints, uninterrupted: dict[str, State]
) -> None:
    with pytest.raises(Killed):
        train(checkpoints, optimizer=optimizer, kill_at=kill_at)
    state = train(checkpoints, optimizer=optimizer)
    assert torch.equal(read_weights(state), read_weights(uninterrupted[optimizer]))
    assert state.history == uninterrupted[optimizer].history


def test_killed_again_and_again_equals_uninterrupted(checkpoints: Checkpoints, uninterrupted: dict[str, State]) -> None:
    for _ in range(100):
        try:
            state = train(checkpoints, kill_at=9, every=2)
            break
        except Killed:
            continue
    assert torch.equal(read_weights(state), read_weights(uninterrupted["sgd"]))
    assert state.history == uninterrupted["sgd"].history


def test_at_most_the_steps_since_the_last_save_are_repeated(checkpoints: Checkpoints) -> None:
    with pytest.raises(Killed):
        train(checkpoints, kill_at=24)
    state, _ = make_state("sgd")
    assert checkpoints.restore(state)
    assert (len(state.history), state.step) == (0, 21)


def test_a_finished_training_is_not_repeated(
    checkpoints: Checkpoints, uninterrupted: dict[str, State], capsys: pytest.CaptureFixture[str]
) -> None:
    train(checkpoints)
    state = train(checkpoints, kill_at=1)
    assert "going on after 3 epochs and 0 batches" in capsys.readouterr().out
    assert torch.equal(read_weights(state), read_weights(uninterrupted["sgd"]))


def test_only_the_newest_two_are_kept(checkpoints: Checkpoints) -> None:
    train(checkpoints)
    assert [path.name for path in sorted(checkpoints.folder.glob("*.safetensors"))] == [
        "000002-000000036.safetensors",
        "000003-000000000.safetensors",
    ]


def test_another_lr_finds_nothing(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train(checkpoints)
    with hold_checkpoints(tmp_path / "checkpoints", {"lr": 0.2}, epochs=3) as others:
        assert not others.restore(make_state("sgd")[0])
        assert others.list_shorter() == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    damage: str, checkpoints: Checkpoints, uninterrupted: dict[str, State], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(checkpoints, kill_at=60)
    newest = max(checkpoints.folder.glob("*.safetensors"))
    sound = newest.read_bytes()
    middle = len(sound) // 2
    flipped = sound[:middle] + bytes([sound[middle] ^ 16]) + sound[middle + 1 :]
    newest.write_bytes({"flip": flipped, "cut": sound[:999], "empty": b"", "pickle": b"\x80\x04."}[damage])
    state = train(checkpoints)
    assert f"checkpoint set aside: {newest}: " in capsys.readouterr().err
    assert newest.with_suffix(".damaged").exists()
    assert torch.equal(read_weights(state), read_weights(uninterrupted["sgd"]))


def test_every_flipped_bit_and_cut_is_refused(checkpoints: Checkpoints) -> None:
    state, _ = make_state("sgd")
    checkpoints.save(state)
    path = next(checkpoints.folder.glob("*.safetensors"))
    sound = path.read_bytes()
    chance = random.Random(0)
    for number in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged if number % 2 else sound[: chance.randrange(len(sound))])
        assert not checkpoints.restore(state)


def test_a_constant_rate_goes_on_with_a_shorter_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_checkpoints(tmp_path / "whole", {}, epochs=4) as held:
        whole = train(held, epochs=4)
    with hold_checkpoints(tmp_path / "parts", {}, epochs=2) as held:
        train(held, epochs=2)
    with hold_checkpoints(tmp_path / "parts", {}, epochs=4) as held:
        extended = train(held, epochs=4)
    assert "going on after the 2 epochs of a shorter training" in capsys.readouterr().out
    assert torch.equal(read_weights(extended), read_weights(whole))
    assert extended.history == whole.history


def test_a_schedule_that_depends_on_the_epochs_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold_checkpoints(tmp_path, {}, epochs=2) as held:
        train(held, epochs=2)
    with hold_checkpoints(tmp_path, {}, epochs=3) as held:
        state, _ = make_state("sgd")
        resume(state, held, extends=False)
    assert state.history == []
    assert "starting anew" in capsys.readouterr().out


def test_old_checkpoints_go_but_never_held_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(["held", "old"]):
        with hold_checkpoints(tmp_path, {"name": name}, epochs=1) as held:
            held.save(make_state("sgd")[0])
        os.utime(held.folder, (age, age))
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 1)
    folders = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    with (folders[0] / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with hold_checkpoints(tmp_path, {"name": "new"}, epochs=1):
            pass
    assert folders[0].exists()
    assert not folders[1].exists()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a packed set and params for a training of some seconds by the real stage."""
    rows = [(f"{number:04}", str(number % 3), "train" if number < 900 else "val") for number in range(1000)]
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1, 8, 8), np.uint8)
    names = [name for name, _, _ in rows]
    write_packed(tmp_path / "packed", rows, [(names, pixels)], CONFIG.fit)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params.update(epochs=12, batch_size=4, lr=0.01)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def start_stage(project: Path) -> "subprocess.Popen[str]":
    paths = ["packed", "weights", "model.safetensors", "history.csv"]
    command = [sys.executable, str(ROOT / "stages" / "train.py"), *paths]
    env = {**os.environ, "DVC_ROOT": str(project)}
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(project: Path, epoch: int) -> None:
    for _ in range(600):
        if any(int(path.name[:6]) >= epoch for path in project.glob(".checkpoints/*/*.safetensors")):
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within 30 s")


def test_signals_end_the_stage_and_the_next_run_gives_the_same_bytes(project: Path) -> None:
    for epoch, number, status in (2, signal.SIGTERM, 143), (4, signal.SIGINT, 130), (6, signal.SIGKILL, -9):
        stage = start_stage(project)
        wait_for_checkpoint(project, epoch)
        stage.send_signal(number)
        _, told = stage.communicate(timeout=60)
        assert stage.returncode == status
        assert "Traceback" not in told
        assert ("run again to go on" in told) == (number != signal.SIGKILL)
        assert not (project / "model.safetensors").exists()
    resumed = start_stage(project)
    assert "going on after" in resumed.communicate(timeout=120)[0]
    kept = [(project / name).read_bytes() for name in ("model.safetensors", "history.csv")]
    (project / ".checkpoints").rename(project / "elsewhere")
    whole = start_stage(project)
    assert "going on" not in whole.communicate(timeout=120)[0]
    assert kept == [(project / name).read_bytes() for name in ("model.safetensors", "history.csv")]


def test_the_same_training_twice_at_once_gives_the_same_bytes(project: Path) -> None:
    first, second = start_stage(project), start_stage(project)
    told = [stage.communicate(timeout=180) for stage in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert sum("waiting for it" in err for _, err in told) == 1
    assert sum("going on after 12 epochs" in out for out, _ in told) == 1
