"""The page as a person meets it, in a real browser, offline."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Opener, chromium, opener, violations
from playwright.sync_api import Browser, Page, expect
from sample import Shape, diagnosis, empty, healthy

from gradscope.report.html import render
from gradscope.session import save

pytestmark = pytest.mark.browser
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "<b>bold</b>.{{ 7 * 7 }}",
    "a" * 120,
    "層.\u202eevil",
    "$\\frac{1}{2}$",
)


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


def test_all_figures_are_drawn_without_a_complaint_or_a_request(opened: Opener, sick: str) -> None:
    view = opened(sick)
    view.scroll_through()
    page = view.page
    for key in ("map", "depth", "gain", "curves", "updates", "formats"):
        assert page.locator(f"#{key} svg.main-svg").count() > 0, key
    assert page.locator("#map .heatmaplayer image").count() >= 1
    assert page.locator("#gain .barlayer path").count() > 12
    assert page.locator("#curves .scatterlayer path.js-line").count() >= 4
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "timer"])
def test_figures_out_of_view_are_drawn_without_scrolling(
    opened: Opener, sick: str, idle: bool
) -> None:
    view = opened(sick if idle else sick.replace("window.requestIdleCallback ?", "null ?"))
    page = view.page
    page.wait_for_function("() => !document.querySelector('.plot:not(.drawn)')", timeout=15_000)
    assert page.evaluate("scrollY") == 0
    assert page.locator(".waiting").count() == 0
    assert page.locator(".plot .main-svg").count() > 0
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_has_a_shaded_edge(opened: Opener, sick: str, scheme: str) -> None:
    page = opened(sick, width=400, color_scheme=scheme).page
    box = page.locator("#layers .scroll")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    image = box.evaluate("e => getComputedStyle(e).backgroundImage")
    assert image.count("linear-gradient") == 4
    assert "local" in box.evaluate("e => getComputedStyle(e).backgroundAttachment")


def test_a_click_on_the_map_chooses_layer_and_step_everywhere(opened: Opener, sick: str) -> None:
    view = opened(sick)
    view.scroll_through()
    page = view.page
    page.locator("#map .plot").scroll_into_view_if_needed()
    area = page.locator("#map .nsewdrag").first.bounding_box()
    assert area is not None
    # row 4 of 13 is layers.8; a quarter of 200 steps is step 50
    page.mouse.click(area["x"] + area["width"] * 0.2525, area["y"] + area["height"] * 4.5 / 13)
    expect(page.locator("#pick-layer")).to_have_value("layers.8")
    expect(page.locator("#pick-step")).to_have_value("50")
    expect(page.locator("#picked")).to_contain_text("layers.8, step 50: gradient RMS")
    assert "layer=layers.8" in page.url
    assert "step=50" in page.url
    expect(page.locator("tr.picked")).to_have_count(1)
    expect(page.locator("tr.picked")).to_contain_text("layers.8")
    for figure in ("map", "depth", "gain", "curves", "updates", "formats"):
        page.wait_for_function(
            "key => document.querySelector(`#${key} .shapelayer path[style*='rgb(194, 24, 91)']`)",
            arg=figure,
        )
    page.keyboard.press("Escape")
    expect(page.locator("#pick-layer")).to_have_value("")
    assert "layer=" not in page.url


def test_what_was_chosen_is_read_aloud_with_its_value(opened: Opener) -> None:
    view = opened(render(diagnosis(Shape(nan_from=120, frozen=(1,)))))
    page = view.page
    page.locator("#pick-layer").select_option("layers.0")
    page.locator("#pick-step").fill("150")
    page.locator("#pick-step").press("Enter")
    expect(page.locator("#picked")).to_have_text("layers.0, step 150: NaN or Inf.")
    page.locator("#pick-layer").select_option("layers.2")
    expect(page.locator("#picked")).to_have_text("layers.2, step 150: frozen.")


def test_hash_restores_layer_step_filter_sort_and_finding(opened: Opener, sick: str) -> None:
    place = "#GS404:layers.4?layer=layers.4&step=30&filter=layers.1&sort=gradient.desc"
    page = opened(sick, hash=place).page
    expect(page.locator("#pick-layer")).to_have_value("layers.4")
    expect(page.locator("#pick-step")).to_have_value("30")
    expect(page.locator("#filter-text")).to_have_value("layers.1")
    assert page.locator('[id="GS404:layers.4"]').get_attribute("open") is not None
    shown = page.locator("#layer-table tbody tr:visible th > span").all_text_contents()
    assert shown == ["layers.18", "layers.16", "layers.14", "layers.12", "layers.10"]
    head = page.locator("#layer-table th[data-key=gradient]")
    expect(head).to_have_attribute("aria-sort", "descending")


def test_the_table_sorts_both_ways_and_filters(opened: Opener, sick: str) -> None:
    page = opened(sick).page
    names = page.locator("#layer-table tbody tr:visible th > span")
    button = page.locator("#layer-table th[data-key=gradient] button")
    button.click()
    assert names.first.text_content() == "layers.0"
    button.click()
    assert names.first.text_content() == "head"
    page.locator("#filter-text").fill("gs404")
    expect(page.locator("#filter-count")).to_have_text("1 of 13")
    assert names.all_text_contents() == ["layers.4"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_toggle(opened: Opener, sick: str, scheme: str) -> None:
    view = opened(sick, color_scheme=scheme)
    page = view.page
    backdrop = "() => getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(247, 248, 249)", "rgb(17, 20, 23)"
    assert page.evaluate(backdrop) == (dark if scheme == "dark" else light)
    page.keyboard.press("t")
    assert page.evaluate(backdrop) == light
    page.keyboard.press("t")
    assert page.evaluate(backdrop) == dark
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: Dark")
    view.scroll_through()
    font = page.locator("#map .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    assert font == "rgb(163, 173, 184)"
    page.keyboard.press("t")
    page.wait_for_function(
        "colour => getComputedStyle(document.querySelector('#map .xtick text')).fill === colour",
        arg="rgb(163, 173, 184)" if scheme == "dark" else "rgb(86, 96, 107)",
    )


def test_keys(opened: Opener, sick: str) -> None:
    page = opened(sick).page
    cards = page.locator(".card")
    focused = "() => document.activeElement.closest('.card')?.id"
    page.keyboard.press("j")
    assert page.evaluate(focused) == "GS101:layers.0"
    page.keyboard.press("j")
    assert page.evaluate(focused) == "GS505"
    assert cards.nth(1).get_attribute("open") is not None
    page.keyboard.press("k")
    assert page.evaluate(focused) == "GS101:layers.0"
    page.keyboard.press("/")
    expect(page.locator("#filter-text")).to_be_focused()
    page.keyboard.type("jk?")
    expect(page.locator("#filter-text")).to_have_value("jk?")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#keys-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys-dialog")).to_be_hidden()
    page.keyboard.press("e")
    assert page.locator("main details:not([open])").count() == 0
    page.keyboard.press("e")
    assert page.locator("main details[open]").count() == 0


def test_copy_gives_the_diff_and_a_link_to_the_finding(opened: Opener, sick: str) -> None:
    view = opened(sick, permissions=["clipboard-read", "clipboard-write"])
    page = view.page
    page.locator(".diff .copy").first.click()
    assert "+            layers.append(nn.ReLU())" in page.evaluate(
        "navigator.clipboard.readText()"
    )
    page.locator("[data-link='GS101:layers.0']").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{view.path.as_uri()}#GS101:layers.0"


def test_reads_without_a_script(opened: Opener, sick: str) -> None:
    view = opened(sick, java_script_enabled=False)
    page = view.page
    text = page.locator("body").inner_text()
    assert "The gradient vanishes on its way to layers.0" in text
    assert "vanishing-gradient" in text
    assert "loss-not-decreasing" in text
    assert "layers.append(nn.ReLU())" in text
    expect(page.locator(".spark").first).to_be_visible()
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    expect(page.locator("#map .no-js-only")).to_be_visible()
    page.locator("#map summary", has_text="The numbers").click()
    expect(page.locator("#map tbody tr").first).to_be_visible()
    expect(page.locator("#layer-table tbody tr").first).to_be_visible()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("make", [diagnosis, healthy, empty], ids=["sick", "healthy", "empty"])
def test_nothing_is_wider_than_the_screen(opened: Opener, make: object, width: int) -> None:
    view = opened(render(make()), width=width)  # type: ignore[operator]
    view.scroll_through()
    view.page.keyboard.press("e")
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    assert view.complaints == []


@pytest.mark.parametrize("width", [400, 1280])
def test_no_code_runs_out_of_its_box(opened: Opener, sick: str, width: int) -> None:
    """A phone shows no scroll bar: what is cut off without a sign is not read."""
    long = sick.replace("layers.append(nn.ReLU())", "layers.append(nn.ReLU())  # " + "x" * 200)
    page = opened(long, width=width).page
    page.keyboard.press("e")
    boxes = page.locator(".code pre, .page pre")
    assert boxes.count() > 5
    assert boxes.evaluate_all("all => all.every(box => box.scrollWidth <= box.clientWidth)")


@pytest.mark.parametrize("width", [760, 901, 1210])
def test_the_bar_fits_at_every_width(opened: Opener, sick: str, width: int) -> None:
    page = opened(sick, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_for_axe(opened: Opener, sick: str, scheme: str) -> None:
    view = opened(sick, color_scheme=scheme)
    view.scroll_through()
    view.page.keyboard.press("e")
    assert violations(view.page) == []


def test_hostile_names_do_nothing_and_stay_readable(opened: Opener) -> None:
    made = diagnosis(Shape(layers=len(HOSTILE), names=HOSTILE), model="<script>alert(3)</script>")
    view = opened(render(made), width=400)
    view.scroll_through()
    page = view.page
    page.keyboard.press("e")
    page.locator("#pick-layer").select_option(HOSTILE[0])
    expect(page.locator("#picked")).to_contain_text(HOSTILE[0])
    page.locator("#map .plot").hover()
    assert view.dialogs == []
    assert view.complaints == []
    assert page.locator("main img, main b b").count() == 0
    assert page.locator("#layer-table tbody th > span").first.text_content() == HOSTILE[0]
    assert "49" not in page.locator("#layer-table").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    data = json.loads(page.locator("#gradscope-data").text_content() or "")
    assert data["findings"][0]["modules"] == [HOSTILE[0]]


def test_paper_is_light_and_shows_what_was_folded(opened: Opener, sick: str) -> None:
    view = opened(sick, color_scheme="dark")
    view.scroll_through()
    page = view.page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("main details:not([open])").count() == 0
    expect(page.locator(".bar")).to_be_hidden()
    # A4 less its margins is 718 px wide
    widths = page.locator(".plot .main-svg").evaluate_all("all => all.map(e => e.clientWidth)")
    assert max(widths) <= 700
    fill = page.locator("#map .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    assert fill == "rgb(86, 96, 107)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 31, 36)"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details:not([open])").count() > 0


def test_a_large_run_opens_and_shows_the_largest_of_each_column(opened: Opener) -> None:
    view = opened(render(diagnosis(Shape(layers=99, steps=500, decades=0.08))))
    view.scroll_through()
    page = view.page
    expect(page.locator("#map .reduced")).to_contain_text(re.compile("500 sampled steps .* 240"))
    page.locator("#pick-metric").select_option("largest")
    assert "metric=largest" in page.url
    assert view.complaints == []


@pytest.mark.slow
def test_the_largest_page_answers_within_its_budget(browser: Browser, tmp_path: Path) -> None:
    """Counted in the processor time of the page's thread: a busy machine must not decide it."""
    path = tmp_path / "large.html"
    shape = Shape(layers=999, steps=10_000, every=5_000, decades=0.008, sampled=400)
    path.write_text(render(diagnosis(shape)), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1_280, "height": 900}, offline=True)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri(), wait_until="domcontentloaded", timeout=120_000)
    page.keyboard.press("?")
    expect(page.locator("#keys-dialog")).to_be_visible()
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    assert 0.01 < metrics["TaskDuration"] < 1.5


def test_printing_from_the_menu_draws_what_was_never_in_view(opened: Opener, sick: str) -> None:
    page = opened(sick, color_scheme="dark").page
    page.evaluate(
        """() => {
          window.print = () => {
            window.onPaper = {
              drawn: document.querySelectorAll('.plot.drawn').length,
              theme: document.documentElement.dataset.theme,
            };
          };
        }"""
    )
    page.locator("#menu summary").click()
    page.locator("[data-act=print]").click()
    page.wait_for_function("() => window.onPaper")
    assert page.evaluate("window.onPaper") == {"drawn": 6, "theme": "light"}
    assert page.evaluate("document.documentElement.dataset.theme ?? 'auto'") == "auto"
    assert page.locator("main details:not([open])").count() > 0


class _Strict(SimpleHTTPRequestHandler):
    """A host of artefacts that forbids scripts and styles inside a page."""

    def end_headers(self) -> None:
        own = "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:"
        self.send_header("Content-Security-Policy", f"default-src 'none'; {own}")
        super().end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("place", ["disk", "strict host"])
def test_a_page_with_linked_assets_draws_where_inline_scripts_are_forbidden(
    browser: Browser, tmp_path: Path, place: str
) -> None:
    save(diagnosis(), tmp_path / "page.html", assets="linked")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Strict, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = (tmp_path / "page.html").as_uri()
    if place != "disk":
        url = f"http://127.0.0.1:{server.server_port}/page.html"
    complaints: list[str] = []
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: complaints.append(str(e)))
    try:
        page.goto(url)
        page.wait_for_function("() => !document.querySelector('.plot:not(.drawn)')")
        assert page.locator("#map svg.main-svg").count() > 0
        assert page.locator("html").get_attribute("class") == "js"
        assert complaints == []
    finally:
        page.context.close()
        server.shutdown()
        server.server_close()


def test_the_same_page_inline_is_dead_on_a_strict_host(browser: Browser, tmp_path: Path) -> None:
    """Were the inline page alive there, the test above would say nothing."""
    save(diagnosis(), tmp_path / "page.html")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Strict, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_context().new_page()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        assert page.locator("html").get_attribute("class") == "no-js"
        assert page.locator("h1").inner_text() != ""
    finally:
        page.context.close()
        server.shutdown()
        server.server_close()


def _copied(page: Page) -> str:
    return page.evaluate("() => navigator.clipboard.readText()")


def test_keys_copy_the_fix_and_the_link_and_go_to_sections(opened: Opener, sick: str) -> None:
    view = opened(sick, permissions=["clipboard-read", "clipboard-write"])
    page = view.page
    page.keyboard.press("j")
    page.keyboard.press("f")
    assert _copied(page) == page.locator(".card .fix [data-copy]").first.get_attribute("data-copy")
    page.keyboard.press("l")
    assert _copied(page) == page.url
    for number, key in enumerate(("findings", "gradients", "training"), 1):
        page.keyboard.press(str(number))
        assert page.url.endswith(f"#{key}")


def test_the_layer_table_copies_as_csv_what_it_shows(opened: Opener, sick: str) -> None:
    view = opened(sick, permissions=["clipboard-read", "clipboard-write"])
    page = view.page
    page.locator("#copy-csv").click()
    lines = list(csv.DictReader(io.StringIO(_copied(page))))
    assert len(lines) == page.locator("#layer-table tbody tr").count()
    assert [line["Layer"] for line in lines] == page.locator(
        "#layer-table th > span.mono"
    ).all_inner_texts()
    assert all(float(line["Weights"]) > 0 for line in lines)
    page.locator("#filter-text").fill(lines[0]["Layer"])
    page.locator("#copy-csv").click()
    assert 1 <= len(list(csv.DictReader(io.StringIO(_copied(page))))) < len(lines)
