"""The page of `imclass serve` in a real browser, before a real server."""

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from pictures import encode_picture
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import Server, draw

Start = Callable[..., Server]
Open = Callable[..., Page]
SLOW = 30_000  # ms, for what loads PyTorch
HOSTILE = "<img src=x onerror=document.title='run'>.png"
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """`open_page(server, width=..., color_scheme=...)`; nothing but the server may be asked, and nothing go wrong."""
    pages: list[Page] = []
    faults: list[str] = []

    def open_page(server: Server, *, width: int = 1280, color_scheme: str = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=color_scheme)  # type: ignore[arg-type]
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: note_request(server, request.url))
        page.goto(server.url)
        return page

    def note_request(server: Server, url: str) -> None:
        if not url.startswith((server.url, "blob:", "data:")):
            faults.append(url)

    yield open_page
    for page in pages:
        page.close()
    # A refused picture is a 422, which Chromium writes to the console.
    assert [fault for fault in faults if "status of 422" not in fault] == []


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = {
        "a green one.jpg": encode_picture(draw("green", 5, width=60), "JPEG"),
        "blue.tif": encode_picture(draw("blue", 6), "TIFF"),  # which browsers do not draw
        "none.png": b"no picture",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in files]


def drop(page: Page, name: str, content: bytes) -> None:
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def find_faults(page: Page) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    assert len(found["passes"]) > 10
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]


def test_dropped_picture_is_labelled_and_explained(server: Server, open_page: Open) -> None:
    page = open_page(server)
    drop(page, HOSTILE, encode_picture(draw("red", 7)))
    result = page.locator(".result")
    bars = result.locator(".bars li")
    expect(bars).to_have_count(3)
    assert bars.first.inner_text().split() == ["red", bars.first.locator(".number").inner_text()]
    lengths = bars.locator("i").evaluate_all("bars => bars.map((bar) => Number(bar.style.getPropertyValue('--s')))")
    assert lengths == sorted(lengths, reverse=True)
    assert 0.99 < sum(lengths) < 1.01
    expect(result.locator(".nearest li")).to_have_count(6, timeout=SLOW)
    expect(result.locator(".nearest p")).to_have_text("among 45", timeout=SLOW)
    assert result.locator(".nearest li > span").all_inner_texts() == ["red"] * 6
    expect(result.locator(".state")).to_have_text("40 x 30 pixels")
    sizes = "images => images.map((image) => image.complete && image.naturalWidth)"
    assert result.locator("img").evaluate_all(sizes) == [40, 16, *[16] * 6]
    view = result.locator(".view")
    box = view.bounding_box()
    assert box
    assert box["width"] == pytest.approx(box["height"]), "the shape that the model sees"
    with_layer = view.screenshot()
    page.get_by_label("what the model looked at").uncheck()
    assert view.screenshot() != with_layer
    assert page.locator(".name").inner_text() == HOSTILE
    assert page.title() == "imclass: what is on a picture?"


def test_files_are_chosen_with_the_keyboard(server: Server, open_page: Open, pictures: list[Path]) -> None:
    page = open_page(server)
    page.on("filechooser", lambda _: None)  # from now on Chromium asks us, and not the screen
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    assert chooser.value.is_multiple()
    chooser.value.set_files(pictures)
    results = page.locator(".result")
    expect(results).to_have_count(3)
    assert page.locator("#told").inner_text() == "3 pictures"
    failed, tiff, jpeg = results.all()
    expect(jpeg.locator(".bars li").first).to_contain_text("green")
    expect(tiff.locator(".bars li").first).to_contain_text("blue")
    expect(failed.locator(".state")).to_contain_text("not an image of a known format")
    expect(tiff.locator(".nearest li")).to_have_count(6, timeout=SLOW)
    drawn = "image => image.complete && image.naturalWidth"
    page.wait_for_function(f"() => ({drawn})(document.querySelectorAll('.view img:first-child')[1]) === 16")
    page.get_by_role("button", name="Remove all").press("Enter")
    expect(results).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_page_has_no_fault_of_accessibility(
    scheme: str, width: int, server: Server, open_page: Open, pictures: list[Path]
) -> None:
    page = open_page(server, width=width, color_scheme=scheme)
    page.locator("#files").set_input_files(pictures)
    expect(page.locator(".nearest li")).to_have_count(12, timeout=SLOW)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert find_faults(page) == []


def test_page_is_one_file_under_a_strict_policy(server: Server) -> None:
    reply = server.ask("GET", "/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    text = reply.body.decode()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!openapi\.json|data:,)""", text)
    assert "url(" not in text


def test_page_says_why_there_are_labels_only(start: Start, trained: Path, tmp_path: Path, open_page: Open) -> None:
    server = start(str(trained / "models/export/model.onnx"), "--megabytes", "0.002", folder=tmp_path)
    page = open_page(server)
    assert "there is no models/model.safetensors" in page.locator("#no-explanation").inner_text()
    assert not page.locator("#saliency").count()
    drop(page, "small.png", encode_picture(draw("red", width=8, height=8)))
    expect(page.locator(".bars li").first).to_contain_text("red")
    drop(page, "large.bmp", encode_picture(Image.new("RGB", (100, 100)), "BMP"))
    expect(page.locator(".state").first).to_have_text("expected at most 2000 bytes, found 30054")
    assert not page.locator(".nearest").first.is_visible()
    assert server.ask("POST", "/explain", b"").status == 404


def test_explaining_without_the_packed_set_says_so(
    start: Start, trained: Path, tmp_path: Path, open_page: Open
) -> None:
    shutil.copytree(trained / "models", tmp_path / "models")
    page = open_page(start(folder=tmp_path))
    drop(page, "red.png", encode_picture(draw("red")))
    expect(page.locator(".nearest p")).to_have_text("None: there is no data/packed", timeout=SLOW)
    assert page.locator(".layer").is_visible()
