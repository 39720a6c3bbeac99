"""dvc.lock -> stages repeated from their locked inputs in a temporary copy, and their outs compared with the locked.

The copy has the code and parameters of the checkout and links to its data and to DVC's cache, which is only read.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from imclass.errors import InputError
from imclass.params import flatten
from imclass.record import find_record, hash_out
from imclass.team.deviation import measure_deviation

TOLERANCE = 1e-4  # largest difference of any number that still counts as equal
SETTINGS = """\
[core]
no_scm = true
site_cache_dir = "{scratch}"
[cache]
dir = "{cache}"
type = "reflink,symlink,copy"
"""
DVC = [sys.executable, "-m", "dvc"]
# What of a run record can be the cause of other bits.
CAUSES = ("python", "platform", "cpu", "cpu_capability", "device", "threads", "packages", "variables", "params", "code")


@dataclass(frozen=True)
class Verdict:
    """What repeating a stage has shown, and sentences on that."""

    stage: str
    kind: Literal["identical", "equal", "different", "not verified"]
    details: Sequence[str] = ()


def verify(project: Path, stages: Sequence[str]) -> Iterator[Verdict]:
    """Repeat `stages`, all of dvc.lock where none is named; nothing in the checkout or in DVC's cache changes.

    Raises InputError where dvc.lock has no such stage.
    """
    file = project / "dvc.lock"
    locked = yaml.safe_load(file.read_text("utf-8"))["stages"] if file.is_file() else {}
    if not locked:
        raise InputError(f"{file}: expected the results that `dvc repro` enters there, found none")
    if unknown := [stage for stage in stages if stage not in locked]:
        raise InputError(f"{file}: expected stages among {', '.join(locked)}, found {', '.join(unknown)}")
    with _copy_project(project, locked, stages or list(locked)) as (copy, changes):
        for stage in stages or locked:
            print(f"repeating {stage}", file=sys.stderr, flush=True)
            if stage in changes:
                yield Verdict(stage, "not verified", changes[stage])
            else:
                yield _repeat(stage, locked[stage], project, copy)


def _repeat(stage: str, entry: Mapping[str, Any], project: Path, copy: Path) -> Verdict:
    """Run the command of a stage in the copy, compare, and lay out the locked outs again."""
    locked = {out["path"]: out["md5"] for out in entry["outs"]}
    aside = copy.with_name("locked")
    _move(locked, copy, aside)
    status = _run_stage(entry["cmd"], copy)
    made = {out: hash_out(copy / out) for out in locked if (copy / out).exists()}
    if status != 0:
        verdict = Verdict(stage, "not verified", [f"its command failed with status {status}"])
    elif made == locked:
        verdict = Verdict(stage, "identical")
    else:
        others = [out for out in locked if made.get(out) != locked[out]]
        compared = {out: _compare(aside / out, locked[out], copy / out) for out in others}
        largest = max(difference for difference, _ in compared.values())
        details = [f"{out}: {text}" for out, (_, text) in compared.items()]
        details.append(_explain(find_record(project, stage, locked), find_record(copy, stage, made), entry))
        verdict = Verdict(stage, "equal" if largest <= TOLERANCE else "different", details)
    for out in locked:
        _remove(copy / out)
    _move(locked, aside, copy)
    return verdict


def _compare(locked: Path, md5: str, made: Path) -> tuple[float, str]:
    """The largest difference between a locked out and the one made anew, and that in words."""
    if not made.exists():
        return math.inf, "not made"
    if not locked.exists() or hash_out(locked) != md5:
        return math.inf, "other bytes than the locked ones, which are not at hand to compare numbers with"
    difference = measure_deviation(locked, made)
    return difference, f"largest difference {difference:.2g}" if difference < math.inf else "not only numbers differ"


def _explain(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> str:
    """What differs between the run that made the locked bytes and this one; of parameters only those of the stage."""
    if then is None or now is None:
        return "cause unknown: runs.jsonl has no record of the run that made the locked bytes"
    own = entry.get("params", {}).get("params.yaml", {})
    old, new = (flatten({key: record.get(key) for key in CAUSES}) for record in (then, now))
    changed = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and (not key.startswith("params.") or key.split(".")[1] in own)
    ]
    if changed:
        return f"changed since the run that made the locked bytes: {', '.join(changed)}"
    return "does not repeat itself: versions, settings, device, processor and code are those of the locked run"


@contextmanager
def _copy_project(
    project: Path, locked: Mapping[str, Any], stages: Sequence[str]
) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """A copy with the locked outs and inputs of `stages`, and what stands in the way of repeating some of them.

    It is removed at the end, also when a signal ends us.
    """
    makers = {out["path"]: stage for stage, entry in locked.items() for out in entry["outs"]}
    deps = {dep["path"] for stage in stages for dep in locked[stage].get("deps", [])}
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with tempfile.TemporaryDirectory(prefix="imclass-verify-") as folder:
            copy, scratch = Path(folder, "project"), str(Path(folder, "scratch"))
            Path(scratch).mkdir()
            listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], project, scratch)
            for name in filter(None, listed.split("\0")):
                if (project / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(project / name, copy / name)
            cache = project.absolute() / _run([*DVC, "cache", "dir"], project, scratch).strip()
            settings = SETTINGS.format(scratch=scratch, cache=cache)
            (copy / ".dvc/config.local").write_text(settings, "utf-8")
            needed = {*stages, *(makers[dep] for dep in deps if dep in makers)}
            _run([*DVC, "checkout", *needed], copy, scratch, check=False)  # what the cache lacks is told by status
            for out in makers:
                if any(file.is_symlink() and not file.exists() for file in [copy / out, *(copy / out).rglob("*")]):
                    _remove(copy / out)
            for dep in deps - makers.keys():
                for source in [project / dep, *(project / dep).glob("*")]:  # of a folder Git may have a part
                    link = Path(os.path.normpath(copy / source.relative_to(project)))
                    if not link.exists() and source.exists() and link.is_relative_to(copy):
                        link.parent.mkdir(parents=True, exist_ok=True)
                        link.symlink_to(source.resolve())
            yield copy, _find_changes(copy, stages, makers, scratch)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _find_changes(copy: Path, stages: Sequence[str], makers: Mapping[str, str], scratch: str) -> dict[str, list[str]]:
    """By stage, why it cannot be repeated from what dvc.lock names."""
    status = json.loads(_run([*DVC, "status", "--json", *stages], copy, scratch))
    changes: dict[str, list[str]] = {}
    for stage, entries in status.items():
        for entry in entries:
            if entry == "changed command":
                changes.setdefault(stage, []).append("its command is not that in dvc.lock")
            elif isinstance(entry, dict):
                for path, change in entry.get("changed deps", {}).items():
                    changes.setdefault(stage, []).append(_tell_change(path, change, path in makers))
    return changes


def _tell_change(path: str, change: Any, is_out: bool) -> str:
    if isinstance(change, dict):
        return f"parameters are not those in dvc.lock: {', '.join(change)}"
    if is_out:
        return f"input {path}: " + (
            "not in the cache (dvc pull)" if change == "deleted" else "not as its stage made it"
        )
    return f"{'code' if path.endswith('.py') else 'data'} is not that in dvc.lock: {path} is {change}"


def _run(command: list[str], folder: Path, scratch: str, check: bool = True) -> str:
    """What a program prints, which may leave files in `scratch`, as DVC does."""
    environment = {**os.environ, "TMPDIR": scratch, "CI": "1"}  # DVC looks for no update
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise InputError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _run_stage(command: str, copy: Path) -> int:
    """The status of a stage's command, run as DVC would; its notes and its progress go to stderr."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # DVC_ROOT: or a training would go on from the checkout's own checkpoints, which proves nothing.
    environment = {**os.environ, "PATH": path, "DVC_ROOT": str(copy)}
    stage = subprocess.Popen(
        command, shell=True, cwd=copy, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return stage.wait()
    except BaseException:
        os.killpg(stage.pid, signal.SIGKILL)
        stage.wait()
        raise


def _move(names: Iterable[str], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)
