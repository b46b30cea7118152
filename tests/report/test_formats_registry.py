import subprocess
import sys

import pytest
from diagnoses import VANISHING, diagnoses, healthy, hostile, sick
from hypothesis import HealthCheck, given, settings

from gradscope.errors import UsageError
from gradscope.report.formats import FORMATS, format_for, render
from gradscope.report.screen import Screen

TEXT = [known.name for known in FORMATS if known.name != "html"]


def test_the_names_of_the_contract():
    assert [known.name for known in FORMATS] == [
        "full", "concise", "json", "sarif", "junit", "github", "markdown", "html",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("made", [sick, healthy, hostile])
def test_every_format_is_writable_text_that_ends_its_last_line(name, made):
    text = render(made(), name)
    assert text.encode("utf-8")
    assert text.endswith("\n")
    assert render(made(), name) == text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("out.json", "json"),
        ("a.b/out.SARIF", "sarif"),
        ("out.xml", "junit"),
        ("out.md", "markdown"),
        ("out.html", "html"),
        ("out.txt", "full"),
    ],
)
def test_a_suffix_asks_for_a_format(path, name):
    assert format_for(path) == name


@pytest.mark.parametrize("path", ["out", "out.pdf", "out.", ".json"])
def test_an_unknown_suffix_lists_the_legal_ones(path):
    with pytest.raises(UsageError) as caught:
        format_for(path)
    message = str(caught.value)
    assert path in message
    for suffix in (".json", ".sarif", ".xml", ".md", ".html", ".txt"):
        assert suffix in message
    assert caught.value.exit_code == 2


def test_an_unknown_format_lists_the_legal_ones():
    with pytest.raises(UsageError, match="there is no format 'yaml'") as caught:
        render(sick(), "yaml")
    assert all(known.name in str(caught.value) for known in FORMATS)


def test_only_the_full_text_looks_at_the_screen():
    screen = Screen(colour=True)
    assert "\x1b[" in render(sick(), "full", screen=screen)
    assert render(sick(), "concise", screen=screen) == render(sick(), "concise")


def test_concise_is_one_line_for_each_finding():
    lines = render(sick(), "concise").splitlines()
    assert len(lines) == len(sick().findings)
    assert lines[0] == (
        "model.py:7: GS101 vanishing-gradient (critical, strong) encoder.0: "
        "The gradient vanishes on its way to `encoder.0`."
    )
    assert lines[3].startswith("model.py: GS502 clipping-binds-always (warning, strong)")
    assert render(healthy(), "concise").startswith("no problem found in 3 checks")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_concise_keeps_hostile_names_on_their_line(diagnosis):
    assert render(diagnosis, "concise").count("\n") == max(1, len(diagnosis.findings))


def test_plotly_is_loaded_only_for_the_page():
    code = "import sys, gradscope.report.formats; print({'plotly', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_format_names_the_layer_and_the_rule():
    for name in TEXT:
        text = render(sick(findings=(VANISHING,)), name)
        assert "GS101" in text
        assert "encoder.0" in text
