"""`imclass serve` as a process, asked over the network as anybody would."""

import http.client
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from pictures import encode_picture
from PIL import Image
from schemathesis.checks import positive_data_acceptance
from served import COLOURS, CONFIG, ROOT, Server, draw, read_reply

from imclass.data.images import decode_and_fit
from imclass.models.classifier import build_model
from imclass.models.modelfile import save_model
from imclass.serving.model import Model, open_model

Start = Callable[..., Server]
SECONDS = 0.5  # of a request to `strict`


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start()


@pytest.fixture(scope="module")
def strict(start: Start) -> Server:
    """Room for two requests, of half a second and of small pictures, and nothing to explain with."""
    options = ("--at-once", "2", "--seconds", f"{SECONDS:g}", "--megabytes", "0.2", "--megapixels", "25")
    return start("models/export/model.onnx", *options, "--trained", "models/model.safetensors")


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return open_model(trained / "models/export/model.onnx", threads=1)


@pytest.fixture
def send() -> Iterator[Callable[[Server, bytes], socket.socket]]:
    """`send(server, content)`: an open connection on which that much was sent."""
    connections: list[socket.socket] = []

    def send(server: Server, content: bytes) -> socket.socket:
        connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        connections[-1].sendall(content)
        return connections[-1]

    yield send
    for connection in connections:
        connection.close()


def head(length: int | str, path: str = "/predict") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def ask_model(model: Model, content: bytes) -> np.ndarray:
    return model.predict(decode_and_fit("it", content, model.fit)[None])[0]


def wait_until(met: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_answers_are_those_of_the_model(server: Server, model: Model, trained: Path) -> None:
    seal = (trained / "models/export/model.onnx").read_bytes()[-64:].decode()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    contents = [
        encode_picture(draw("red")),
        encode_picture(draw("green", width=16, height=16), "BMP"),
        encode_picture(draw("blue", width=300, height=200), "JPEG", exif=exif, progressive=True),
        encode_picture(draw("red").convert("RGBA"), "WEBP"),
        encode_picture(draw("blue").convert("L"), "TIFF"),
    ]
    sizes = [(40, 30), (16, 16), (200, 300), (40, 30), (40, 30)]
    for content, size in zip(contents, sizes, strict=True):
        expected = ask_model(model, content)
        answer = server.predict(content, Content_Type="image/any").json
        labels = [model.classes[at] for at in np.argsort(-expected)]
        assert [one["label"] for one in answer["predictions"]] == labels
        np.testing.assert_allclose(
            [one["probability"] for one in answer["predictions"]], np.sort(expected)[::-1], atol=1e-6
        )
        assert answer["picture"] == {"width": size[0], "height": size[1]}
        assert answer["model"] == seal
    assert [one["label"] for one in server.ask("POST", "/predict?top=1", contents[1]).json["predictions"]] == ["green"]


def test_requests_are_run_together_and_answered_one_by_one(server: Server, model: Model) -> None:
    contents = [encode_picture(draw(list(COLOURS)[at % 3], at)) for at in range(200)]
    expected = model.predict(np.stack([decode_and_fit("it", content, model.fit) for content in contents]))
    images, batches = server.read_metric("imclass_batch_images_sum"), server.read_metric("imclass_batch_images_count")
    with ThreadPoolExecutor(16) as clients:
        answers = [reply.json["predictions"] for reply in clients.map(server.predict, contents)]
    for row, answer in zip(expected, answers, strict=True):
        found = {one["label"]: one["probability"] for one in answer}
        np.testing.assert_allclose([found[label] for label in model.classes], row, atol=1e-5)
    assert server.read_metric("imclass_batch_images_sum") - images == 200
    assert server.read_metric("imclass_batch_images_count") - batches < 190


def test_what_is_no_picture_within_limits_is_refused(strict: Server) -> None:
    bomb = encode_picture(Image.new("L", (5001, 5000)))
    declared = bytearray(encode_picture(Image.new("L", (8, 8)), "BMP"))
    struct.pack_into("<ii", declared, 18, 60_000, 60_000)
    progressive = encode_picture(draw("red"), "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    animated = encode_picture(draw("red"), "GIF", save_all=True, append_images=[draw("blue")])
    refused = {
        "expected at most 25000000 pixels, found 25005000": bomb,
        "pixels": bytes(declared),
        "at most 100 scans": progressive[:-2] + 200 * last_scan + progressive[-2:],
        "an empty file": b"",
        "not an image of a known format": b"<html>no picture</html>",
        "truncated": encode_picture(draw("red"))[:-20],
        "expected one picture, found 2 frames": animated,
    }
    for message, content in refused.items():
        reply = strict.predict(content)
        assert (reply.status, reply.headers["content-type"]) == (422, "application/json")
        assert message in reply.json["detail"]
    assert strict.predict(bomb, Content_Type="text/html").status == 415
    assert strict.ask("POST", "/predict?top=0", encode_picture(draw("red"))).status == 422
    assert strict.read_memory("VmHWM") < 400, "no picture was decoded that is too large"


def test_a_body_is_counted_while_it_is_read(strict: Server, send: Any) -> None:
    noise = encode_picture(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)), "BMP")
    assert strict.predict(noise).status == 413, "by its Content-Length"
    chunks = iter([noise[:150_000], noise[150_000:]])
    reply = strict.ask("POST", "/predict", chunks)
    assert (reply.status, reply.json["detail"]) == (413, "expected a body of at most 200000 bytes")
    endless = send(strict, head(10**12)[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert read_reply(endless).status == 413
    assert strict.predict(encode_picture(draw("red"))).status == 200


def test_beyond_capacity_is_told_at_once_and_passes(strict: Server, send: Any) -> None:
    content = encode_picture(draw("red"))
    slow = [send(strict, head(len(content)) + content[:10]) for _ in range(2)]
    wait_until(lambda: strict.read_metric("imclass_requests_in_progress") == 2)
    start = time.monotonic()
    refused = read_reply(send(strict, head(10**5)))
    assert time.monotonic() - start < SECONDS / 2, "without the body"
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert strict.ask("GET", "/health").status == 200
    for connection in slow:
        connection.sendall(content[10:])
        assert read_reply(connection).status == 200
    assert strict.predict(content).status == 200


def test_slow_clients_are_cut_off(strict: Server, send: Any) -> None:
    start = time.monotonic()
    body = send(strict, head(1000))
    part_of_a_head = send(strict, b"POST /predict HTTP/1.1\r\nHost: loc")
    silent = send(strict, b"")
    answered = send(strict, head(10**9))
    while not select.select([body], [], [], 0.05)[0]:
        body.sendall(b"x")
        assert time.monotonic() - start < 10 * SECONDS
    reply = read_reply(body)
    assert (reply.status, reply.json["detail"]) == (408, f"the body did not arrive within {SECONDS:g} s")
    assert read_reply(answered).status == 413
    for connection in part_of_a_head, silent, answered:
        assert connection.recv(4096) == b"", "closed"
    assert time.monotonic() - start < 10 * SECONDS
    gone = send(strict, head(1000))
    wait_until(lambda: strict.read_metric("imclass_requests_in_progress") == 1)
    gone.close()
    wait_until(lambda: strict.read_metric("imclass_requests_in_progress") == 0)
    assert strict.read_metric('imclass_requests_total{path="/predict",status="499"}') == 1


def test_an_answer_that_takes_too_long_is_given_up(strict: Server) -> None:
    heavy = encode_picture(Image.new("RGBA", (4000, 4000), (200, 30, 30, 128)))
    with ThreadPoolExecutor(2) as clients:
        statuses = {reply.status for reply in clients.map(strict.predict, [heavy] * 2)}
    assert 504 in statuses, statuses
    wait_until(lambda: strict.read_metric("imclass_requests_in_progress") == 0, 30)
    assert strict.predict(encode_picture(draw("red"))).status == 200
    for _ in range(2):
        strict.predict(heavy)
        wait_until(lambda: strict.read_metric("imclass_requests_in_progress") == 0, 30)
    assert strict.read_memory("VmHWM") > 400
    assert strict.read_memory("VmRSS") < 250, "memory is given back"


def test_answers_on_one_connection_do_not_wait_for_acknowledgements(server: Server) -> None:
    content = encode_picture(draw("red"))
    seconds = []
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for _ in range(20):
        start = time.monotonic()
        connection.request("POST", "/predict", content, {"Content-Type": "image/png"})
        connection.getresponse().read()
        seconds.append(time.monotonic() - start)
    connection.close()
    assert min(seconds) < 0.03, "40 ms where they do"


def test_health_and_metrics(server: Server) -> None:
    health = server.ask("GET", "/health")
    assert (health.status, health.json["classes"]) == (200, 3)
    name = 'imclass_requests_total{path="/predict",status="415"}'
    before = server.read_metric(name)
    server.predict(b"", Content_Type="text/plain")
    assert server.read_metric(name) == before + 1
    assert server.read_metric('imclass_request_seconds_count{path="/predict"}') > 0
    assert server.read_metric("imclass_queue_length") == 0
    assert server.read_metric("process_resident_memory_bytes") > 1e7


def test_names_of_others_for_this_machine_are_refused(server: Server) -> None:
    for host, status in {"localhost:1": 200, "127.0.0.1": 200, "[::1]:80": 200, "example.org": 400, "": 400}.items():
        assert server.ask("GET", "/health", headers={"Host": host}).status == status


def test_only_documented_answers_whatever_is_sent(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()  # type: ignore[union-attr]

        @settings(max_examples=15, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=strategy)
        def check(case: Any) -> None:
            answer = case.call(timeout=60)  # the first explanation imports PyTorch
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])  # any bytes are a body there

        check()


def test_damaged_pictures_have_documented_answers(server: Server) -> None:
    rng = random.Random(0)
    whole = [
        encode_picture(draw("red")),
        encode_picture(draw("blue"), "JPEG", quality=90),
        encode_picture(draw("green"), "GIF"),
    ]
    damaged = []
    for at in range(300):
        content = bytearray(whole[at % 3])
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        damaged.append(bytes(content[: rng.randrange(len(content))] if at % 5 == 0 else content))
    memory = server.read_memory("VmRSS")
    with ThreadPoolExecutor(8) as clients:
        statuses = [reply.status for reply in clients.map(server.predict, damaged)]
    assert set(statuses) == {200, 422}
    assert server.ask("GET", "/health").status == 200
    assert server.read_memory("VmRSS") - memory < 50


def test_explanations_are_of_this_model_and_its_training_images(server: Server) -> None:
    reply = server.ask("POST", "/explain", encode_picture(draw("green", 99)))
    assert reply.status == 200, reply.body
    wait_until(lambda: server.ask("POST", "/explain", encode_picture(draw("green"))).json["compared"] == 45)
    answer = server.ask("POST", "/explain", encode_picture(draw("green", 99))).json
    assert answer["label"] == "green"
    assert [one["label"] for one in answer["nearest"]] == ["green"] * 6
    cosines = [one["cosine"] for one in answer["nearest"]]
    assert 1.0001 > cosines[0] >= cosines[-1] > 0.9
    assert (answer["compared"], answer["planned"], answer["training_images"]) == (45, 45, 45)
    assert answer["saliency"].startswith("data:image/png;base64,")
    assert server.ask("POST", "/explain", b"none").status == 422
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_an_explaining_process_that_dies_is_replaced(server: Server) -> None:
    content = encode_picture(draw("red"))
    assert server.ask("POST", "/explain", content).status == 200
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == server.process.pid and b"spawn_main" in command:
            subprocess.run(["kill", "-KILL", path.parent.name], check=True)
    reply = server.ask("POST", "/explain", content)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert server.predict(content).status == 200
    assert server.ask("POST", "/explain", content).status == 200


def test_another_model_explains_nothing(start: Start, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_model(build_model(CONFIG), tmp_path / "other.safetensors")
    server = start("--trained", str(tmp_path / "other.safetensors"))
    reply = server.ask("POST", "/explain", encode_picture(draw("red")))
    assert reply.status == 404
    assert "expected the model that was exported, found another" in reply.json["detail"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_and_answers_what_is_under_way(number: int, start: Start, send: Any) -> None:
    server = start()
    content = encode_picture(draw("red"))
    connection = send(server, head(len(content)) + content[:10])
    wait_until(lambda: server.read_metric("imclass_requests_in_progress") == 1)
    server.process.send_signal(number)
    time.sleep(0.3)
    connection.sendall(content[10:])
    assert read_reply(connection).status == 200
    assert server.process.wait(timeout=20) == 0


def test_mistakes_of_the_user_are_one_message(trained: Path, server: Server, tmp_path: Path) -> None:
    damaged = bytearray((trained / "models/export/model.onnx").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "damaged.onnx").write_bytes(damaged)
    (tmp_path / "text.txt").write_text("no model")
    mistakes = {
        ("none.onnx",): "none.onnx: there is no such file",
        (f"{tmp_path}/damaged.onnx",): "damaged",
        (f"{tmp_path}/text.txt",): "expected a model",
        ("--trained", "none.safetensors"): "none.safetensors: there is no such file",
        ("--port", str(server.port)): f"cannot listen on 127.0.0.1 port {server.port}",
    }

    def run(options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from imclass.cli import main; main()", "serve", *options]
        environment = {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(command, cwd=trained, env=environment, capture_output=True, text=True, timeout=60)

    with ThreadPoolExecutor(3) as pool:
        for done, message in zip(pool.map(run, mistakes), mistakes.values(), strict=True):
            assert done.returncode == 1
            assert done.stderr.startswith("imclass: ")
            assert message in done.stderr
            assert len(done.stderr.splitlines()) == 1
