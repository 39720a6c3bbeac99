"""Stages whose system calls fail: strace lists those on the project's own files, then lets one of them fail a run."""

import errno
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.programs import read_command
from benchmarks.project import FaultError, Project

STAGES = ("prepare", "build", "train", "evaluate", "export")
OWN = re.compile(r"\b(data|models|reports)\b|\.checkpoints")
# The errors that each call is given, besides being the last that a killed process makes.
ERRORS = {
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fallocate": ("ENOSPC", "EIO"),
    "msync": ("EIO",),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "unlink": ("EIO", "EACCES"),
    "rmdir": ("EIO",),
    "mkdir": ("ENOSPC", "EROFS"),
}


@dataclass(frozen=True)
class Fault:
    """What happens at the `when`-th `call` of a stage on a file, counted from 1: an error, or 'SIGKILL'."""

    stage: str
    call: str
    file: str
    when: int
    kind: str


def trace(project: Project, stage: str, *options: str) -> tuple[int, str, list[str]]:
    """Run a stage under strace -> its status, what it printed, the calls it made."""
    log = project.folder.with_suffix(".strace")
    command = ["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={','.join(ERRORS)}", *options]
    status = project.start(shlex.join([*command, *read_command(project.folder, stage)])).wait()
    return status, project.output.read_text(), log.read_text().splitlines()


def list_faults(project: Project, stage: str) -> Iterator[Fault]:
    """All faults that a stage can meet at its own files; one run tells which calls there are."""
    shutil.rmtree(project.folder / ".checkpoints", ignore_errors=True)
    status, output, calls = trace(project, stage)
    if status:
        raise FaultError(output)
    count: Counter[tuple[str, str]] = Counter()
    for line in calls:
        found = re.match(r"""\d+ +(\w+)\((?:\d+<|")([^">]+)""", line)
        if found and OWN.search(found[2]) and " = -1 " not in line:
            count[found[1], found[2]] += 1
    for (call, file), last in count.items():
        for when in sorted({1, (last + 1) // 2, last}):  # thousands of writes make everything.npy
            yield from (Fault(stage, call, file, when, kind) for kind in ("SIGKILL", *ERRORS[call]))


def survive(project: Project, fault: Fault, expected: dict[str, bytes]) -> bool:
    """Let a stage fail, then run it again -> whether the fault was met. Raises FaultError where a promise broke."""
    if fault.stage == "train":
        shutil.rmtree(project.folder / ".checkpoints", ignore_errors=True)
    action = "signal=SIGKILL" if fault.kind == "SIGKILL" else f"error={fault.kind}"
    inject = f"inject={fault.call}:{action}:when={fault.when}"
    status, output, calls = trace(project, fault.stage, "-P", fault.file, "-e", inject)
    met = any("(INJECTED)" in line for line in calls)
    if not met and status == 0:
        return False
    if status == 0:
        raise FaultError(f"done, in spite of {fault}")
    if fault.kind != "SIGKILL":
        code = getattr(errno, fault.kind)
        told = re.search(rf"^{fault.stage}: \[Errno {code}\] (.*): '(.+)'$", output, re.MULTILINE)
        if told is None or not OWN.search(told[2]) or ("MB free" in told[1]) != (fault.kind == "ENOSPC"):
            raise FaultError(f"unclear message at {fault}:\n{output}")
    found = project.read_outs()
    if damaged := [name for name, content in found.items() if content != expected[name]]:
        raise FaultError(f"{damaged} damaged by {fault}")
    project.run(shlex.join(read_command(project.folder, fault.stage)))
    project.check(expected)
    return True
