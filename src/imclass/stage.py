"""The command line of a stage: paths from dvc.yaml, numbers from params.yaml, a user's mistake as one message."""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from imclass.errors import InputError
from imclass.files import hold_lock
from imclass.params import WHERE_KEYS, load_params
from imclass.record import append_record, start_record

PARAMS_FILE = Path("params.yaml")  # DVC's own name for it, in the folder of dvc.yaml


def run(stage: Callable[..., Mapping[str, Any] | None], *, leads: bool = True) -> None:
    """Call `stage(params, *paths)` with the checked parameters and the paths given on the command line.

    A mistake of the user (InputError) or of the machine (OSError) ends the process with its message and status 1, any
    other exception is our own and keeps its traceback. A success is entered into the run record, with what the stage
    returns: how many `images` it handled, and what else only it knows. `--seed N` before the paths stands for the seed
    in params.yaml. Of several processes that do a stage together one `leads`; the others print nothing and write no
    record.
    """
    names = list(inspect.signature(stage).parameters)[1:]
    arguments = sys.argv[1:]
    seed = arguments[1] if arguments[:1] == ["--seed"] and len(arguments) > 1 else None
    paths = [Path(argument) for argument in (arguments if seed is None else arguments[2:])]
    if len(paths) != len(names):
        sys.exit(f"usage: python stages/{stage.__name__}.py {' '.join(name.upper() for name in names)}")
    start = start_record(paths)
    if not leads:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        # Another stage is left running where DVC alone was killed.
        with hold_lock(Path(), "another stage here") if leads else nullcontext():
            params = load_params(PARAMS_FILE, seed=seed)
            told = stage(params, *paths)
    except (InputError, OSError) as error:
        sys.exit(f"{stage.__name__}: {error}")
    if not leads:
        return
    append_record(start, stage.__name__, params.model_dump(exclude=set(WHERE_KEYS)), told or {})
