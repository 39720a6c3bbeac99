"""The page in a real browser: Chromium, by its command line, with nothing of it made up."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page

from imclass.data.findings import Finding
from imclass.evaluation.predictions import Decision
from imclass.evaluation.report.page import Report, format_percent, write_report

CLOTHES = ["Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt/top", "Trouser"]
HOSTILE = [
    "</script><script>document.title = 'run'</script>",
    '"><img src=http://example.org/x onerror="document.title = \'run\'">',
    "{{ 7 * 7 }} & 'quoted' <b>",
    "\u202eright to left",
    "one that is " + "very " * 40 + "long",
    "unbroken" * 30,
]

SIZES = ((20, 40, 7), (30, 30, 5), (90, 60, 4), (200, 100, 1))
FINDINGS = (
    Finding("missing_file", "images/none.png", "no such file in the source", 7),
    *(Finding("near_duplicate", f"train/{at}.png", f"nearly, {at}") for at in range(25)),
    Finding("few_images", "", "class 'Bag': 3 images in train"),
)


@dataclass
class Opened:
    """A page, and all that should not have happened on it."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def count_cards(self) -> int:
        return self.page.locator(".card:visible").count()

    def read_column(self, number: int) -> list[str]:
        cells = self.page.locator(f"#scores tbody tr:visible > :nth-child({number})")
        return [text.strip() for text in cells.all_inner_texts()]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """`open_page(path, width=..., **context)`; when the test ends the page must have had no fault."""
    pages: list[Opened] = []

    def open_page(path: Path, *, width: int = 1280, **context: Any) -> Opened:
        page = browser.new_page(viewport={"width": width, "height": 900}, **context)
        opened = Opened(page)
        pages.append(opened)
        page.on("console", lambda message: opened.faults.append(message.text))
        page.on("pageerror", lambda error: opened.faults.append(str(error)))
        page.on("dialog", lambda dialog: opened.faults.append(dialog.message))
        page.on("request", lambda request: note_request(opened, request.url))
        page.goto(path.as_uri())
        return opened

    def note_request(opened: Opened, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            opened.faults.append(url)

    yield open_page
    faults = [fault for opened in pages for fault in opened.faults]
    for opened in pages:
        opened.page.close()
    assert faults == []


@pytest.fixture(scope="module")
def clothes(make_report: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 10,000 grey images of 28 x 28 pixels in 10 classes."""
    path = tmp_path_factory.mktemp("clothes") / "report.html"
    write_report(path, make_report(CLOTHES, 10_000, side=28, doubts=("it is made up",)))
    return path


def find_faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response
    assert len(found["passes"]) > 20
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in serious]


def test_page_is_small_asks_for_nothing_and_shows_all_sections(clothes: Path, open_page: Callable[..., Opened]) -> None:
    assert clothes.stat().st_size < 5_000_000
    opened = open_page(clothes)
    page = opened.page
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert loaded < 3_000, "in ms; a third of that on an idle machine"
    assert page.locator("h1").inner_text().endswith("of the test images are recognised")
    assert page.locator(".verdict").first.inner_text() == "It is made up"
    assert page.locator(".chart").count() == 9
    for chart in page.locator(".chart > svg").all():
        drawn = chart.locator(".line > path, rect").evaluate_all(
            "shapes => shapes.map(shape => shape.getBBox()).filter(box => Math.max(box.width, box.height) > 50)"
        )
        assert drawn, chart.get_attribute("aria-label")
    assert page.locator(".ring").count() == 2
    assert set(opened.read_column(1)) == set(CLOTHES)
    assert page.locator(".details").inner_text().count("f" * 64) == 1


def test_images_are_pieces_of_one_sheet(clothes: Path, open_page: Callable[..., Opened]) -> None:
    text = clothes.read_text()
    assert len(re.findall(r"url\(data:image/", text)) == 3, "test images, what the model looked at, samples"
    assert "<img" not in text
    pieces = open_page(clothes).page.locator(".card .shown")
    places = pieces.evaluate_all("pieces => pieces.map(piece => getComputedStyle(piece).backgroundPosition)")
    assert len(set(places)) == len(places) == 480


def test_cell_of_the_matrix_leads_to_its_images(clothes: Path, open_page: Callable[..., Opened]) -> None:
    opened = open_page(clothes)
    page = opened.page
    assert opened.count_cards() == 24
    assert page.locator(".card.wrong:visible").count() == 24
    page.locator(".matrix a[data-true='2'][data-predicted='3']").click()
    assert opened.count_cards() > 0
    assert set(page.locator(".card:visible .labels").all_inner_texts()) == {"Coat taken for Dress"}
    page.locator(".matrix a[data-true='2'][data-predicted='2']").click()
    assert set(page.locator(".card:visible .labels").all_inner_texts()) == {"Coat recognised"}
    page.get_by_role("button", name="Reset").click()
    page.locator(".card:visible").nth(23).wait_for()
    assert opened.count_cards() == 24
    page.get_by_role("button", name="Show more").click()
    assert opened.count_cards() == 120


def test_matrix_is_one_stop_of_the_tab_key_and_arrows_walk_it(clothes: Path, open_page: Callable[..., Opened]) -> None:
    opened = open_page(clothes)
    page = opened.page
    page.get_by_role("radio", name="images").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    read_focus = "[document.activeElement.dataset.true, document.activeElement.dataset.predicted]"
    assert page.evaluate(read_focus) == ["0", "0"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(read_focus) == ["0", "1"]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(read_focus) == ["1", "1"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.closest('.matrix')")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(read_focus) == ["1", "2"]
    page.keyboard.press("Enter")
    assert page.locator("select[name=true]").input_value() == "1"
    assert page.locator("select[name=predicted]").input_value() == "2"
    assert page.evaluate("document.activeElement.name") == "true"
    assert opened.count_cards() > 0


def test_numbers_of_the_matrix_become_shares(clothes: Path, open_page: Callable[..., Opened]) -> None:
    page = open_page(clothes).page
    cell = page.locator(".matrix a[data-true='2'][data-predicted='2']")
    count = int(cell.inner_text())
    page.get_by_label("% of the true class").check()
    assert float(cell.inner_text()) == pytest.approx(count / 10, abs=0.051)


def test_saliency_is_laid_over_when_asked_for(clothes: Path, open_page: Callable[..., Opened]) -> None:
    page = open_page(clothes).page
    piece = page.locator(".card .shown").first
    plain = piece.screenshot()
    page.get_by_label("what the model looked at").check()
    assert piece.screenshot() != plain
    assert page.locator("#saliency-note").is_visible()
    page.get_by_label("what the model looked at").uncheck()
    assert piece.screenshot() == plain


def test_table_of_classes_is_sorted_and_searched(clothes: Path, open_page: Callable[..., Opened]) -> None:
    opened = open_page(clothes)
    page = opened.page
    f1 = opened.read_column(5)
    assert f1 == sorted(f1)
    page.get_by_role("button", name="F1").click()
    assert opened.read_column(5) == sorted(f1, reverse=True)
    page.get_by_role("button", name="class").click()
    assert opened.read_column(1) == sorted(CLOTHES)
    assert page.locator("#scores [aria-sort]").inner_text().startswith("class")
    page.get_by_label("find a class").fill("SN")
    assert opened.read_column(1) == ["Sneaker"]
    assert page.locator("#classes output").inner_text() == "1 of 10"


def test_findings_are_counted_listed_and_found(
    make_report: Callable[..., Report], tmp_path: Path, open_page: Callable[..., Opened]
) -> None:
    path = tmp_path / "report.html"
    policies = {"missing_file": "drop", "near_duplicate": "warn"}
    write_report(path, make_report(CLOTHES, 50, sizes=SIZES, findings=FINDINGS, policies=policies))
    page = open_page(path).page
    kinds = [row.split("\t") for row in page.locator(".kinds tbody tr").all_inner_texts()]
    assert [(kind.split("\n")[0], *told) for kind, *told in kinds] == [
        ("missing_file", "1", "drop", "left out"),
        ("near_duplicate", "25", "warn", "only told"),
        ("few_images", "1", "warn", "only told"),
    ]
    rows = page.locator("#findings tbody tr:visible")
    assert rows.count() == 10
    assert page.locator("#findings tbody tr").count() == 22, "twenty of a kind"
    assert rows.first.inner_text().split("\t") == [
        "",
        "images/none.png",
        "no such file in the source",
        "missing_file",
        "7",
    ]
    page.get_by_role("link", name="near_duplicate").click()
    assert rows.count() == 20
    assert page.locator("#findings .sample:visible").count() == 20, "each a picture of the training images"
    for _ in range(2):
        page.locator("#findings").get_by_role("button", name="finding").click()
    assert "nearly, 19" in rows.first.inner_text(), "numbers in the text count as numbers"
    page.get_by_label("find a finding").fill("bag")
    assert [row.split("\t")[1] for row in rows.all_inner_texts()] == ["-"]


def test_original_sizes_are_drawn_where_they_differ(
    make_report: Callable[..., Report], clothes: Path, tmp_path: Path, open_page: Callable[..., Opened]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, make_report(CLOTHES, 50, sizes=SIZES))
    page = open_page(path).page
    assert "4 sizes, from 20 x 40 over 30 x 30 (the median by area) to 200 x 100" in page.locator("#data").inner_text()
    assert "5 wider than high, 7 higher than wide, 5 square" in page.locator("#data").inner_text()
    titles = page.locator("#data .chart rect title").evaluate_all("titles => titles.map(title => title.textContent)")
    for side in "width", "height":
        assert sum(int(title.split()[0]) for title in titles if f" {side}," in title) == 17, "each picture once"
    page = open_page(clothes).page
    assert "Every file has a picture of 8 x 8 pixels" in page.locator("#data").inner_text()
    assert "Nothing: no file, name, label or picture is at fault" in page.locator("#data").inner_text()
    assert not page.locator("#data .chart").count()


def test_page_tells_the_verdict_of_the_gate(
    make_report: Callable[..., Report], tmp_path: Path, open_page: Callable[..., Opened]
) -> None:
    def read_gate(**options: Any) -> str:
        write_report(tmp_path / "report.html", make_report(["a", "b"], 50, noise=0.1, **options))
        return open_page(tmp_path / "report.html").page.locator("#gate").inner_text()

    assert read_gate(accuracy=0.5) == (
        "Passed. This test shows an accuracy of at least 0.9287 (asked for: 0.5) and a recall of at least 0.8668 in "
        "every class (asked for: 0; a has the lowest). No model accepted yet: not compared."
    )
    accepted = {f"images/{at:05}.png": Decision("ab"[at % 2], "a") for at in range(50)}
    assert "Not worse than the accepted model: 25 newly right, 0 newly wrong of 50" in read_gate(accepted=accepted)
    assert read_gate(accuracy=0.95).splitlines() == [
        "Not to be exported:",
        "Accuracy 1.0000 (95 % interval 0.9287 to 1.0000, 50 images): expected a lower end of at least 0.95 "
        "(gate.accuracy)",
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_page_has_no_serious_fault_of_accessibility(
    theme: str, width: int, make_report: Callable[..., Report], tmp_path: Path, open_page: Callable[..., Opened]
) -> None:
    path = tmp_path / "report.html"
    report = make_report(CLOTHES, 150, doubts=("it is made up",), sizes=SIZES, findings=FINDINGS, accuracy=0.99)
    write_report(path, report)
    page = open_page(path, width=width, color_scheme=theme).page
    red = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 60) == (theme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert find_faults(page) == []


def test_page_without_javascript_shows_every_image(clothes: Path, open_page: Callable[..., Opened]) -> None:
    opened = open_page(clothes, java_script_enabled=False)
    assert opened.count_cards() == 480
    assert not opened.page.locator("#filter").is_visible()
    target = opened.page.locator(".pairs a").first.get_attribute("href")
    assert target
    assert opened.page.locator(target).count() == 1


def test_print_leaves_out_what_is_for_the_screen(clothes: Path, open_page: Callable[..., Opened]) -> None:
    page = open_page(clothes, color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden: list[Locator] = [page.locator("nav"), page.locator("#filter"), page.locator("#more")]
    assert not any(one.is_visible() for one in hidden)
    assert page.locator(".matrix").is_visible()


def test_thousand_classes(make_report: Callable[..., Report], tmp_path: Path, open_page: Callable[..., Opened]) -> None:
    path = tmp_path / "report.html"
    write_report(path, make_report([f"class {at:03}" for at in range(1000)], 1_500))
    assert path.stat().st_size < 5_000_000
    opened = open_page(path)
    page = opened.page
    assert page.locator(".matrix tbody tr").count() == 16
    widths = page.locator(".pairs .pair").evaluate_all("pairs => pairs.map(pair => pair.getBoundingClientRect().width)")
    assert min(widths) > 150, "a confusion without an image on the page keeps its place"
    assert len(opened.read_column(1)) == 20
    page.get_by_label("find a class").fill("77")
    assert len(opened.read_column(1)) == 19
    page.get_by_label("find a class").fill("")
    assert len(opened.read_column(1)) == 1000


def test_names_are_text_whatever_they_say(
    make_report: Callable[..., Report], tmp_path: Path, open_page: Callable[..., Opened]
) -> None:
    path = tmp_path / "report.html"
    names = [HOSTILE[at % len(HOSTILE)] for at in range(600)]
    findings = tuple(Finding("odd_text", name, name) for name in HOSTILE)
    write_report(path, make_report(HOSTILE, 600, names=names, doubts=(HOSTILE[0],), findings=findings))
    page = open_page(path, width=390).page
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.images.length") == 0
    assert page.title().endswith("imclass report")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    shown = page.locator("#scores tbody th").evaluate_all("cells => cells.map(cell => cell.textContent)")
    assert sorted(shown) == sorted(HOSTILE)
    told = page.locator("#findings .detail").evaluate_all("cells => cells.map(cell => cell.textContent)")
    assert sorted(told) == sorted(HOSTILE)
    assert set(page.locator(".file").evaluate_all("files => files.map(file => file.title)")) == set(HOSTILE)


@pytest.mark.parametrize(
    ("num_classes", "count", "options"),
    [
        (2, 40, {"noise": 0.1, "epochs": 1, "side": 8}),
        (2, 60, {"channels": 3, "side": 224}),
        (5, 3, {"noise": 3.0, "epochs": 200}),  # two classes without a test image
        (30, 90, {"noise": 0.1, "channels": 3, "side": 32}),
        (3, 1, {"noise": 0.1}),
    ],
    ids=["no mistakes", "photos", "missing classes", "many classes without a mistake", "one image"],
)
def test_unusual_tests_have_a_page(
    num_classes: int,
    count: int,
    options: dict[str, Any],
    make_report: Callable[..., Report],
    tmp_path: Path,
    open_page: Callable[..., Opened],
) -> None:
    path = tmp_path / "report.html"
    write_report(path, make_report([f"class {at}" for at in range(num_classes)], count, **options))
    opened = open_page(path)
    assert opened.count_cards() > 0
    assert "nan" not in opened.page.locator("main").inner_html().lower()


def test_equal_tests_give_equal_bytes(make_report: Callable[..., Report], tmp_path: Path) -> None:
    for name in "a", "b":
        write_report(tmp_path / name, make_report(CLOTHES[:3], 90))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_percentages_tell_a_share_from_all() -> None:
    shares = [0, 0.004, 0.5, 0.91744, 0.99999, 1]
    assert [format_percent(float(share)).removesuffix("\u202f%") for share in shares] == [
        "0",
        "0.4",
        "50.0",
        "91.74",
        "99.999",
        "100",
    ]
