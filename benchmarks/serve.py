"""`imclass serve` under load: requests/s and latency by clients at once, beyond capacity, and its memory."""

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.programs import MEGABYTE, ROOT, make_environment
from benchmarks.report import RESULTS, write_report

CLIENTS = (1, 8, 32)
AT_ONCE = 64  # places of the server
DIGITS, PHOTO = "digits, 8 x 8, PNG", "photo, 1024 x 768, JPEG"
PAUSE_SECONDS = 0.1  # of a client that was turned away
RETRIED = 503
SERVE = "import sys; sys.path.insert(0, 'src'); from imclass.cli import main; main()"


class Load(NamedTuple):
    """What clients saw: seconds until each answer, how many were turned away, and how long all of it took."""

    latencies: list[float]
    refused: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/export/model.onnx")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.md", help="Markdown file; the plot beside it")
    options = parser.parse_args()
    pictures = {DIGITS: read_digits(), PHOTO: [make_photo()]}
    loads = {}
    with run_server(options.model.resolve(), options.threads) as (port, pid):
        asyncio.run(ask(port, pictures[PHOTO], 8, 1.0))
        before = read_resident(pid)
        for name, contents in pictures.items():
            for clients in (*CLIENTS, 2 * AT_ONCE):
                loads[f"{name}, {clients}"] = asyncio.run(ask(port, contents, clients, options.seconds))
        after = read_resident(pid)
    write_report(
        options.out,
        title="Serve",
        conditions=[
            f"`imclass serve` with {AT_ONCE} places and {options.threads} thread(s) for the model; clients in another "
            f"process of the same machine, {options.seconds:g} s each. Resident memory of the server: {before:.0f} MB "
            f"before and {after:.0f} MB after {sum(len(load.latencies) for load in loads.values()):,} answers."
        ],
        header=["picture, clients at once", "answers/s", "p50 in ms", "p99 in ms", "turned away"],
        rows=[
            [
                name,
                f"{len(load.latencies) / load.seconds:,.0f}",
                f"{1000 * statistics.median(load.latencies):.1f}",
                f"{1000 * float(np.quantile(load.latencies, 0.99)):.1f}",
                f"{load.refused / (load.refused + len(load.latencies)):.1%}",
            ]
            for name, load in loads.items()
        ],
        spreads={name: [1000 * seconds for seconds in load.latencies] for name, load in loads.items()},
        axis="milliseconds until the answer",
    )


@contextmanager
def run_server(model: Path, threads: int) -> Iterator[tuple[int, int]]:
    """Port and process id of a server, which explains nothing."""
    command = [sys.executable, "-c", SERVE, "serve", str(model), "--port", "0"]
    command += ["--at-once", str(AT_ONCE), "--threads", str(threads)]
    with subprocess.Popen(command, cwd=ROOT, env=make_environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r":(\d+)/", process.stdout.readline())
        if not found:
            raise SystemExit("the server did not start")
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()


async def ask(port: int, contents: list[bytes], clients: int, seconds: float) -> Load:
    """So many clients on a connection each ask again and again."""
    start = time.perf_counter()
    seen = await asyncio.gather(*(ask_one(port, contents, number, start + seconds) for number in range(clients)))
    latencies = [latency for of_client, _ in seen for latency in of_client]
    return Load(latencies, sum(refused for _, refused in seen), time.perf_counter() - start)


async def ask_one(port: int, contents: list[bytes], number: int, end: float) -> tuple[list[float], int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies: list[float] = []
    refused = 0
    while time.perf_counter() < end:
        content = contents[(number + len(latencies)) % len(contents)]
        start = time.perf_counter()
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, length = int(answer.split()[1]), re.search(r"content-length: (\d+)", answer)
        assert length
        await reader.readexactly(int(length[1]))
        if status == RETRIED:
            refused += 1
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            assert status == 200, answer
            latencies.append(time.perf_counter() - start)
    writer.close()
    return latencies, refused


def read_digits() -> list[bytes]:
    with zipfile.ZipFile(ROOT / "data/raw/digits.zip") as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith(".png")][:500]


def make_photo() -> bytes:
    """Soft shapes with some noise, which compress as photos do."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((1024, 768), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(coarse) + rng.normal(0, 6, (768, 1024, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def read_resident(pid: int) -> float:
    """Memory in MB that the process has now."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / MEGABYTE


if __name__ == "__main__":
    main()
