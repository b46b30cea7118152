import re

from diagnoses import HOSTILE, NON_FINITE, VANISHING, diagnoses, healthy, hostile, sick
from hypothesis import HealthCheck, given, settings

from gradscope.report.github import render

COMMAND = re.compile(r"^::(error|warning|notice) ([^:]*)::(.*)$")


def read(text):
    """The annotations as the runner reads them: one command a line, properties split at commas."""
    found = []
    for line in text.removesuffix("\n").split("\n"):
        level, settings_, message = COMMAND.match(line).groups()
        pairs = dict(pair.split("=", 1) for pair in settings_.split(","))
        for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
            pairs = {key: value.replace(code, character) for key, value in pairs.items()}
            message = message.replace(code, character)
        pairs = {key: value.replace("%25", "%") for key, value in pairs.items()}
        found.append((level, pairs, message.replace("%25", "%")))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses())
def test_one_annotation_for_each_finding(diagnosis):
    expected = len(diagnosis.findings) + bool(diagnosis.failed)
    assert len(read(render(diagnosis))) == max(1, expected)


def test_hostile_names_start_no_command_of_their_own():
    found = read(render(hostile()))
    assert len(found) == len(HOSTILE)
    assert all(set(pairs) <= {"file", "line", "title"} for _, pairs, _ in found)
    percent = next(pairs for _, pairs, _ in found if pairs["file"].startswith("100"))
    assert percent["file"] == "100%,a:b=c"


def test_an_annotation():
    level, pairs, message = read(render(sick(findings=(VANISHING,))))[0]
    assert level == "error"
    assert pairs == {"file": "model.py", "line": "7", "title": "gradscope GS101 vanishing-gradient"}
    assert message.split("\n") == [
        "The gradient vanishes on its way to `encoder.0`.",
        "gain 1.6e-9 (limit 1e-6, 620x below)",
        "RMS of the gradient 3.1e-11",
        "help: replace the sigmoid by ReLU (tried: helped, loss 0.41 to 0.52 against 2.29 to 2.31 "
        "without it, 3 seeds of 60 steps)",
    ]


def test_levels_and_the_line_of_the_operation_at_fault():
    found = read(render(sick()))
    assert [level for level, *_ in found] == ["error"] * 3 + ["warning", "notice"]
    assert "file" not in found[3][1]
    assert read(render(sick(findings=(NON_FINITE,))))[0][1]["line"] == "11"


def test_a_run_without_findings():
    (level, pairs, message), *rest = read(render(healthy()))
    assert (level, pairs) == ("notice", {"title": "gradscope"})
    assert message.startswith("no problem found in 3 checks over 200 steps")
    assert rest == []
    assert read(render(healthy(failed="ValueError: x")))[0][0] == "error"
