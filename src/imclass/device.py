"""Where a run happens, and what must be fixed for it to repeat bit for bit."""

import fcntl
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imclass.errors import InputError
from imclass.ranks import ALONE, Ranks


def select_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """auto: the GPU if there is one, else the CPU; of several GPUs, one that no other run has. Else the device named.

    Waits while other runs have all of several GPUs, so that each worker of a queue gets its own; so call it once in a
    process. Of several ranks on a host each gets the GPU of its number. Raises InputError where this machine or this
    build of PyTorch does not have the device, and where several ranks are to have the same GPU.
    """
    if ranks.size > 1 and name.startswith(("cuda:", "mps")):
        raise InputError(f"device: expected auto, cuda or cpu for {ranks.size} processes, found {name}")
    if ranks.size > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        name = f"cuda:{ranks.local}"
    elif name == "auto" and torch.cuda.device_count() > 1:
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        name = f"cuda:{claim([f'imclass-gpu-{gpu.uuid}.lock' for gpu in gpus], Path(tempfile.gettempdir()))}"
    elif name == "auto":
        has_mps = torch.backends.mps.is_available() and ranks.size == 1  # over which processes exchange nothing
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if ranks.size > 1 and (device.index or 0) >= count[device.type]:
        found = f"{ranks.on_host} processes on a host that shows {count['cuda']} to this one"
        raise InputError(f"processes: expected a GPU for each, found {found}")
    if (device.index or 0) >= count[device.type]:
        raise InputError(f"device: expected one that this machine has, found {name!r}; try auto or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # whose generator is seeded, and to which NCCL's own memory goes
    return device


def select_precision(name: str, device: torch.device) -> torch.dtype:
    """float32, bfloat16 or float16. Raises InputError where the device would only imitate the precision."""
    if name == "bfloat16" and device.type == "cpu":
        there = torch.cpu._is_avx512_bf16_supported()
    elif name == "bfloat16" and device.type == "cuda":
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        there = name == "float32" or device.type != "cpu"
    if not there:
        raise InputError(f"train.precision: expected one that {device} computes in, found {name}; try float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def describe_device(device: torch.device) -> dict[str, Any]:
    """What of a device decides the last bits, for the run record."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def make_deterministic(threads: int) -> None:
    """Let PyTorch use only operations that repeat bit for bit, on a fixed number of threads (it changes the bits)."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats only with a fixed workspace
    # As torch.use_deterministic_algorithms(True), which loads the compiler besides: some 2 s.
    torch.set_deterministic_debug_mode("error")
    # Else every new tensor is written twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_out_of_memory(batch: str, advice: str) -> Iterator[None]:
    """Raise InputError instead where the machine or its GPU has no memory left: for what, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch has a class of its own for this on GPUs only
        if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error)):
            raise InputError(f"out of memory with {batch}: {advice}") from None
        raise


def claim(names: Sequence[str], folder: Path, seconds_between: float = 1.0) -> int:
    """Index of the first name that no other process has claimed; waits until there is one.

    The claim is a lock on the file of that name in `folder`, and ends with this process, however that ends.
    """
    waiting = False
    while True:
        for index, name in enumerate(names):
            path = folder / name
            if not path.exists():
                path.touch()
                path.chmod(0o644)  # to lock a file is to read it: other users may
            descriptor = os.open(path, os.O_RDONLY)  # stays open as long as this process lives
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return index
        if not waiting:
            print(f"waiting for one of {len(names)} GPUs, which other runs have", file=sys.stderr)
            waiting = True
        time.sleep(seconds_between)
