"""Runs that are killed, that fail, or that meet damaged files -> whether they end with the same bytes as ever.

Every case starts from a copy of a prepared project, runs a command until it ends well, and is then compared with the
run that nothing happened to: dvc.lock and each file of each out.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.corruption import list_artifacts, list_attacks, refuse
from benchmarks.fuzz import damage
from benchmarks.injection import STAGES, list_faults, survive
from benchmarks.project import FaultError, Project, prepare_projects
from benchmarks.report import RESULTS, describe_machine

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = {"all processes": "", "the stage": r"python stages/", "DVC": r"bin/dvc (repro|exp|queue)"}
REPRO = "dvc repro"
# A kill just before the end leaves the experiment itself, whose name can then not be given again.
FORGET = "git for-each-ref --format='%(refname)' 'refs/exps/*/*/killed' | xargs -r -n 1 git update-ref -d"
EXPERIMENT = f"{FORGET}; dvc exp run --name killed -S lr=0.1"
APPLY = "dvc exp apply killed"
# A command, and what brings its result into the workspace. The worker of a queue runs in the background.
COMMANDS = {
    REPRO: (REPRO, "true"),
    "dvc exp run": (EXPERIMENT, "true"),
    "dvc exp run --temp": (f"{EXPERIMENT} --temp", APPLY),
    "dvc queue start": (
        f"{EXPERIMENT} --queue && dvc queue start && until git for-each-ref | grep -q /killed$; do sleep 0.2; done",
        APPLY,
    ),
}
WEIGHTS = (12, 5, 1, 1)
IN_A_ROW = 12  # kills until a command may end
WINDOW = 10.0  # seconds, at a random moment of which a kill comes; what was done before the last one stays done
EPOCHS = 10  # of digits
# Settings in which a run from nothing gives the same bytes.
SURROUNDINGS = {
    "umask 077": "umask 077 && dvc repro",
    "no HOME": "env -u HOME dvc repro",
    "one core": "taskset -c 0 dvc repro",
    "other language, time zone, hash seed": "LC_ALL=C TZ=Asia/Tokyo PYTHONHASHSEED=7 dvc repro",
    "killed in training, then the clock a day back": (
        "(dvc repro & until ls .checkpoints/*/000003* >/dev/null 2>&1; do sleep 0.05; done;"
        " pkill -KILL -s 0 -f '[s]tages/train.py'; wait) ; faketime -f -1d dvc repro"
    ),
    "all files from two days ahead": "dvc repro; find . -path ./.git -prune -o -exec touch -d '2 days' {} +; dvc repro",
    "two at once": "dvc repro & dvc repro; wait; dvc repro",
}
Line = tuple[str, int, list[str]]  # what was done, how often, and what broke


@contextmanager
def note(failed: list[str], what: str) -> Iterator[None]:
    """Keep a broken promise for the report, and go on."""
    try:
        yield
    except FaultError as error:
        failed.append(f"{what}: {error}")
        print(failed[-1], file=sys.stderr, flush=True)


def kill_at_random(folder: Path, kills: int, seed: int) -> Iterator[Line]:
    """Kill all commands at random moments."""
    before, after = prepare_projects(folder, {"epochs": EPOCHS})
    expected = {}
    for name, start in (REPRO, before), ("dvc exp run", after):
        project = start.copy(folder / "whole")
        project.run(COMMANDS[name][0])
        expected[name] = project.read_outs()
    chance = random.Random(seed)
    done: Counter[tuple[str, str]] = Counter()
    failed: list[str] = []
    while done.total() < kills:
        [name] = chance.choices(list(COMMANDS), WEIGHTS)
        command, apply = COMMANDS[name]
        project = (before if name == REPRO else after).copy(folder / "killed")
        with note(failed, name):
            for kill in kill_until_done(project, command, chance):
                done[name, kill] += 1
                print(done.total(), name, kill, file=sys.stderr, flush=True)
            project.run(apply)
            project.check(expected[REPRO if name == REPRO else "dvc exp run"])
        project.kill("")
    for (name, kill), count in sorted(done.items()):
        yield f"`{name}`: {kill}", count, [text for text in failed if text.startswith(name)]


def kill_until_done(
    project: Project,
    command: str,
    chance: random.Random,
    *,
    targets: Sequence[str] = tuple(TARGETS),
    most: int = IN_A_ROW,
    window: float = WINDOW,
) -> Iterator[str]:
    """Start a command again and again, and kill it at random moments -> what was sent to whom, until it ends well."""
    queued = "--queue" in command
    for _ in range(most):
        process = project.start(command)
        target, number = chance.choice(targets), chance.choice(SIGNALS)
        until = time.monotonic() + chance.uniform(0, window)
        while process.poll() is None and (time.monotonic() < until or not project.kill(TARGETS[target], number)):
            time.sleep(0.02)
        if process.poll() is None:
            yield f"{number.name} to {target}"
        elif process.returncode == 0:
            return
        if queued:
            process.kill()  # the shell, which waits for an experiment that may never come
        project.wait_until_gone("exp exec-run" if queued else "" if target == "all processes" else TARGETS["DVC"])
        process.wait()
        project.wait_until_buried()
    saved = project.count_saved_epochs()
    told = project.run(command)
    if saved and "Running stage 'train'" in told and not queued:
        found = re.search(r"going on after (\d+) epochs", told)
        if found is None or int(found[1]) < saved:
            raise FaultError(f"expected to go on after {saved} epochs\n{told}")


def fail_calls(folder: Path) -> Iterator[Line]:
    """Let every system call on the stages' own files fail once."""
    project = prepare_projects(folder, {"epochs": 2})[1]
    expected = project.read_outs()
    for stage in STAGES:
        done: Counter[str] = Counter()
        failed: list[str] = []
        for fault in list_faults(project, stage):
            with note(failed, str(fault)):
                done[fault.kind] += survive(project, fault, expected)
        print(stage, done, file=sys.stderr, flush=True)
        for kind, count in done.items():
            yield f"{stage}: {kind} at each system call", count, [text for text in failed if f"{kind!r}" in text]


def change_surroundings(folder: Path) -> Iterator[Line]:
    """Run from nothing where something is unusual."""
    before, after = prepare_projects(folder, {"epochs": EPOCHS})
    for name, command in SURROUNDINGS.items():
        failed: list[str] = []
        project = before.copy(folder / "elsewhere")
        with note(failed, name):
            project.run(command)
            project.check(after.read_outs())
        yield name, 1, failed


def fill_disks(folder: Path, disks: int, seed: int) -> Iterator[Line]:
    """Run from nothing on file systems that fill up at some point, then make room and run again (as root)."""
    before, after = prepare_projects(folder, {"epochs": EPOCHS})
    expected = after.read_outs()
    sizes = [int(project.run("du -sk . | cut -f1")) for project in (before, after)]
    chance = random.Random(seed)
    disk = folder / "disk"
    disk.mkdir()
    failed: list[str] = []
    for _ in range(disks):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={chance.randint(*sizes)}k", "none", str(disk)], check=True)
        try:
            project = before.copy(disk / "project")
            project.output = folder / "disk.output"
            with note(failed, "full disk"):
                process = project.start(REPRO)
                try:
                    status = process.wait(60)
                    if status == 0 or not re.search("No space left|disk is full", project.output.read_text()):
                        raise FaultError(f"status {status}, no word of the disk\n{project.output.read_text()}")
                except subprocess.TimeoutExpired:  # DVC does not always end by itself
                    project.kill("")
                    process.wait()
                    project.wait_until_gone("")
                    project.wait_until_buried()
                subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
                project.run(REPRO)
                project.check(expected)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    yield f"`{REPRO}` on a disk that fills up, then again with room", disks, failed


def corrupt(folder: Path, seed: int, each: int) -> Iterator[Line]:
    """Damage every artifact, and put hostile files in its place."""
    project = prepare_projects(folder, {"epochs": 2}, keep_checkpoints=True)[1]
    canary = folder / "canary"
    attacks = list(list_attacks(canary))
    for name, path in list_artifacts(project.folder).items():
        chance = random.Random(f"{seed} {name}")
        sound = path.read_bytes()
        failed: list[str] = []
        done = 0
        for content in (*(damage(sound, chance) for _ in range(each)), *attacks):
            with note(failed, name):
                done += refuse(name, path, content)
                if canary.exists():
                    raise FaultError(f"{name}: ran what a file held")
        yield f"damaged or hostile {name}", done, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--damages", type=int, default=300, help="of each of ten files")
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.md")
    options = parser.parse_args()
    parts: list[Callable[[Path], Iterator[Line]]] = [
        lambda folder: corrupt(folder, options.seed, options.damages),
        change_surroundings,
        lambda folder: fill_disks(folder, options.disks, options.seed),
        fail_calls,
        lambda folder: kill_at_random(folder, options.kills, options.seed),
    ]
    lines = ["| what was done | cases | broken promises |", "|---|---:|---:|"]
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            for what, count, failed in part(Path(folder)):
                lines.append(f"| {what} | {count} | {len(failed)} |")
                print(lines[-1], flush=True)
    options.out.write_text("\n".join(["# Faults", "", describe_machine(), "", *lines, ""]))


if __name__ == "__main__":
    main()
