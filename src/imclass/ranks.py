"""Several processes that do the same together, on one host or on many, over torch.distributed."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from imclass.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SECONDS_TO_LEAD = 2  # in which the leader tells what all have seen, and torchrun ends the others
GRACE_SECONDS = 10  # for the leader to save, when all are told to stop
MOST_SILENCE = timedelta(hours=12)  # of a host that vanished, or of one at work; a killed process is seen at once
LOST = re.compile("connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|watchdog|unhandled system", re.I)


@dataclass(frozen=True)
class Ranks:
    """This process among those that do the same stage: `rank` of `size`, and `local` of the `on_host` on its host.

    Rank 0 leads: it alone writes and tells.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    on_host: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def all_gather(self, tensor: "Tensor") -> "Tensor":
        """The tensors of all ranks, which have the same shape, one after another along a new first axis."""
        import torch

        copies = tensor.expand(self.size, *tensor.shape).contiguous()
        gathered = torch.empty_like(copies)
        torch.distributed.all_to_all_single(gathered, copies)  # gloo's all-gather takes two to three times as long
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The leader's value, to all; what the others give is not looked at."""
        import torch

        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def send(self, value: Any) -> None:
        """Hand a value to the leader, who receives it."""
        import torch

        torch.distributed.send_object_list([value], 0)

    def receive(self, rank: int) -> Any:
        """What a rank sends to this one, which leads."""
        import torch

        values = [None]
        torch.distributed.recv_object_list(values, rank)
        return values[0]


ALONE = Ranks()


def find_ranks() -> Ranks:
    """What torchrun or Slurm's srun say in the environment about this process; else it is alone."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        }  # some set the first two only
    elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, for each task; not in a batch script
        tasks = "SLURM_STEP_TASKS_PER_NODE"  # such as 4(x2)
        names = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0", tasks: "1"}
    else:
        return ALONE
    return Ranks(*(int(re.split("[(,]", environment.get(name, default))[0]) for name, default in names.items()))


@contextmanager
def join_ranks(ranks: Ranks, what: str) -> Iterator[None]:
    """Within the context this process talks with the others; it ends with one message where one of them is lost."""
    if ranks.size == 1:
        yield
        return
    import torch

    if not ranks.leads:  # a signal to all is the leader's to answer, which may need this rank for the step under way
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: signal.alarm(GRACE_SECONDS))
    if "RANK" not in os.environ:
        os.environ |= _translate_slurm(os.environ)
    try:
        torch.distributed.init_process_group(timeout=MOST_SILENCE)
        yield
        torch.distributed.barrier()  # the leader's store must outlive the others
        torch.distributed.destroy_process_group()
    except (SystemExit, InputError, OSError) as error:
        told = error.code if isinstance(error, SystemExit) else f"{what}: {error}"
        if not ranks.leads and isinstance(told, str):  # most mistakes are seen by all
            time.sleep(SECONDS_TO_LEAD)
            was_ended = signal.alarm(0) > 0  # by SIGTERM meanwhile: the leader has told it
            told = 1 if was_ended else told
        _leave(told, 1)
    except RuntimeError as error:  # gloo has no class of its own for this
        found = LOST.search(str(error))
        if found is None:
            raise
        told = f"{what}: another process was lost ({found[0].lower()}): run again to go on"
        _leave(told if ranks.leads else "", 1)


def _leave(told: str | int | None, status: int) -> NoReturn:
    """End at once, as sys.exit would: PyTorch's own end would wait for others, or abort."""
    if isinstance(told, str) and told:
        print(told, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(told if isinstance(told, int) else status)


def _translate_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the leader is, as torchrun would say it. The first host of the step has rank 0."""
    ranks = find_ranks()
    hosts = environment["SLURM_STEP_NODELIST"]  # such as node[03-05,17] or one,two
    first = re.match(r"([^\[,]+)(?:\[(\d+))?", hosts)
    if first is None:
        raise InputError(f"SLURM_STEP_NODELIST: expected names of hosts, found {hosts!r}")
    port = 20_000 + int(environment["SLURM_JOB_ID"]) % 20_000  # another one for another job on the same host
    return {
        "RANK": str(ranks.rank),
        "WORLD_SIZE": str(ranks.size),
        "LOCAL_RANK": str(ranks.local),
        "LOCAL_WORLD_SIZE": str(ranks.on_host),
        "MASTER_ADDR": environment.get("MASTER_ADDR", "".join(part or "" for part in first.groups())),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }
