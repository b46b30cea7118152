"""Every rule's page: its headings, and its two scripts, run as a person would run them."""

import re

import pytest

import gradscope
from gradscope.rules import RULES

HEADINGS = [
    "What it measures",
    "Why it hurts",
    "Broken example",
    "Mended example",
    "How it decides",
    "When it is wrong",
    "References",
]


def script(rule, heading):
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```", rule.page(), re.M | re.S)
    assert found, f"{rule.code}: no script under {heading!r}"
    return found.group(1)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_headings_are_fixed(rule):
    page = rule.page()
    assert page.startswith(f"# {rule.code} {rule.name}\n")
    assert re.findall(r"^## (.*)$", page, re.M) == HEADINGS


@pytest.mark.parametrize("heading", ["Broken example", "Mended example"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_scripts(rule, heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"{rule.name.replace('-', '_')}_{heading.split()[0].lower()}.py"
    file.write_text(script(rule, heading))
    diagnosis = gradscope.check(file, steps=100, run_dir=tmp_path / "run")
    assert diagnosis.errors == ()
    codes = [finding.code for finding in diagnosis.findings]
    if heading == "Broken example":
        assert codes == [rule.code]
        assert diagnosis.exit_code == 1
    else:
        assert codes == []
        assert diagnosis.exit_code == 0
