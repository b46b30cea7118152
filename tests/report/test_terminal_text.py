import io
import re
from pathlib import Path

import pytest
from diagnoses import (
    CLIPPING,
    NON_FINITE,
    UNDECIDED,
    VANISHING,
    diagnoses,
    healthy,
    hostile,
    recording,
    sick,
)
from hypothesis import HealthCheck, given, settings
from rich.cells import cell_len

from gradscope.diagnose.finding import Finding, Fix, Location, Trial
from gradscope.report.screen import Screen, screen_of
from gradscope.report.terminal import render

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def only(finding, **changes):
    return render(sick(findings=(finding,)), **changes).split("\n")


def test_a_finding_reads_like_a_compilers_message():
    shown = only(VANISHING)
    assert shown[:8] == [
        "error[GS101]: The gradient vanishes on its way to `encoder.0`",
        " --> model.py:7  encoder.0  (steps 0-199)",
        "  |",
        "7 |             nn.Linear(64, 64), nn.Sigmoid(),",
        "  |             ^^^^^^^^^^^^^^^^^",
        "  |",
        "  = measured: gain 1.6e-9 (limit 1e-6, 620x below); RMS of the gradient 3.1e-11",
        "  = note: At this learning rate the weight moves by 3e-14 in a step: it will not train.",
    ]
    assert "  = note: most likely cause: saturating sigmoid (71 % of its units)" in shown
    assert "  = note: 2 more layers with the same cause: encoder.2, head" in shown
    assert "  = rule: vanishing-gradient, critical; confidence: strong" in shown


def test_the_first_fix_shows_its_hunk_and_what_the_trial_gave():
    shown = only(VANISHING)
    start = next(i for i, line in enumerate(shown) if line.startswith("help:"))
    assert "\n".join(shown[start : start + 2]).replace("\n      ", " ") == (
        "help: replace the sigmoid by ReLU (may change results; tried: helped, "
        "loss 0.41 to 0.52 against 2.29 to 2.31 without it, 3 seeds of 60 steps)"
    )
    assert shown[start + 2 : start + 9] == [
        "  |",
        "6 |         self.encoder = nn.Sequential(",
        "7 -             nn.Linear(64, 64), nn.Sigmoid(),",
        "7 +             nn.Linear(64, 64), nn.ReLU(),",
        "8 |             nn.Linear(64, 64),",
        "  |",
        "or: put a BatchNorm1d after `encoder.0` (not tried)",
    ]


def test_a_finding_without_a_line_names_its_place_and_the_operations_line():
    shown = only(NON_FINITE)
    assert shown[0] == "error[GS201]: log makes -inf in the loss"
    assert shown[1] == "  --> model.py:11  Net (the whole model)  (step 17)"
    assert any("origin: log, forward at model.py:11" in line for line in shown)
    assert any("largest value Inf (limit 65,504)" in line for line in shown)
    assert any(line.strip() == "| torch.log(p + EPSILON)" for line in shown)
    assert any("tried: failed" in line for line in shown)


def test_a_finding_about_the_loop():
    shown = only(CLIPPING)
    assert shown[:2] == [
        "warning[GS502]: Every step is clipped",
        " --> the training loop  (steps 0-199)",
    ]


def test_the_last_lines_carry_counts_cost_url_and_the_way_on():
    end = render(sick(), report=Path("/runs/a b.html")).rstrip("\n").split("\n")[-1]
    assert end == "report: file:///runs/a%20b.html       explain: gradscope rules GS101"
    text = " ".join(render(sick()).split())
    assert (
        "3 critical, 1 warning, 1 note; 3 passed, 1 not applicable, 1 undecided "
        "(200 steps, 25 sampled, 1 % overhead)" in text
    )


def test_a_healthy_run_shows_that_silence_was_earned():
    text = " ".join(render(healthy()).split())
    assert (
        "no problem found in 3 checks over 200 steps; closest to its limit: GS505 "
        "loss-not-decreasing, 1.6x inside its limit (loss fell by 0.2, limit 0.1)" in text
    )
    assert "error[" not in text
    assert "explain:" not in text


def test_a_run_in_which_nothing_could_be_judged_is_not_called_healthy():
    text = render(healthy(passed=(), undecided=UNDECIDED))
    assert "nothing could be judged over 200 steps" in text
    assert "no problem" not in text
    assert "undecided: GS301 dead-units: 20 sampled batches; 3 were recorded" in text


def test_what_limits_the_result_is_said():
    text = render(
        healthy(
            recording=recording(17, run={"interrupted": "interrupted at step 17"}),
            errors=("GS999 raised KeyError",),
            failed="RuntimeError: out of memory",
        )
    )
    assert "assumed: loss: cross-entropy" in text
    assert "limit: compiled model: modules not seen" in text
    assert "ended early: interrupted at step 17" in text
    assert "rule failed: GS999 raised KeyError" in text
    assert "the training stopped early: RuntimeError: out of memory" in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("helped", "tried: helped"),
        ("no-effect", "tried: no effect, 2 seeds of 9 steps, noise"),
        ("hurt", "tried: made it worse"),
        ("failed", "tried: failed"),
        ("not-tried", "not tried, 2 seeds of 9 steps, noise"),
    ],
)
def test_what_a_trial_said(status, words):
    fix = Fix("f", "do it", "", None, "idea", trial=Trial(status, "noise", 2, 9))
    assert words in render(sick(findings=(VANISHING.with_fixes((fix,)),)))


def test_wide_letters_and_tabs_do_not_shift_the_carets():
    source = "if True:\n\tself.層 = 'größe'; self.a = nn.Sigmoid()\n"
    made = recording(sources={"model.py": source})
    finding = Finding(
        "GS1", "n", "note", "strong", "s", ("encoder.1",), location=Location("model.py", 2)
    )
    shown = render(sick(recording=made, findings=(finding,))).split("\n")
    line = next(line for line in shown if line.startswith("2 |"))
    carets = next(line for line in shown if "^" in line)
    start, width = carets.index("^"), carets.count("^")
    before = line[: line.index("nn.Sigmoid()")]
    assert start == cell_len(before)
    assert width == len("nn.Sigmoid()")


def test_a_long_source_line_is_cut_around_the_carets():
    source = "x = [" + "0, " * 100 + "nn.Sigmoid(), " + "0, " * 100 + "]\n"
    made = recording(sources={"model.py": source})
    finding = Finding(
        "GS1", "n", "note", "strong", "s", ("encoder.1",), location=Location("model.py", 1)
    )
    shown = render(sick(recording=made, findings=(finding,)), screen=Screen(width=60)).split("\n")
    line = next(line for line in shown if line.startswith("1 |"))
    carets = next(line for line in shown if "^" in line)
    assert len(line) <= 60
    assert line[carets.index("^") : carets.rindex("^") + 1] == "nn.Sigmoid()"


def test_a_narrow_screen_folds_prose_only():
    text = render(sick(findings=(VANISHING,)), screen=Screen(width=44), report=Path("/r.html"))
    measured = text[text.index("= measured:") : text.index("= note:")]
    assert all(len(line) <= 44 for line in measured.split("\n"))
    assert "report: file:///r.html       explain: gradscope rules GS101\n" in text
    assert "7 +             nn.Linear(64, 64), nn.ReLU()," in text


def test_colour_adds_nothing_but_colour():
    coloured = render(sick(), screen=Screen(colour=True))
    assert "\x1b[" in coloured
    assert ANSI.sub("", coloured) == render(sick())


def test_colour_does_not_depend_on_the_environment(monkeypatch):
    expected = render(sick(), screen=Screen(colour=True))
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "10"}.items():
        monkeypatch.setenv(name, value)
    assert render(sick(), screen=Screen(colour=True)) == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_can_write_it(encoding):
    for made in (sick(), healthy(), hostile()):
        assert render(made, screen=Screen(encoding=encoding)).encode(encoding)
    seen = render(sick(), screen=Screen(encoding=encoding))
    assert ("gr\\xf6\\xdfe" if encoding == "ascii" else "größe") in seen


def test_glyphs_become_ascii_where_there_is_a_custom():
    finding = Finding("GS1", "n", "note", "strong", "a → b ≥ 2 × c… 層")
    shown = render(sick(findings=(finding,)), screen=Screen(encoding="ascii"))
    assert shown.startswith("note[GS1]: a -> b >= 2 x c... \\u5c64\n")


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_names_reach_no_terminal(colour):
    text = ANSI.sub("", render(hostile(), screen=Screen(colour=colour)))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\x80-\x9f\u202e\ud800-\udfff]", text)
    assert "[bold]markup[/bold]" in text
    assert r"\x1b[31mred" in text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_any_diagnosis_can_be_shown_and_is_shown_the_same_twice(diagnosis):
    text = render(diagnosis)
    assert text.encode("utf-8")
    assert text.endswith("\n")
    assert render(diagnosis) == text
    assert len(re.findall(r"^(?:error|warning|note)\[", text, re.M)) == len(diagnosis.findings)


class Stream(io.StringIO):
    def __init__(self, terminal, encoding="utf-8"):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self):
        return self._terminal

    @property
    def encoding(self):
        return self._encoding


@pytest.mark.parametrize(
    ("terminal", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "0"}, False),
        (False, {"CLICOLOR_FORCE": "1"}, True),
        (False, {"CLICOLOR_FORCE": "0"}, False),
        (False, {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_when_a_stream_gets_colour(terminal, environ, colour):
    assert screen_of(Stream(terminal), environ).colour is colour


def test_the_width_is_the_terminals_within_bounds_and_100_for_a_file():
    assert screen_of(Stream(True), {"COLUMNS": "72"}).width == 72
    assert screen_of(Stream(True), {"COLUMNS": "20"}).width == 40
    assert screen_of(Stream(True), {"COLUMNS": "400"}).width == 120
    assert screen_of(Stream(False), {"COLUMNS": "72"}).width == 100
    assert screen_of(Stream(False, "ascii"), {}).encoding == "ascii"
