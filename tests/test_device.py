import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from imclass.data.packed import write_packed
from imclass.device import explain_out_of_memory
from imclass.errors import InputError

ROOT = Path(__file__).parents[1]
FIT = {"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255}
# A layer of 65,536 units needs 262 MB for 1,000 images and 17 MB for its weights.
LIMITED = """
import resource, runpy, sys
from pathlib import Path
from imclass.data.packed import open_packed
from imclass.errors import InputError
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.inference import compute_logits

stage = runpy.run_path({script!r})
data = open_packed(Path("packed"))
network = {{"name": "mlp", "hidden": [65536], "dropout": 0.0}}
model = build_model(ModelConfig(data.classes, data.fit, data.mean, False, network, data.std))
used = next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]
resource.setrlimit(resource.RLIMIT_AS, (int(used) * 1024 + 200 * 2**20,) * 2)
try:
    compute_logits(model, data.splits["train"].images)
except InputError as error:
    print(error)
sys.argv[1:] = ["packed", "weights", "model.safetensors", "history.csv"]
stage["run_in_ranks"](stage["train"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory holds on Linux only")
def test_too_little_memory_is_one_message_with_a_batch_size_to_try(tmp_path: Path) -> None:
    rows = [(f"{at:04}", "ab"[at % 2], "train" if at < 1000 else "val") for at in range(1010)]
    pixels = np.random.default_rng(0).integers(0, 256, (1010, 1, 8, 8), np.uint8)
    write_packed(tmp_path / "packed", rows, [([name for name, _, _ in rows], pixels)], FIT)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"batch_size": 1000, "epochs": 1, "device": "cpu"}
    params["model"] |= {"name": "mlp", "mlp": {"hidden": [65536], "dropout": 0.0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    code = LIMITED.format(script=str(ROOT / "stages/train.py"))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    first, *_ = done.stdout.splitlines()
    assert (
        first == "out of memory with 1000 images at once, a fixed number: free some, or take another device or machine"
    )
    assert done.stderr == (
        "train: out of memory with batch_size 1000: try batch_size 500, or train.accumulation 2; "
        "the checkpoint stays, for a run with more memory\n"
    )
    assert done.returncode == 1
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    ],
)
def test_lack_of_memory_elsewhere(error: Exception) -> None:
    with (
        pytest.raises(InputError, match="out of memory with batch_size 8: try 4"),
        explain_out_of_memory("batch_size 8", "try 4"),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory("batch_size 8", "try 4"):
        raise RuntimeError("shapes do not fit")
