import math
import unicodedata

import pytest
from diagnoses import DIFF, NON_FINITE, SOURCE, VANISHING, recording
from hypothesis import given
from hypothesis import strategies as st

from gradscope.diagnose.finding import Finding, Location
from gradscope.report import numbers
from gradscope.report.clean import encodable, lines, one_line
from gradscope.report.excerpt import excerpt
from gradscope.report.hunk import Change, hunk


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.14159e-11, "3.1e-11"),
        (1e-6, "1e-6"),
        (0.062, "0.062"),
        (2.3, "2.3"),
        (1240.0, "1,240"),
        (-1e9, "-1e9"),
        (math.nan, "NaN"),
        (-math.inf, "-Inf"),
    ],
)
def test_number(value, text):
    assert numbers.number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_keeps_its_first_two_digits(value):
    assert float(numbers.number(value).replace(",", "")) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (1.6e-9, 1e-6, "620x below"),
        (16.0, 10.0, "1.6x above"),
        (-20.0, -10.0, "2x above"),
        (1e-15, 1e-6, "9.0 orders of magnitude below"),
        (1e300, 1e-300, "600.0 orders of magnitude above"),
        (1.0, 1.04, ""),
        (0.0, 1.0, ""),
        (1.0, 0.0, ""),
        (-1.0, 1.0, ""),
        (math.nan, 1.0, ""),
        (1.0, math.inf, ""),
    ],
)
def test_away(value, limit, text):
    assert numbers.away(value, limit) == text


def test_words_around_numbers():
    assert numbers.margin(1.6) == "1.6x inside its limit"
    assert numbers.margin(None) == "yes or no"
    assert numbers.plural(1, "step") == "1 step"
    assert numbers.plural(1200, "step") == "1,200 steps"
    assert numbers.steps(3, 3) == "step 3"
    assert numbers.steps(0, 199) == "steps 0-199"
    assert numbers.decades(-1.2) == "1.2 orders of magnitude"
    assert numbers.percent(0.0002) == "< 0.1 %"


def meant(source, line, *modules, types=("Linear", "Sigmoid", "Linear", "Linear")):
    made = recording(sources={"model.py": source}, types=types)
    finding = Finding(
        "GS1", "n", "note", "strong", "s", modules, location=Location("model.py", line)
    )
    part = excerpt(made, finding)
    return part and part.text[part.start : part.end]


@pytest.mark.parametrize(
    ("line", "module", "text"),
    [
        (7, "encoder.0", "nn.Linear(64, 64)"),
        (7, "encoder.1", "nn.Sigmoid()"),
        (9, "encoder.1", "nn.Sigmoid(), nn.Sigmoid(),"),  # which of the two is not known
        (11, "head", "nn.Linear(64, größe)"),
        (6, "", "nn.Sequential("),  # the call goes on below
        (3, "head", "class Net(nn.Module):"),  # no call on the line
        (2, "head", None),
        (99, "head", None),
    ],
)
def test_the_part_of_the_line_that_builds_the_layer(line, module, text):
    assert meant(SOURCE, line, module) == text


def test_a_file_that_cannot_be_parsed_is_marked_whole():
    assert meant("  x = nn.Linear(3, ]\n", 1, "encoder.0") == "x = nn.Linear(3, ]"


def test_the_operation_at_fault_is_marked_where_no_layer_is_built():
    source = "\n" * 10 + "loss = -torch.log(net(x)).mean()\n"
    part = excerpt(recording(sources={"model.py": source}), NON_FINITE)
    assert (part.line, part.text[part.start : part.end]) == (11, "torch.log(net(x))")


def test_without_the_files_text_there_is_no_excerpt():
    assert excerpt(recording(sources={"other.py": SOURCE}), VANISHING) is None


def test_a_hunk_keeps_the_changes_and_one_line_around():
    assert hunk(DIFF) == (
        "model.py",
        [
            Change(6, " ", "        self.encoder = nn.Sequential(", 6),
            Change(7, "-", "            nn.Linear(64, 64), nn.Sigmoid(),", 7),
            Change(7, "+", "            nn.Linear(64, 64), nn.ReLU(),", 8),
            Change(8, " ", "            nn.Linear(64, 64),", 8),
        ],
        0,
    )


def test_a_hunk_numbers_lines_on_both_sides_of_a_gap():
    diff = (
        "--- m.py\n+++ m.py\n@@ -1,2 +1,3 @@\n+import a\n one\n two\n@@ -9 +10 @@\n-nine\n+neun\n"
    )
    path, changes, left = hunk(diff)
    assert path == "m.py"
    assert [(c.line, c.sign) for c in changes] == [(1, "+"), (2, " "), (9, "-"), (10, "+")]
    assert left == 0


def test_a_long_hunk_says_how_much_it_left_out():
    diff = "@@ -0,0 +1,20 @@\n" + "".join(f"+line {i}\n" for i in range(20))
    path, changes, left = hunk(diff, most=12)
    assert (path, len(changes), left) == (None, 12, 8)


@given(st.text(alphabet=st.characters()))
def test_cleaned_text_can_be_written_on_one_line(text):
    clean = one_line(text)
    assert clean == clean.encode("utf-8").decode("utf-8")
    assert clean.splitlines() in ([clean], [])
    assert not any(unicodedata.category(character) == "Cc" for character in clean)


def test_lines_keep_the_layout_of_code():
    assert lines("a\r\n\tb\x1bc\n") == ["a", "    b\\x1bc", ""]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_encodable_changes_only_what_must_be_changed(text):
    assert encodable(text, "utf-8") == text
    assert encodable(text, "ascii").isascii()
    assert encodable(encodable(text, "ascii"), "ascii") == encodable(text, "ascii")
