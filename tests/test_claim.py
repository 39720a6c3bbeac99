"""Several runs on a machine with several GPUs: which one each gets, without any GPU."""

import subprocess
import sys
from pathlib import Path

GPUS = ["a.lock", "b.lock"]
RUN = """
import sys
from pathlib import Path
from imclass.device import claim
print(claim(sys.argv[2:], Path(sys.argv[1]), seconds_between=0.01), flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), *GPUS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )


def read_line(pipe: object) -> str:
    return pipe.readline().strip()  # type: ignore[attr-defined]


def test_each_run_gets_its_own_gpu_and_the_third_waits_for_one_that_is_killed(tmp_path: Path) -> None:
    with start(tmp_path) as first, start(tmp_path) as second:
        got = {read_line(first.stdout): first, read_line(second.stdout): second}
        assert got.keys() == {"0", "1"}
        with start(tmp_path) as third:
            assert read_line(third.stderr) == "waiting for one of 2 GPUs, which other runs have"
            assert third.poll() is None
            got["1"].kill()
            assert read_line(third.stdout) == "1"
            third.kill()
        got["0"].kill()
