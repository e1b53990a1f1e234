"""The page of a report, looked at in a real browser: on a phone, in the dark, by keyboard."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from support.browser import CHROMIUM, Browser

from paddleseg_autoloss.documents import (
    Banner,
    Chart,
    Code,
    Document,
    Gallery,
    Heading,
    Items,
    Panel,
    Paragraph,
    Table,
    Tile,
)
from paddleseg_autoloss.documents.panels import draw_svg

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
NAME = "a_name_that_is_longer_than_the_screen_of_a_phone_" * 2
HOSTILE = "</script><script>document.title = 'hacked'</script>"
COLUMNS = ["variant", "mIoU", "final weights"]
ROWS = [
    ["b", "0.9000 ± 0.01", "CrossEntropyLoss 0.123, DiceLoss 0.456, LovaszSoftmaxLoss 0.789"],
    [NAME, "undefined", "-"],
    [HOSTILE, "0.1200", "-"],
    ["a", "12.5", "-"],
]


def draw(axes, notes):
    notes.add(axes.plot([1, 2, 3], [0.5, np.nan, 2.0], "o-")[0], [f"{HOSTILE} 0.5", "a, 2"])
    axes.set_yticks([0.5, 2.0], [NAME[:20], "中文"])


@pytest.fixture(scope="module")
def document():
    image = np.random.default_rng(0).integers(0, 255, [100, 150, 3], "uint8")
    document = Document(NAME)
    document.add(Banner(NAME), Paragraph(NAME), Items([NAME, HOSTILE]), Code(NAME))
    document.add(Heading("A table"), Table(pd.DataFrame(ROWS, columns=COLUMNS)))
    document.add(
        Heading("A chart"), Chart("c", "A chart", [Panel(NAME, draw, named_rows=True)] * 3)
    )
    document.add(
        Heading("Images"), Gallery([[Tile(NAME, image)] * 5], [("class 1", "#F0E442", True)])
    )
    return document


@pytest.fixture(scope="module")
def page(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(document.html(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2, from ``rgb(r, g, b)``."""
    shares = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_window(page, browser, width, dark):
    browser.open(page, width, dark)
    assert browser.complaints() == []
    assert [a for a in browser.requests() if not a.startswith("data:")] == [page.as_uri()]
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") == NAME
    assert browser.evaluate("[...document.images].filter(i => i.naturalWidth).length") == 5
    for element in ("body", "td", "svg text", "figcaption"):
        color = browser.evaluate(f"getComputedStyle(document.querySelector('{element}')).color")
        back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        low, high = sorted([luminance(color), luminance(back)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (element, color, back)
        assert (luminance(back) < luminance(color)) == dark


@needs_browser
def test_nothing_is_cut_on_a_phone(page, browser):
    """A wide table scrolls in its container; names of rows stay within the window."""
    browser.open(page, 390)
    box = "document.querySelector('.scroll')"
    assert browser.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
    assert browser.evaluate(f"getComputedStyle({box}).overflowX") == "auto"
    outside = "[...document.querySelectorAll('svg text, td:first-child, figcaption, p, li')]"
    outside += (
        ".map(e => e.getBoundingClientRect()).filter(r => r.left < 0 || r.right > 390).length"
    )
    assert browser.evaluate(outside) == 0
    sizes = "[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
    assert browser.evaluate(f"Math.min(...{sizes})") >= 9


@needs_browser
def test_contents(page, browser):
    browser.open(page, 1280)
    links = browser.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => "
        "document.querySelector(a.getAttribute('href')).textContent)"
    )
    assert links == ["A table", "A chart", "Images"]


@needs_browser
def test_sort_by_keyboard(page, browser):
    """Numbers by size and not as text, texts by the alphabet, what is missing always last."""

    def order():
        return browser.evaluate(
            "[...document.querySelectorAll('td:first-child')].map(e => e.textContent)"
        )

    browser.open(page, 1280)
    for _ in range(5):  # three links of the contents, the container of the table, two heads
        browser.press("Tab")
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.textContent") == "mIoU"
    assert order() == ["b", NAME, HOSTILE, "a"]
    browser.press("Enter")
    assert order() == [HOSTILE, "b", "a", NAME]
    browser.press("Enter")
    assert order() == ["a", "b", HOSTILE, NAME]
    sorts = "[...document.querySelectorAll('th')].map(e => e.getAttribute('aria-sort'))"
    assert browser.evaluate(sorts) == [None, "descending", None]
    browser.evaluate("document.querySelector('th button').click()")
    assert order() == [HOSTILE, "a", NAME, "b"]


@needs_browser
def test_values_on_hover(page, browser):
    browser.open(page, 1280)
    marks = "[...document.querySelectorAll('use')].filter(e => e.querySelector('title'))"
    assert browser.evaluate(f"{marks}.length") == 6
    assert browser.evaluate(f"{marks}[1].querySelector('title').textContent") == "a, 2"
    browser.evaluate(f"{marks}[1].scrollIntoView({{block: 'center'}})")
    place = browser.evaluate(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
        f"({marks}[1].getBoundingClientRect())"
    )
    browser.move_to(*place)
    assert browser.evaluate("document.querySelector('output').textContent") == "a, 2"


@needs_browser
def test_other_scripts_do_not_run(page, browser, tmp_path):
    """If ever a name were not escaped, the page's policy would still refuse its script."""
    hostile = tmp_path / "hostile.html"
    hostile.write_text(page.read_text().replace("</main>", f"</main>{HOSTILE}"))
    browser.open(hostile, 1280)
    assert browser.evaluate("document.title") == NAME
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_small_even_with_many_images():
    noise = np.random.default_rng(0).integers(0, 255, [256, 256, 3], "uint8")
    document = Document("a")
    document.add(Gallery([[Tile(f"{i} {j}", noise) for j in range(4)] for i in range(40)]))
    html = document.html()
    shown = html.count("<img")
    assert 0 < shown < 160
    assert f"{40 - shown // 4} of 40 rows of images are left out" in html
    assert len(html) < 1_600_000


def test_a_text_for_each_mark():
    panel = Panel("a", lambda axes, notes: notes.add(axes.plot([1, 2], [3, 4], "o")[0], ["one"]))
    with pytest.raises(ValueError, match="expected a text for each of 2 marks, found 1"):
        draw_svg(panel, "c")


def test_elements_of_a_page_have_ids_of_their_own(document):
    ids = re.findall(r' id="([^"]+)"', document.html())
    assert len(ids) == len(set(ids)) > 3
    uses = re.findall(r'(?:url\(|href=")#([\w-]+)', document.html())
    assert set(uses) <= set(ids)
