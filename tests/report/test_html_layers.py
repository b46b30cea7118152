"""Many layers, one layer, and the sample pages, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Opener, chromium, opener
from playwright.sync_api import Browser, expect
from sample import Shape, diagnosis

from gradscope.report.html import render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Opener]:
    with opener(browser, tmp_path) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def sick() -> str:
    return render(diagnosis())


def _many(nan_from: int | None = None) -> str:
    names = tuple(f"encoder.{at // 6}.{'qkvoab'[at % 6]}" for at in range(66))
    return render(diagnosis(Shape(66, 30, decades=0.08, names=names, nan_from=nan_from)))


def test_a_map_of_many_layers_folds_into_blocks_and_a_click_opens_one(opened: Opener) -> None:
    view = opened(_many(nan_from=25))
    page = view.page
    page.locator("#map .plot").scroll_into_view_if_needed()
    expect(page.locator("#map .plot.drawn")).to_be_visible()
    # 11 blocks and the head
    expect(page.locator("#map .ytick text")).to_have_count(12)
    expect(page.locator("#map .ytick text").nth(2)).to_have_text("encoder.2 (6)")
    area = page.locator("#map .nsewdrag").first.bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + area["width"] / 3, area["y"] + area["height"] * 2.5 / 12)
    expect(page.locator("#map .ytick text")).to_have_count(17)
    expect(page.locator("#map .ytick text").nth(2)).to_have_text("encoder.2.q")
    assert "block=encoder.2" in page.url
    page.locator("#pick-clear").click()
    expect(page.locator("#map .ytick text")).to_have_count(12)
    # a layer that is chosen elsewhere opens its block
    page.locator("#pick-layer").select_option("encoder.5.v")
    expect(page.locator("#map .ytick text").nth(7)).to_have_text("encoder.5.v")
    assert view.complaints == []


def test_a_row_of_the_table_opens_the_layers_pictures(opened: Opener, sick: str) -> None:
    view = opened(sick)
    page = view.page
    opener_of = page.locator("#layer-table tr[data-layer='layers.4'] .opener")
    opener_of.click()
    expect(opener_of).to_have_attribute("aria-expanded", "true")
    pictures = page.locator(".detail figure")
    expect(pictures).to_have_count(2)
    expect(pictures.nth(0)).to_contain_text("Gradient RMS, steps 0 to 199")
    assert page.locator(".detail .bar-of").count() > 3
    assert "layer=layers.4" in page.url
    opener_of.click()
    expect(page.locator(".detail")).to_have_count(0)
    assert view.complaints == []


SAMPLES = Path(__file__).parents[2] / "reports"


@pytest.mark.parametrize("name", ["vanishing_sigmoid", "nan_log", "wrong_backward"])
@pytest.mark.parametrize("width", [400, 1280])
def test_a_sample_page_draws_every_figure_with_room_and_without_a_complaint(
    opened: Opener, name: str, width: int
) -> None:
    view = opened((SAMPLES / f"{name}.html").read_text(encoding="utf-8"), width=width)
    view.scroll_through()
    widths = view.page.locator(".plot").evaluate_all("all => all.map(box => box.clientWidth)")
    assert len(widths) >= 6
    assert min(widths) >= 300
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    assert view.complaints == []
