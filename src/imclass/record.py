"""Runs of stages <-> runs.jsonl in the main checkout: one JSON line for each, with all that decides the bits made.

Git and DVC do not see the file: what differs from machine to machine must not be in an out of a stage.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "runs.jsonl"
CHECKOUT = Path(__file__).absolute().parents[2]  # the one whose code runs
MOST_HASHED = 128 * 2**20  # bytes of an out: DVC reads it once more, and to read much twice would be felt
# Modules whose version can decide bits; told where a stage has loaded them.
PACKAGES = (
    *("PIL", "cv2", "matplotlib", "numpy", "onnx", "onnxruntime", "onnxscript", "pandas", "simplejpeg", "torch"),
    "torchvision",
)
VARIABLES = ("ATEN_", "CUBLAS_", "DNNL_", "MKL_", "NVIDIA_TF32", "OMP_", "ONEDNN_", "PYTORCH_", "TORCH_")


@dataclass(frozen=True)
class Start:
    """When a stage began, and what stood then under the paths that it was given."""

    at: datetime
    clock: float
    before: Mapping[Path, tuple[int, int] | None]


def start_record(paths: Sequence[Path]) -> Start:
    """To be called before the stage runs; `paths` are those of its inputs and outs."""
    return Start(datetime.now(UTC), time.perf_counter(), {path: _identify(path) for path in paths})


def append_record(start: Start, stage: str, params: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Add the line of a stage that has succeeded; `told` is what only the stage knows, `images` being their number.

    It is added in one write, so that runs at the same time do not mix theirs. Where that fails, stderr says so, and no
    more: the work is done.
    """
    seconds = time.perf_counter() - start.clock
    made = [path for path, earlier in start.before.items() if _identify(path) != earlier]
    try:
        record = {
            "stage": stage,
            "started": start.at.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            **({"images_per_second": round(told["images"] / seconds, 1)} if "images" in told else {}),
            **told,
            **describe_process(),
            "params": params,
            "outs": {path.as_posix(): hash_out(path, most=MOST_HASHED) for path in made},
        }
        line = json.dumps(record, ensure_ascii=False) + "\n"
        descriptor = os.open(Path(os.environ.get("DVC_ROOT", "."), FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        print(f"{stage}: done, but not entered into {FILE}: {error}", file=sys.stderr)


def find_record(folder: Path, stage: str, outs: Mapping[str, str | None]) -> dict[str, Any] | None:
    """The newest record of a run of `stage` that made `outs` (hashes by path). Lines cut off are passed over."""
    path = folder / FILE
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            record = json.loads(line)
            if record["stage"] == stage and record["outs"] == outs:
                return dict(record)
        except (ValueError, TypeError, LookupError):
            continue
    return None


def describe_process() -> dict[str, Any]:
    """What of this process and its machine can decide bits: versions, processor, settings, and the code by file."""
    loaded = [module for name, module in sys.modules.items() if name == "__main__" or name.startswith("imclass.")]
    files = {Path(file).absolute() for module in loaded if (file := getattr(module, "__file__", None))}
    code = sorted(file for file in files if file.is_relative_to(CHECKOUT) and file.name != "__init__.py")
    return {
        "python": platform.python_version(),
        # Not platform.platform(), which starts a program to ask for the processor.
        "platform": "-".join([platform.system(), platform.release(), platform.machine(), *platform.libc_ver()]),
        "cpu": _name_cpu(),
        "packages": {name: sys.modules[name].__version__ for name in PACKAGES if name in sys.modules},
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "code": {file.relative_to(CHECKOUT).as_posix(): hash_out(file) for file in code},
    }


def hash_out(path: Path, *, most: int | None = None) -> str | None:
    """The md5 of a file, or of the list of a folder's files, as DVC writes it into dvc.lock.

    None where there are more than `most` bytes to read.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if most is not None and sum(file.stat().st_size for file in files) > most:
        return None
    if not path.is_dir():
        return _hash_file(path)
    listed = [{"md5": _hash_file(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    return hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _identify(path: Path) -> tuple[int, int] | None:
    """Another value for each file or folder that is written whole, whatever the clock says."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _name_cpu() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.partition(": ")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
