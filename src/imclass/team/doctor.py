"""A checkout -> what in it will hurt the team, why, and the command that mends it."""

import fcntl
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from imclass.errors import InputError
from imclass.imports import find_imports
from imclass.params import WHERE_KEYS, load_params

MANY_FILES = 10_000  # in one folder that DVC tracks; it lists and hashes them one by one
LARGE_BYTES = 2**30  # of copies of what lies in the cache
CONFLICT = re.compile(rb"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)
FICLONE = 0x40049409  # Linux's request to share a file's blocks


@dataclass(frozen=True)
class Finding:
    """What is wrong and why it matters, and how to mend it. A note is worth knowing; all else is a fault."""

    what: str
    mend: str
    note: bool = False


def examine(*, offline: bool = False) -> list[Finding]:
    """Look at the project in the working folder. Nothing is changed; `offline` leaves the remote alone."""
    findings = [*check_conflicts(), *check_locks()]
    if findings:
        return findings  # DVC can do nothing until these are mended
    findings = [*check_python(), *check_packages(), *check_gpu(), *check_line_ends(), *check_stage_deps()]
    has_remote = _has_remote()
    default = _run(sys.executable, "-m", "dvc", "config", "core.remote").stdout.strip()
    ask_remote = ["--not-in-remote"] if has_remote and default and not offline else []
    data = _ask_dvc("data", "status", "--json", *ask_remote)
    findings += [*check_params(), *check_data(data), *check_status()]
    findings += [*check_storage(data, has_remote=has_remote, default=default), *check_sizes(), *check_queue()]
    return findings


def check_python() -> Iterator[Finding]:
    """The interpreter is one that pyproject.toml allows."""
    wanted = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    found = ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(wanted).contains(found):
        yield Finding(f"Python {found}: expected {wanted}", "rm -r .venv && make repro PYTHON=python3.11")


def check_packages() -> Iterator[Finding]:
    """The installed packages are the locked ones: others give other bits."""
    different = []
    for line in Path("requirements.txt").read_text("utf-8").splitlines():
        if not line[:1].isalnum():
            continue
        wanted = Requirement(line.rstrip(" \\"))
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = Version(importlib.metadata.version(wanted.name))
        except importlib.metadata.PackageNotFoundError:
            different.append(f"{wanted} is missing")
        else:
            if not wanted.specifier.contains(found.public):
                different.append(f"{wanted.name} {found} instead of {str(wanted.specifier).removeprefix('==')}")
    if different:
        yield Finding(
            f"packages other than requirements.txt has, which give other bits: {_list(different)}",
            "python -m pip install --require-hashes -r requirements.txt",
        )


def check_gpu() -> Iterator[Finding]:
    """A GPU that is there is used."""
    if not shutil.which("nvidia-smi") or "GPU" not in _run("nvidia-smi", "-L").stdout:
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding(
            f"a GPU is here, but PyTorch {torch.__version__} cannot use it",
            "install a build of this version for your GPU's driver: see PyTorch's site",
        )
    elif re.search("^device: *cpu", Path("params.yaml").read_text("utf-8"), re.MULTILINE):
        yield Finding("a GPU is here, but params.yaml has device: cpu", "set device: auto in params.yaml", note=True)


def check_conflicts() -> Iterator[Finding]:
    """No file of the pipeline waits for the end of a merge. dvc.lock comes last: it is made from the others."""
    unmerged = _run("git", "diff", "--name-only", "--relative", "--diff-filter=U").stdout.splitlines()
    for path in sorted(_list_pipeline_files(), key=lambda path: path.name == "dvc.lock"):
        if path.as_posix() not in unmerged and not CONFLICT.search(path.read_bytes()):
            continue
        if path.name == "dvc.lock":
            fetch = "dvc pull" if _has_remote() else "dvc checkout"
            mend = f"git checkout --ours dvc.lock && {fetch} && dvc repro && git add dvc.lock reports"
        elif path.suffix == ".dvc":
            mend = (
                f"git merge --abort && dvc install && dvc fetch --all-commits {path}   # and merge again; an archive "
                "cannot be merged: docs/team.md"
            )
        else:
            mend = f"decide in {path} what stays, then: git add {path}"
        yield Finding(f"{path}: in an unfinished merge", mend)


def check_line_ends() -> Iterator[Finding]:
    """Text that DVC hashes has the same line ends on every machine."""
    listed = _run("git", "ls-files", "--eol").stdout.splitlines()
    files = [line.split("\t", 1)[1] for line in listed if "w/crlf" in line or "w/mixed" in line]
    if hashed := [name for name in files if name.endswith((".py", ".yaml", ".html", ".css", ".js", ".lock", ".dvc"))]:
        yield Finding(
            f"Windows line ends, by which DVC takes the files for changed: {_list(hashed)}",
            "git config core.autocrlf false && git rm --cached -rq . && git reset --hard  # commit what is yours first",
        )


def check_params() -> Iterator[Finding]:
    """params.yaml is sound, names images that a clone finds, and some stage reads every line of it."""
    try:
        params = load_params(Path("params.yaml"))
    except InputError as error:
        yield Finding(str(error), "mend params.yaml as it says")
        return
    yield from _check_data_path(Path(params.data.path))
    pipeline = Path("dvc.yaml").read_text("utf-8")
    stages = yaml.safe_load(pipeline)["stages"].values()
    read = {key for stage in stages for key in stage.get("params", [])} | set(re.findall(r"\$\{([\w.]+)\}", pipeline))
    values = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    keys = [
        f"{key}.{inner}" if inner else key
        for key, value in values.items()
        for inner in (value if isinstance(value, dict) else [""])
    ]
    unread = [key for key in keys if not {key, key.split(".")[0]} & (read | WHERE_KEYS)]
    if unread:
        yield Finding(
            f"params.yaml: no stage depends on {_list(unread)}: a change would rerun nothing",
            "name it under the params of its stage in dvc.yaml",
        )


def check_stage_deps() -> Iterator[Finding]:
    """Each stage depends on all modules that it imports."""
    root = Path.cwd()
    for name, stage in yaml.safe_load(Path("dvc.yaml").read_text("utf-8"))["stages"].items():
        script = root / "stages" / f"{name}.py"
        if not script.exists():
            continue
        imported = {path.relative_to(root).as_posix() for path in find_imports(script, root / "src")}
        if missing := sorted(imported - set(stage["deps"])):
            yield Finding(
                f"stage {name}: imports {_list(missing)} without depending on it: editing it would rerun nothing",
                f"add it under the deps of {name} in dvc.yaml",
            )


def _check_data_path(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(f"data.path: {path} is not there", f"dvc pull {path}   # or name your images in params.yaml")
    elif path.is_absolute() or ".." in path.parts:
        mend = f"cp -r {path} data/raw/ && dvc add data/raw/{path.name}   # and data.path in params.yaml"
        yield Finding(f"data.path: {path} lies outside the project: no clone has it", mend, note=True)
    elif not _run("git", "ls-files", str(path)).stdout and not any(
        Path(f"{tracked}.dvc").exists() for tracked in (path, *path.parents)
    ):
        yield Finding(f"data.path: {path} is tracked by neither Git nor DVC: no clone has it", f"dvc add {path}")


def check_data(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Data are those that their .dvc file names: a run would take others without a word, and write them into it.

    `status` is what `dvc data status --json` printed.
    """
    for name in status.get("uncommitted", {}).get("modified", []):
        data = name.rstrip("/")
        if not Path(f"{data}.dvc").exists():
            continue
        if name in status.get("not_in_cache", []):
            mend = f"dvc pull {data}   # before any dvc repro; or, if yours is the newer one: dvc add {data}"
        else:
            mend = f"dvc add {data}   # or, to have what {data}.dvc says: dvc checkout {data}"
        yield Finding(f"{data}: not what {data}.dvc says, and the others get", mend)


def check_status() -> Iterator[Finding]:
    """dvc.lock tells what is in the work tree."""
    status = _ask_dvc("status", "--json", "dvc.yaml")  # that of the six stages, not of seeds/
    for name, changes in status.items():
        changed = [
            f"{path}: {', '.join(f'{key} {what}' for key, what in how.items())}"
            if isinstance(how, dict)
            else f"{path} {how}"
            for change in changes
            if isinstance(change, dict)
            for paths in change.values()
            for path, how in (paths.items() if isinstance(paths, dict) else [(paths, "")])
            if how not in ("not in cache", "deleted")  # what is missing is told by check_storage
        ]
        if not name.endswith(".dvc") and (changed or "changed command" in changes):
            what = _list(changed) or "its command"
            yield Finding(f"stage {name}: dvc.lock is of an earlier state: {what}", "dvc repro")


def check_storage(status: Mapping[str, Any], *, has_remote: bool, default: str) -> Iterator[Finding]:
    """Results and data lie where the others can fetch them.

    `status` is what `dvc data status --json` printed, with `--not-in-remote` where the remote is to be asked.
    """
    lacking, unpushed = set(status.get("not_in_cache", [])), set(status.get("not_in_remote", []))
    if lost := sorted(lacking & unpushed):
        yield Finding(
            f"in neither the cache nor the remote: {_list(lost)}",
            "ask who made them to run `dvc push`; or make them again: dvc repro",
        )
    if pullable := sorted(lacking - unpushed):
        yield Finding(f"not in this cache: {_list(pullable)}", "dvc pull" if has_remote else "dvc repro", note=True)
    if deleted := sorted(set(status.get("uncommitted", {}).get("deleted", [])) - lacking):
        yield Finding(f"in the cache but not in the work tree: {_list(deleted)}", "dvc checkout", note=True)
    if unpushed - lacking:
        yield Finding(f"not in the remote yet: {_list(sorted(unpushed - lacking))}", "dvc push")
    if not has_remote:
        yield Finding("no remote: data and results stay on this machine", "dvc remote add -d NAME URL", note=True)
    elif not default:
        yield Finding("no default remote", "dvc remote default NAME", note=True)


def check_sizes() -> Iterator[Finding]:
    """DVC is asked to do only what it does well."""
    files = [path for path in _list_pipeline_files() if path.suffix == ".dvc"]
    outs = [out for path in files for out in yaml.safe_load(path.read_text("utf-8"))["outs"]]
    for path, out in zip(files, outs, strict=False):
        if out.get("nfiles", 1) > MANY_FILES:
            folder = path.with_suffix("")
            yield Finding(
                f"{folder}: {out['nfiles']:,} files, which DVC hashes and moves one by one",
                f"(cd {folder.parent} && zip -0qr {folder.name}.zip {folder.name}) && dvc remove {path} && "
                f"dvc add {folder}.zip   # and data.path in params.yaml",
                note=True,
            )
    lock = yaml.safe_load(Path("dvc.lock").read_text("utf-8")) if Path("dvc.lock").exists() else {"stages": {}}
    outs += [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    total = sum(out.get("size", 0) for out in outs)
    configured = _run(sys.executable, "-m", "dvc", "config", "cache.type").stdout.strip()
    if total > LARGE_BYTES and not configured and not _can_clone_files():
        yield Finding(
            f"{total / 1e9:.1f} GB lie twice on this disk, in the cache and as copies",
            "dvc config --local cache.type hardlink,symlink && dvc checkout --relink",
            note=True,
        )


def check_locks() -> Iterator[Finding]:
    """No lock of DVC's is left of a process that is gone (it sees by itself when no process has the number)."""
    for lock in Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock"):
        yield from _check_lock(lock)


def _check_lock(lock: Path) -> Iterator[Finding]:
    try:
        entries = json.loads(lock.read_text("utf-8")) if lock.exists() else {}
        holders = [
            info
            for kind in ("read", "write")
            for infos in entries.get(kind, {}).values()
            for info in (infos if isinstance(infos, list) else [infos])
        ]
        others = [f"{info['cmd']} ({info['pid']})" for info in holders if _is_another(info["pid"])]
    except (ValueError, LookupError, TypeError, AttributeError):
        yield Finding(f"{lock}: damaged: every command of DVC will stop there", f"rm {lock}")
    else:
        if others:
            yield Finding(f"{lock}: held for commands whose process is another by now: {_list(others)}", f"rm {lock}")


def check_queue() -> Iterator[Finding]:
    """No task is left of a worker that is gone."""
    if Path(".dvc/tmp/exps/celery").exists():
        queue = _run(sys.executable, "-m", "dvc", "queue", "status").stdout
        running = len(re.findall(r"\bRunning\b", queue))
        if running and re.search(r"Worker status: 0 active", queue):
            yield Finding(
                f"{running} tasks of the queue are marked as running, but no worker runs",
                "dvc queue kill --force; dvc queue start   # then `dvc queue logs TASK` tells what became of it",
            )


def _list_pipeline_files() -> list[Path]:
    listed = _run("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.dvc").stdout.splitlines()
    files = [Path(name) for name in ("dvc.lock", "dvc.yaml", "params.yaml", *listed)]
    return [path for path in files if path.is_file()]


def _has_remote() -> bool:
    return bool(_run(sys.executable, "-m", "dvc", "remote", "list").stdout.strip())


def _ask_dvc(*arguments: str) -> dict[str, Any]:
    done = _run(sys.executable, "-m", "dvc", *arguments)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout or "{}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _is_another(pid: int) -> bool:
    try:
        return not any("dvc" in argument for argument in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _can_clone_files() -> bool:
    """Whether the file system shares the blocks of copies, as DVC tries first."""
    with tempfile.TemporaryFile(dir=".dvc") as source, tempfile.TemporaryFile(dir=".dvc") as copy:
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, source.fileno())
        except OSError:
            return False
        return True


def _list(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
