from pathlib import Path

import numpy as np
import pytest

from imclass.data.packed import write_packed
from imclass.evaluation.comparison import compare_decisions
from imclass.evaluation.predictions import Decision
from imclass.team.compare import Difference, format_difference, write_page

FIT = {"channels": 1, "height": 4, "width": 4, "fit": "crop", "background": 255}
COUNT = 30


def make_difference(changed: int) -> Difference:
    """Of 30 images of class <b>, so many newly wrong."""
    before = {f"{at}.png": Decision("<b>", "<b>") for at in range(COUNT)}
    after = {name: Decision("<b>", "a" if at < changed else "<b>") for at, name in enumerate(before)}
    return Difference("main", "lower", before, after, compare_decisions(before, after))


def test_the_screen_names_at_most_twenty_images() -> None:
    lines = format_difference(make_difference(25)).splitlines()
    assert lines[0] == "main -> lower: 30 test images"
    assert lines[2] == "0 newly right, 25 newly wrong (McNemar's test: p 3e-08)"
    assert lines[3] == "worse"
    assert sum(".png: '<b>', taken for '<b>' -> 'a'" in line for line in lines) == 20
    assert "  and 5 more" in lines
    assert lines[-1] == "  <b>     30 ->     5 of 30"


def test_too_few_images_are_said_to_be_too_few() -> None:
    text = format_difference(make_difference(2))
    assert "not distinguishable: such a difference would show on about 116 images (chance 80 %, here 30)" in text
    assert "not distinguishable\n" in format_difference(make_difference(0)) + "\n"


def test_the_page_holds_every_image_and_asks_for_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("x.png", "a", "train"), *((f"{at}.png", "<b>", "test") for at in range(COUNT))]
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT + 1, 1, 4, 4), np.uint8)
    write_packed(tmp_path / "data/packed", rows, [([name for name, _, _ in rows], pixels)], FIT)
    monkeypatch.chdir(tmp_path)
    write_page(make_difference(3), None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 3
    assert 'alt="Test image 2.png: &#39;&lt;b&gt;&#39;, taken for &#39;&lt;b&gt;&#39; -&gt; &#39;a&#39;"' in page
    assert "<b>" not in page
    assert "http" not in page
    assert "Newly right" not in page
