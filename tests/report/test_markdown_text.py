import re
from html.parser import HTMLParser

import pytest
from diagnoses import BACKWARD, CLIPPING, HOSTILE, VANISHING, diagnoses, healthy, hostile, sick
from hypothesis import HealthCheck, given, settings
from markdown_it import MarkdownIt

from gradscope.diagnose.finding import Fix
from gradscope.report.markdown import MARK, render

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


def tokens(text):
    for token in READER.parse(text):
        yield token
        yield from token.children or ()


def check(text):
    """What another reader of Markdown sees: our own tags, no link, no image, a whole table."""
    for token in tokens(text):
        assert token.type not in ("link_open", "image", "em_open", "s_open")
        if token.type in ("html_block", "html_inline"):
            assert {tag for tag, attrs in Tags(token.content).found} <= {"details", "summary"}
            assert all(not attrs for _, attrs in Tags(token.content).found)


def cells(text):
    rows, row = [], None
    for token in READER.parse(text):
        if token.type == "tr_open":
            row = []
        elif token.type == "inline" and row is not None:
            row.append(token)
        elif token.type == "tr_close":
            rows.append(row)
            row = None
    return rows


def test_hostile_names_do_nothing():
    text = render(hostile())
    check(text)
    rows = cells(text)
    assert len(rows) == 1 + len(HOSTILE)
    assert {len(row) for row in rows} == {5}
    pipes = next(row for row in rows if "a|b`c``d" in row[1].content.replace("\\", ""))
    assert [token.content for token in pipes[2].children] == ["a|b`c``d"]
    bare = re.sub(r"(`+).*?\1", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    assert not re.search(r"@\w", bare)
    assert not re.search(r"#\d", bare)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_any_diagnosis(diagnosis):
    text = render(diagnosis)
    assert text.encode("utf-8")
    assert text.startswith(MARK)
    check(text)


def test_the_verdict_stands_first_and_the_rest_is_folded():
    text = render(sick())
    head = text.split("\n")
    assert head[1] == "### gradscope check of `model.py`"
    assert head[3] == "**The gradient vanishes on its way to `encoder.0`.**"
    assert head[5].startswith("3 critical, 1 warning, 1 note; 3 passed, 1 not applicable")
    assert text.count("<details>") == text.count("</details>") == len(sick().findings) + 3
    assert "| ● critical | GS101 vanishing-gradient | `encoder.0` | step 0 | `model.py:7` |" in head
    assert "<summary>GS101 vanishing-gradient: The gradient vanishes on its way to enc" in text


def test_a_fix_is_a_diff_that_reads_back():
    fences = [t for t in tokens(render(sick(findings=(VANISHING,)))) if t.type == "fence"]
    assert [fence.info for fence in fences] == ["diff"]
    assert fences[0].content.rstrip("\n") == VANISHING.fixes[0].diff.rstrip("\n")


def test_a_diff_that_holds_a_fence_stays_inside_its_own():
    diff = "@@ -1 +1 @@\n-```\n+````python\n"
    fix = Fix("f", "t", "", diff, "exact")
    text = render(sick(findings=(CLIPPING.with_fixes((fix,)),)))
    fences = [token for token in tokens(text) if token.type == "fence"]
    assert [fence.content for fence in fences] == [diff]


def test_a_healthy_run_has_no_table():
    text = render(healthy())
    assert "**No problem found in 3 checks over 200 steps; closest to its limit: GS505" in text
    assert cells(text) == []
    assert "GS102 exploding-gradient: largest gain 1.6, limit 1,000 (640x inside its limit)" in text


@pytest.mark.parametrize("made", [sick, healthy])
def test_what_limits_the_result_is_said(made):
    text = render(made(failed="ValueError: x", errors=("GS9 raised",)))
    assert "raining stopped early: ValueError: x" in text
    assert "- GS9 raised" in text
    assert "- compiled model: modules not seen" in text
    assert "Reproduce: `gradscope check model.py --seed 0`" in text


def test_a_comparison_at_one_point_has_no_step():
    heads, *rows = cells(render(sick()))
    assert [cell.content for cell in heads] == ["", "rule", "layer", "since", "line"]
    (row,) = (row for row in rows if row[1].content == "GS601 wrong-backward")
    assert row[3].content == ""
    alone = render(sick(findings=(BACKWARD,), command="gradcheck"))
    assert [cell.content for cell in cells(alone)[0]] == ["", "rule", "layer", "line"]
    assert {len(row) for row in cells(alone)} == {4}
    shown = alone[: alone.index(" passed</summary>")]
    assert not re.search(r"\bsteps?\b", shown)
    assert "- confidence: certain" in shown
