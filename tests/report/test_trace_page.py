"""The trace as a page and as text: what it says stands in the HTML itself."""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import Opener, chromium, missing, opener, violations
from torch import nn

import gradscope
from gradscope.anatomy.facts import Anatomy, Identity
from gradscope.report import pixels, trace_checks, trace_formats, trace_json

SECTIONS = ("Forward", "Prediction", "Loss", "Chain rule", "Inputs", "Update")


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    batch = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    return gradscope.trace(
        model, batch, loss=loss, optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.05),
        integrated_gradients=True, class_names=["<b>cat</b>", "dog", "owl"],
    ).anatomy  # fmt: skip


@pytest.fixture(scope="module")
def page(anatomy: Anatomy) -> str:
    return trace_formats.render(anatomy, "html")


def test_the_sections_have_these_names_and_this_order_in_every_text(anatomy: Anatomy) -> None:
    for format in ("html", "full", "markdown"):
        text = trace_formats.render(anatomy, format)
        heads = {
            "html": [f"<h2>{name}</h2>" for name in SECTIONS],
            "full": [f"\n{name}\n" for name in SECTIONS],
            "markdown": [f"### {name}\n" for name in SECTIONS],
        }[format]
        places = [text.find(head) for head in heads]
        assert -1 not in places, format
        assert places == sorted(places), format


def test_all_that_it_says_stands_in_the_markup(anatomy: Anatomy, page: str) -> None:
    body = page[page.index("<main>") : page.index("</main>")]
    for sentence in (*anatomy.chain.words, *anatomy.update.words, *anatomy.loss.words):
        start = sentence.replace("`", "").split("×")[0][:40]
        plain = body.replace("<code>", "").replace("</code>", "").replace("&#39;", "'")
        assert start in plain, sentence
    assert body.count("data:image/png;base64,") == 4 * len(anatomy.inputs.attributions)


def test_names_from_the_users_code_are_no_markup(page: str) -> None:
    assert "<b>cat</b>" not in page
    assert "&lt;b&gt;cat" in page


def test_json_reads_back_to_the_same_trace(anatomy: Anatomy) -> None:
    text = trace_formats.render(anatomy, "json")
    assert "NaN" not in text.replace('"NaN"', "")
    again = trace_json.read(json.loads(text))
    # NaN is not equal to itself: what is compared is the text that comes out
    assert trace_formats.render(again, "json") == text
    assert trace_formats.render(again, "html") == trace_formats.render(anatomy, "html")


@pytest.mark.parametrize("damage", [None, {}, {"schema_version": 2}, {"schema_version": 1}, []])
def test_what_is_no_trace_is_refused(damage: object) -> None:
    with pytest.raises(ValueError, match="trace"):
        trace_json.read(damage)


def test_a_failing_identity_is_an_error_in_every_format_for_machines(anatomy: Anatomy) -> None:
    broken = replace(anatomy.identities[0], right=2 * anatomy.identities[0].right, error=0.5)
    wrong = replace(anatomy, identities=(broken, *anatomy.identities[1:]))
    assert 'failures="1"' in trace_formats.render(wrong, "junit")
    assert trace_formats.render(wrong, "github").startswith("::error")
    results = json.loads(trace_formats.render(wrong, "sarif"))["runs"][0]["results"]
    assert [result["level"] for result in results] == ["error"]
    assert "DISAGREE" in trace_formats.render(wrong, "full")
    assert 'failures="0"' in trace_formats.render(anatomy, "junit")


def test_two_tiny_numbers_that_rounding_explains_do_not_read_as_a_contradiction() -> None:
    tiny = Identity("sum", 2.9e-8, -1.5e-8, 1.52, 0.05, "They are equal.", rounding=1.4e-7)
    assert tiny.holds
    said = trace_checks.sentence(tiny)
    assert said.endswith("agree: they differ by 4.4e-8; rounding explains up to 1.4e-7")
    far = replace(tiny, rounding=1e-9)
    assert "DISAGREE: they differ by 152 % (limit 5 %)" in trace_checks.sentence(far)


def test_png_is_read_back_by_its_own_format() -> None:
    made = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    raw = pixels.png(made)
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", raw[16:26])
    assert (width, height, depth, kind) == (3, 2, 8, 6)
    at = raw.index(b"IDAT")
    length = struct.unpack(">I", raw[at - 4 : at])[0]
    data = zlib.decompress(raw[at + 4 : at + 4 + length])
    rows = [data[i * 13 + 1 : (i + 1) * 13] for i in range(2)]
    assert np.array_equal(np.frombuffer(b"".join(rows), np.uint8).reshape(2, 3, 4), made)


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    with chromium() as browser, opener(browser, tmp_path_factory.mktemp("trace")) as open_one:
        yield open_one


@pytest.mark.browser
@pytest.mark.skipif(missing(), reason="Chromium is not installed")
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(open_page: Opener, page: str, width: int, scheme: str) -> None:
    opened = open_page(page, width=width, color_scheme=scheme)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(opened.page) == []
    assert opened.requests == [opened.path.as_uri()] or all(
        url.startswith(("file:", "data:")) for url in opened.requests
    )


@pytest.mark.browser
@pytest.mark.skipif(missing(), reason="Chromium is not installed")
def test_it_reads_without_a_script(open_page: Opener, page: str) -> None:
    opened = open_page(page, java_script_enabled=False)
    shown = opened.page.inner_text("main")
    for name in SECTIONS:
        assert name in shown
    assert "the gradient is multiplied by" in shown
    assert "goes from" in shown
    assert opened.page.locator("main img").count() == 8


@pytest.mark.browser
@pytest.mark.skipif(missing(), reason="Chromium is not installed")
def test_on_a_phone_nothing_covers_or_hides_what_matters(
    open_page: Opener, anatomy: Anatomy
) -> None:
    command = "gradscope trace examples/trace/digit_sick.py --steps 300 --integrated-gradients"
    html = trace_formats.render(replace(anatomy, reproduce=command), "html")
    page = open_page(html, width=400).page
    button = page.locator("#reproduce .copy").bounding_box()
    text = page.locator("#reproduce pre").bounding_box()
    assert button is not None
    assert text is not None
    assert text["x"] + text["width"] <= button["x"], "the button lies on the command"
    for table in ("#prediction .scroll", "#loss .scroll"):
        assert page.locator(table).evaluate("e => e.scrollWidth <= e.clientWidth"), table
    badges = page.locator("#prediction tbody .badge").all_inner_texts()
    assert {"truth", "answer"} == {text.strip() for text in badges}
