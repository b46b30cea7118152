"""The pages in ``reports/``: one for each example, small, of this version, with its finding."""

import json
import re
from pathlib import Path

import pytest
from test_examples import SICK, WELL

import gradscope
from gradscope.report import page_assets, theme

ROOT = Path(__file__).parents[2]
BUDGET = 1_000_000
PAGES = sorted((ROOT / "reports").glob("*.html"))
"""All pages; those of examples are named after them."""


def data(page):
    """The JSON result that the page carries."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*id="gradscope-data"[^>]*>(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_every_example_has_its_page_and_every_page_its_example():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    traced = {f"trace_{path.stem}" for path in (ROOT / "examples" / "trace").glob("*.py")}
    assert {page.stem for page in PAGES} == examples | traced | {"compare_digits"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_small_and_of_this_version(page):
    assert page.stat().st_size <= BUDGET
    text = page.read_text(encoding="utf-8")
    assert f"Made by gradscope {gradscope.__version__}." in text
    assert str(ROOT) not in text
    assert "The run ended early" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_the_look_and_the_scripts_of_today(page):
    """A page that was made before the report changed shows what the report no longer is."""
    text = page.read_text(encoding="utf-8")
    assert f"<style>{theme.style_sheet()}{page_assets.styles()}</style>" in text
    assert f"<script>{page_assets.scripts()}</script>" in text


@pytest.mark.parametrize("name", SICK)
def test_the_page_of_a_sick_example_shows_its_code_first(name):
    code, module = SICK[name]
    first = data(ROOT / "reports" / f"{name}.html")["findings"][0]
    path = first["modules"][0]
    assert first["code"] == code
    assert path == module or path.startswith(f"{module}.")


@pytest.mark.parametrize("name", WELL)
def test_the_page_of_a_well_example_shows_no_harm(name):
    findings = data(ROOT / "reports" / f"{name}.html")["findings"]
    assert [f["code"] for f in findings if f["severity"] != "note"] == []


@pytest.mark.parametrize("name", SICK)
def test_the_changes_on_a_page_fit_the_example_as_it_is_now(name):
    """A page that was made before its example was edited proposes lines that are not there."""
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    diffs = [
        fix["diff"]
        for finding in data(ROOT / "reports" / f"{name}.html")["findings"]
        for fix in finding["fixes"]
        if fix["diff"]
    ]
    for diff in diffs:
        for hunk in re.split(r"^@@ ", diff, flags=re.MULTILINE)[1:]:
            head, *lines = hunk.splitlines()
            start = int(re.match(r"-(\d+)", head)[1])
            old = [line[1:] for line in lines if line[:1] in (" ", "-")]
            assert source[start - 1 : start - 1 + len(old)] == old
