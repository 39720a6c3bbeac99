"""A small model that knows three colours, and servers of it in processes of their own."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from imclass.data.packed import write_packed
from imclass.export.graph import save_onnx, trace_program
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.modelfile import save_model

ROOT = Path(__file__).parents[1]
COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
FIT = {"channels": 3, "height": 16, "width": 16, "fit": "crop", "background": 255}

NETWORK = {"name": "cnn", "widths": [8], "dropout": 0.0}
CONFIG = ModelConfig(list(COLOURS), FIT, [0.4] * 3, True, NETWORK, [0.3] * 3)


def draw(colour: str, seed: int = 0, *, width: int = 40, height: int = 30) -> Image.Image:
    """A picture of noise around a colour."""
    noise = np.random.default_rng(seed).integers(-25, 26, (height, width, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_reply(connection: socket.socket) -> Reply:
    """The answer that comes on a connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return _read(answer)


class Server:
    """A process of `imclass serve`."""

    def __init__(self, folder: Path, *options: str, log: Path) -> None:
        self._log = log.open("w+")
        command = [sys.executable, "-c", "from imclass.cli import main; main()", "serve", "--port", "0", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", first)
        assert found, first + self.read_log()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            default = {"Content-Type": "application/octet-stream"} if body is not None else {}
            connection.request(method, path, body, {**default, **(headers or {})})
            return _read(connection.getresponse())
        finally:
            connection.close()

    def predict(self, content: bytes, **headers: str) -> Reply:
        return self.ask("POST", "/predict", content, {key.replace("_", "-"): text for key, text in headers.items()})

    def read_metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def read_memory(self, field: str) -> float:
        """VmRSS (now) or VmHWM (at most so far), in MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        assert found
        return int(found[1]) / 1000

    def read_log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self) -> tuple[int, str]:
        """Status and log of the process, which is told to end where it has not."""
        try:
            self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.process.communicate()
        with self._log:
            return status, self.read_log()


def _read(answer: http.client.HTTPResponse) -> Reply:
    with answer:
        return Reply(answer.status, {key.lower(): text for key, text in answer.getheaders()}, answer.read())


def train(folder: Path) -> None:
    """Write a model of the colours, its export and its packed set, where a project has them."""
    images = np.stack([np.asarray(draw(colour, seed, width=16, height=16)) for seed in range(20) for colour in COLOURS])
    images = images.transpose(0, 3, 1, 2)
    names = [f"{at:03}" for at in range(len(images))]
    splits = ["train"] * 45 + ["val"] * 6 + ["test"] * 9
    rows = list(zip(names, list(COLOURS) * 20, splits, strict=True))
    (folder / "data").mkdir(parents=True)
    write_packed(folder / "data" / "packed", rows, [(names, images)], FIT)

    torch.manual_seed(0)
    model = build_model(CONFIG).train()
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.01)
    pixels, labels = torch.from_numpy(images), torch.arange(len(images)) % 3
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    model.eval()
    assert (model(pixels).argmax(1) == labels).all()
    save_model(model, folder / "models" / "model.safetensors")
    save_onnx(trace_program(model), model, folder / "models" / "export" / "model.onnx")
