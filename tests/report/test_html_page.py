"""The page as text: what stands in it, in which order, and what must not."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import plotly.offline
import pytest
from sample import FILE, Shape, diagnosis, empty, findings, healthy, recording

from gradscope.diagnose.finding import Location, Origin
from gradscope.report import json as json_format
from gradscope.report import page_assets
from gradscope.report.html import SECTIONS, render

BUDGET = 1_000_000
"""Bytes of the page of 100 layers and 500 sampled steps."""
LARGE_BUDGET = 2_500_000
"""Bytes of the page of 1,000 layers and 10,000 steps."""


class _Page(HTMLParser):
    """Ids, links, headings and tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            self.attributes.append((key, value or ""))
            if key == "id":
                self.ids.append(value or "")
            if tag == "a" and key == "href":
                self.links.append(value or "")


def block(html: str, identity: str) -> str:
    found = re.search(rf'<script[^>]*id="{identity}">(.*?)</script>', html, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def sick() -> str:
    return render(diagnosis())


def test_the_sections_stand_in_order(sick: str) -> None:
    # this run had no finite-difference check, and none of its steps was taken apart
    absent = ("backward", "explain")
    wanted = ("verdict", *(key for key, _ in SECTIONS if key not in absent))
    at = [sick.index(f'<section id="{key}"') for key in wanted]
    assert at == sorted(at)
    assert not any(f'<section id="{key}"' in sick for key in absent)


def test_verdict_counts_and_first_thing_to_do(sick: str) -> None:
    head = sick[sick.index('<section id="verdict"') : sick.index('<section id="findings"')]
    assert "<h1>The gradient vanishes on its way to <code>layers.0</code>" in head
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", head))
    for text in (
        "1 critical", "1 warning", "1 note", "3 passed", "1 undecided", "1 not applicable",
        "Do first: Replace the sigmoids by ReLU behind a BatchNorm1d.",
        "DeepSigmoidNet", "norm ≤ 1", "at work on 30 of 200 steps", "1.25 %", "500 µs a step",
        "No loss was found: cross-entropy",
    ):  # fmt: skip
        assert text in words, text


def test_a_card_holds_all_that_its_reader_needs(sick: str) -> None:
    card = sick[sick.index('id="GS101:layers.0"') : sick.index('id="GS505"')]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", card))
    for text in (
        "critical", "GS101", "vanishing-gradient", "strong", "examples/vanishing_sigmoid.py:16",
        "from step 0 to the last step, 199", "1,600× below it", "Why it matters here",
        "Likely causes, most likely first", "may change results",
        "Tried: helped, loss 0.58 to 0.71 against 2.3 to 2.31 without it, 3 seeds of 60 steps.",
        "Not tried.", "layers.append(nn.BatchNorm1d(width))", "When this is wrong",
        "gradscope rules GS101",
    ):  # fmt: skip
        assert text in words, text
    assert 'data-copy="ignore = [&#34;GS101:layers.0&#34;]"' in card
    assert "<polyline" in card


def test_ids_are_unique_and_links_lead_somewhere(sick: str) -> None:
    page = _Page(sick)
    assert len(page.ids) == len(set(page.ids))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids), inner - set(page.ids)


def test_two_findings_of_one_rule_about_one_layer_get_two_ids() -> None:
    first, *_ = findings()
    html = render(replace(diagnosis(), findings=(first, replace(first, kind="other"))))
    page = _Page(html)
    assert "GS101:layers.0" in page.ids
    assert "GS101:layers.0:2" in page.ids


def test_nothing_is_fetched(sick: str) -> None:
    page = _Page(sick)
    loads = [v for k, v in page.attributes if k in ("src", "srcset", "data", "poster", "action")]
    assert loads == []
    assert "default-src 'none'" in sick
    styles = "".join(re.findall(r"<style>(.*?)</style>", sick, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


def test_the_data_in_the_page_are_the_json_format(sick: str) -> None:
    # the sample has no absolute path, so nothing was shortened
    assert json.loads(block(sick, "gradscope-data")) == json_format.document(diagnosis())


def test_the_figures_in_the_page_are_plain_json(sick: str) -> None:
    raw = gzip.decompress(base64.b64decode(block(sick, "gradscope-figures")))
    figures = json.loads(raw, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert list(figures) == ["map", "depth", "gain", "curves", "updates", "formats"]
    assert figures["map"]["data"]["layers"][0] == "layers.0"


def test_the_same_diagnosis_gives_the_same_page(sick: str) -> None:
    assert render(diagnosis()) == sick


def test_names_cannot_leave_their_place() -> None:
    bad = "</script><!--<img src=x onerror=alert(1)>"
    html = render(diagnosis(Shape(layers=4, names=(bad, "b", "c", "d"))))
    assert "<img" not in html
    assert "<!--" not in html
    starts, ends = html.count("<script"), html.count("</script>")
    assert (starts, ends) == (5, 5)
    data = json.loads(block(html, "gradscope-data"))
    assert data["findings"][0]["modules"] == [bad]


def test_absolute_paths_and_the_machine_stay_out() -> None:
    secret = "/home/somebody/secret-project"
    first, *others = findings()
    fix = replace(first.fixes[0], diff=first.fixes[0].diff.replace(FILE, f"{secret}/src/net.py"))
    first = replace(first, location=Location(f"{secret}/src/net.py", 3), fixes=(fix,),
                    why=f"see {secret}/src/net.py:3")  # fmt: skip
    made = replace(
        diagnosis(limits=[f"could not read {secret}/runs/a"], host="secret-host"),
        findings=(first, *others),
        target=f"{secret}/src/net.py",
        reproduce=f"gradscope check {secret}/src/net.py",
    )
    html = render(made)
    assert "somebody" not in html
    assert "secret-project" not in html
    assert "secret-host" not in html
    assert "…/src/net.py:3" in html


def test_a_path_below_the_working_directory_becomes_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    html = render(replace(diagnosis(), target=str(tmp_path / "models" / "net.py")))
    assert '<span class="mono">models/net.py</span>' in html


def test_a_healthy_run_says_what_was_nearest_to_its_limit() -> None:
    html = render(healthy())
    assert "<h1>No problem found in 3 checks over 200 steps.</h1>" in html
    assert "Closest to its limit:" in html
    assert "largest gain of a layer 0.71, limit 10" in html


def test_what_was_not_recorded_is_said_and_not_passed() -> None:
    html = render(empty())
    assert "Nothing could be judged" in html
    for text in (
        "No gradient was recorded", "Gradients inside the model were not recorded",
        "Neither a loss nor a gradient norm was recorded", "No update was recorded",
        "No activation&#39;s units were recorded", "No histogram of the gradients",
        "No parameters were recorded",
    ):  # fmt: skip
        assert text in html, text
    assert "no problem" not in html.lower()
    # without a figure the page does not carry what draws them
    assert block(html, "gradscope-plotly") == ""


def test_conditions_of_the_result_stand_under_the_verdict() -> None:
    made = diagnosis(
        interrupted="interrupted at step 17", limits=["compiled model: modules not seen"]
    )
    html = render(replace(made, errors=("GS102 failed: KeyError",), failed="ValueError in loss"))
    head = html[html.index('<section id="verdict"') : html.index('<section id="findings"')]
    for text in (
        "Interrupted at step 17.", "Compiled model: modules not seen.", "GS102 failed: KeyError.",
        "The training stopped early: ValueError in loss.",
    ):  # fmt: skip
        assert text in head, text


@pytest.mark.parametrize(
    "shape",
    [
        Shape(layers=3, steps=1),
        Shape(layers=3, steps=5, nan_from=0),
        Shape(layers=3, steps=40, frozen=(0, 1, 2, 3)),
        Shape(layers=4, steps=50, every=7, clip=None),
        Shape(layers=3, steps=12, decades=0.0),
        Shape(layers=40, steps=12, decades=1.0),
    ],
    ids=["one-step", "all-nan", "all-frozen", "every-seventh", "flat", "underflow"],
)
def test_odd_runs_make_a_page(shape: Shape) -> None:
    html = render(diagnosis(shape))
    assert html.count('<figure class="figure"') == 8
    assert not re.search(r">(nan|None|inf)<", html)


def test_a_run_of_100_layers_and_500_steps_stays_small() -> None:
    html = render(diagnosis(Shape(layers=99, steps=500, decades=0.08)))
    assert len(html.encode("utf-8")) <= BUDGET


def test_the_bundle_is_the_one_that_is_documented_and_fits_plotly_for_python() -> None:
    assets = resources.files("gradscope.report") / "assets"
    packed = (assets / page_assets.PLOTLY_BUNDLE).read_bytes()
    readme = (assets / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(packed).hexdigest() in readme
    source = gzip.decompress(packed)
    assert hashlib.sha256(source).hexdigest() in readme
    assert f"v{page_assets.PLOTLY_VERSION}".encode() in source[:400]
    assert b"Licensed under the MIT license" in source[:400]
    own = plotly.offline.get_plotlyjs_version()
    assert own.split(".")[0] == page_assets.PLOTLY_VERSION.split(".")[0]


def test_a_recording_alone_makes_the_page_that_its_live_twin_made() -> None:
    shape = Shape(layers=4, steps=20)
    made = diagnosis(shape)
    assert render(replace(made, recording=recording(shape))) == render(made)


def test_the_birth_of_a_nan_is_told() -> None:
    first, *_ = findings()
    origin = Origin(
        "log", "forward", "ink", Location(FILE, 17), tuple(range(10)), "log of 0 is -Inf"
    )
    html = render(replace(diagnosis(), findings=(replace(first, code="GS201", origin=origin),)))
    birth = html[html.index("Where it was born") : html.index("Why it matters here")]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", birth))
    assert "Born in log Phase forward Module ink" in words
    assert "0, 1, 2, 3, 4, 5, 6, 7 and 2 more" in words
    assert "Log of 0 is -Inf." in words


def test_a_run_of_1000_layers_and_10000_steps_stays_below_its_budget() -> None:
    made = diagnosis(Shape(layers=999, steps=10_000, every=5_000, decades=0.008, sampled=300))
    html = render(made)
    assert len(html.encode("utf-8")) <= LARGE_BUDGET
    words = re.sub(r"\s+", " ", html)
    assert "300 sampled steps are drawn as 240 columns, each the median of up to 2 steps" in words
    assert "10,000 steps are drawn as 480 points" in words
    assert "1,000 layers are drawn as 59 blocks" in words
    raw = gzip.decompress(base64.b64decode(block(html, "gradscope-figures")))
    drawn = json.loads(raw)["map"]["data"]
    assert [len(drawn["cells"]), len(drawn["cells"][0])] == [1000, 240]


def test_a_layer_called_0_is_shown_with_its_class_and_keeps_its_key() -> None:
    first, *others = findings(Shape(layers=4, names=("0", "1", "2", "3")))
    first = replace(first, summary="The gradient vanishes at `0`; `7` is no layer")
    made = replace(
        diagnosis(Shape(layers=4, names=("0", "1", "2", "3"))), findings=(first, *others)
    )
    html = render(made)
    assert "<h1>The gradient vanishes at <code>0 Linear</code>; <code>7</code> is no layer." in html
    assert 'id="GS101:0"' in html
    assert "ignore = [&#34;GS101:0&#34;]" in html
    assert json.loads(block(html, "gradscope-data"))["findings"][0]["summary"] == first.summary


def test_do_first_leads_to_the_line_that_changes() -> None:
    # the layer is built in line 16 (the card's line); the diff's first changed line is 14 + 2
    first, *others = findings()
    moved = replace(first, location=Location(FILE, 3))
    head = render(replace(diagnosis(), findings=(moved, *others)))
    head = head[head.index('class="do-first"') : head.index('class="strip"')]
    assert 'Edit <span class="mono">examples/vanishing_sigmoid.py:16</span>' in head


def test_the_confidence_of_an_estimate_says_what_it_rests_on(sick: str) -> None:
    assert (
        "(here 200 of 200 sampled steps, first layer against the head 1,600× below its limit)"
        in (sick)
    )
    certain = sick[sick.index('id="GS505"') : sick.index('id="GS404')]
    assert "a fact, not an estimate.</dd>" in certain
