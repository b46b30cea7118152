"""The comparison as a page and as text: both sides in the same pictures."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from browser import Opener, chromium, missing, opener, violations

from gradscope.diagnose.apart.outcome import (
    Change,
    Comparison,
    Curve,
    LossDifference,
    Side,
    SideFinding,
)
from gradscope.diagnose.apart.parting import Difference
from gradscope.report import compare_formats

GAIN = Difference("block.<i>2</i>", "gain", "gain", True, 5, 0.8, 0.2, 0.25, 2.4, 1.6)
GRADIENT = Difference("0.weight", "gradient", "gradient", False, 10, 1e-2, 1e-4, 0.01, 6.0, 2.5)


def curve(level: float) -> Curve:
    steps = tuple(range(40))
    return Curve(steps, tuple(level + 0.02 * np.sin(step) for step in steps))


def losses(level: float) -> Curve:
    return Curve(tuple(range(40)), tuple(level * 0.98**step for step in range(40)))


def comparison() -> Comparison:
    finding = SideFinding("GS101", "vanishing-gradient", "critical", "0", "`0` starves", 3)
    return Comparison(
        a=Side("A: old", ("runs/old",), (40,), "m"),
        b=Side("B: new", ("runs/new", "runs/new2"), (40, 40), "m"),
        steps=40, tests=300, differences=(GAIN, GRADIENT), layers=("block.<i>2</i>",),
        structure=(("2", "`2` is a ReLU in A, a Sigmoid in B"),), same_until=None,
        identical=False, first=None, loss=LossDifference(0.5, 0.9, 20, 1.5, True),
        changes=(Change("new", finding, None, "critical", 0, 2, 1, 2),),
        regressions=("new: GS101 vanishing-gradient, `0` starves",),
        curves=((GAIN, (curve(-0.1),), (curve(-0.7), curve(-0.6))),
                (GRADIENT, (curve(-2),), (curve(-4), curve(-4.1)))),
        losses=((losses(2.0),), (losses(2.2), losses(2.1))),
        verdict="the runs part most at `block.<i>2</i>`: its gain is ×0.25 in B, from step 5 on",
        notes=("B has two runs.",),
    )  # fmt: skip


def test_every_text_names_the_layer_the_step_and_the_regression() -> None:
    for format in ("full", "concise", "markdown", "junit", "github"):
        text = compare_formats.render(comparison(), format)
        assert "GS101" in text, format
    full = " ".join(compare_formats.render(comparison(), "full").split())
    assert "step 5" in full
    assert "×0.25" in full
    assert "its own" in full
    assert "critical (2 of 2)" in full
    assert "a Sigmoid in B" in full
    assert "worse by more than the ×1.5 that seeds explain" in full


def test_json_holds_all_but_the_curves() -> None:
    found = json.loads(compare_formats.render(comparison(), "json", exit_code=1))
    assert found["exit_code"] == 1
    assert found["apart"] is True
    assert [d["layer"] for d in found["differences"]] == ["block.<i>2</i>", "0.weight"]
    assert "curves" not in found


def test_regressions_are_failures_and_partings_alone_are_notes() -> None:
    calm = replace(comparison(), regressions=())
    assert 'failures="1"' in compare_formats.render(comparison(), "junit")
    assert 'failures="0"' in compare_formats.render(calm, "junit")
    levels = [
        result["level"]
        for result in json.loads(compare_formats.render(calm, "sarif"))["runs"][0]["results"]
    ]
    assert levels == ["note"]


def test_runs_that_do_not_part_give_one_check_that_holds() -> None:
    alike = replace(
        comparison(), differences=(), layers=(), structure=(), regressions=(), changes=(),
        curves=(), verdict="the runs differ by no more than seeds do",
    )  # fmt: skip
    assert compare_formats.render(alike, "github").startswith("::notice")
    assert 'tests="1" failures="0"' in compare_formats.render(alike, "junit")
    assert "no more than seeds" in compare_formats.render(alike, "html")


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with chromium() as browser, opener(browser, tmp_path_factory.mktemp("compare")) as open_one:
        yield open_one


@pytest.mark.browser
@pytest.mark.skipif(missing(), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(open_page: Opener, width: int, scheme: str) -> None:
    opened = open_page(
        compare_formats.render(comparison(), "html"), width=width, color_scheme=scheme
    )
    opened.scroll_through()
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(opened.page) == []
    boxes = opened.page.locator(".plot.drawn")
    assert boxes.count() == 3
    # one line for each run of either side in every picture
    assert opened.page.locator(".plot.drawn >> nth=0 >> .scatterlayer .trace").count() == 3
    assert "block.<i>2</i>" in opened.page.inner_text("#where")
    # what the page is opened for, the factor, is seen without scrolling the table
    table = opened.page.locator("#where .scroll").first
    factor = opened.page.locator("#where .trace-table tbody td b").first.bounding_box()
    box = table.bounding_box()
    assert factor is not None
    assert box is not None
    assert factor["x"] + factor["width"] <= box["x"] + box["width"]
