"""The command line of a stage: paths from dvc.yaml, numbers from params.yaml, a user's mistake as one message."""

import inspect
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from imclass.errors import InputError
from imclass.files import hold_lock
from imclass.params import WHERE_KEYS, load_params
from imclass.ranks import ALONE, find_ranks, join_ranks
from imclass.record import append_record, start_record

RESTARTS = 3  # after the loss of a process, each from the last checkpoint
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


def run_in_ranks(stage: Callable[..., Mapping[str, Any] | None]) -> None:
    """As `stage.run`, by as many processes as `processes` in params.yaml says, or as there are already.

    When a process that was started here is killed, all start again, at most three times.
    """
    ranks = find_ranks()
    if ranks != ALONE or "RANK" in os.environ:
        with join_ranks(ranks, stage.__name__):
            run(stage, leads=ranks.leads)
        return
    try:
        processes = load_params(PARAMS_FILE).processes
    except (InputError, OSError) as error:
        sys.exit(f"{stage.__name__}: {error}")
    if processes != 1:
        import torch

        processes = processes or torch.cuda.device_count()
    if processes > 1:
        _launch(processes, stage.__name__)
    run(stage)


def _launch(processes: int, stage: str) -> NoReturn:
    """Run this program in so many processes by PyTorch's torchrun, and end with their status."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the leader tells what is to be told
    for restarts in range(RESTARTS + 1):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",  # the name of the machine may not be known to itself
            max_restarts=0,  # it would also repeat what a user must mend
            monitor_interval=0.1,
        )
        try:
            elastic_launch(config, sys.executable)(*sys.argv)
        except SignalException as error:
            sys.exit(128 + error.sigval)
        except ChildFailedError as error:
            codes = [failure.exitcode for failure in error.failures.values()]
            killed = [-code for code in codes if code < 0 and -code != signal.SIGTERM]
            if not killed:
                sys.exit(max(codes) if max(codes) > 0 else 128 + signal.SIGTERM)
            if restarts < RESTARTS:
                name = signal.Signals(killed[0]).name
                print(f"{stage}: a process was ended by {name}: starting again from the last checkpoint", flush=True)
        else:
            sys.exit(0)
    sys.exit(f"{stage}: given up after {RESTARTS} starts anew, since a process was ended each time by {name}")
