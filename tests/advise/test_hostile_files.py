"""Files as people really have them: line ends, tabs, alphabets, byte order marks, moved lines."""

from __future__ import annotations

import pytest
from torch import nn

PLAIN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 16)
        self.act = nn.Sigmoid()
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.act(self.fc1(x)))
"""
TABS = PLAIN.replace("    ", "\t")
UNICODE = PLAIN.replace("nn.Linear(64, 16)", "nn.Linear(64, 16)  # größer — 大").replace(
    "self.act(self.fc1(x))", "(lambda größe, ß: self.act(self.fc1(größe)))(x, 'ßß')"
)
SEMICOLONS = PLAIN.replace("\n        self.act =", "; self.act =")
TEXTS = {"plain": PLAIN, "tabs": TABS, "unicode": UNICODE, "semicolons": SEMICOLONS}
NAMES = ("batch-norm", "replace-activation", "initialize")


def all_fixes(done):
    vanishing = done.fixes("GS101", "activation-slope", modules=("fc1",))
    return {**done.fixes("GS101", "small-weights", modules=("fc1",)), **vanishing}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_diffs_apply_and_keep_the_style_of_the_file(study, text, newline, name):
    done = study(TEXTS[text], 64, newline=newline)
    fix = all_fixes(done)[name]
    new = done.mended(fix)
    assert (new.count("\r\n") == new.count("\n")) is (newline == "\r\n")
    if text == "tabs":
        assert "\n    " not in new
    if text == "unicode":
        assert "# größer — 大" in new
    model = done.rebuilt(fix)
    expected = {
        "batch-norm": nn.BatchNorm1d,
        "replace-activation": nn.ReLU,
        "initialize": nn.Linear,
    }
    assert any(isinstance(m, expected[name]) for m in model.modules())


@pytest.mark.parametrize("file", ["my model.py", "naïve 模型.py", "deep/er/it's.py", 'quo"te.py'])
def test_diffs_apply_to_files_with_hostile_names(study, file):
    done = study(PLAIN, 64, file=file)
    assert "ReLU" in done.mended(all_fixes(done)["replace-activation"])


def test_a_file_without_a_last_line_end(study):
    done = study(PLAIN.rstrip("\n"), 64)
    new = done.mended(all_fixes(done)["replace-activation"])
    assert not new.endswith("\n")
    one = study(
        "from torch import nn\n"
        "model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 4))",
        8,
    )
    assert one.mended(one.fixes("GS101", modules=("0",))["replace-activation"]).endswith(
        'nonlinearity="relu")'
    )


def test_a_byte_order_mark_is_no_character_of_the_first_line(study):
    text = (
        "from torch import nn; model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))"
    )
    text = f"\ufeff{text}\n"
    done = study(text, 8)
    new = done.mended(done.fixes("GS101", modules=("0",))["batch-norm"])
    assert new.startswith("\ufefffrom torch import nn; model")
    assert "nn.BatchNorm1d(16)" in new


def spoiled(done, **changes):
    for row in done.records["modules"]:
        row.update(changes)
    return done


LOST = {
    "no-line": {"line": None, "file": None},
    "file-not-recorded": {"file": "elsewhere.py"},
    "line-of-something-else": {"line": 1},
    "line-past-the-end": {"line": 10_000},
    "another-class": {"type": "MyLinear"},
}


@pytest.mark.parametrize("case", LOST)
def test_where_the_line_is_not_the_call_there_is_a_snippet_and_no_diff(study, case):
    done = spoiled(study(PLAIN, 64), **LOST[case])
    fixes = all_fixes(done)
    assert {"batch-norm", "replace-activation"} <= set(fixes)
    for fix in fixes.values():
        assert fix.diff is None
        assert fix.applicability == "placeholders"
        assert fix.snippet


@pytest.mark.parametrize("text", ["def (:\n", "x = '\0'\n", "(" * 400, ""])
def test_a_recorded_text_that_does_not_parse_gives_snippets(study, text):
    done = study(PLAIN, 64)
    done.records["sources"][0]["text"] = text
    assert all(fix.diff is None for fix in all_fixes(done).values())


def test_two_equal_calls_on_a_line_that_no_path_tells_apart_are_not_guessed(study):
    text = """
from torch import nn


def build_model():
    layers = [nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(8, 4))
"""
    fix = study(text, 8).fixes("GS101", "activation-slope", modules=("1",))["replace-activation"]
    assert fix.diff is None
    assert "nn.ReLU()" in fix.snippet


def test_an_argument_that_hides_behind_a_star_is_taken_from_what_was_recorded(study):
    text = """
from torch import nn

size = (8, 16)
model = nn.Sequential(nn.Linear(*size), nn.Sigmoid(), nn.Linear(16, 4))
"""
    done = study(text, 8)
    assert "nn.BatchNorm1d(16)" in done.mended(done.fixes("GS101", modules=("0",))["batch-norm"])


def test_the_diff_is_against_the_text_of_the_run_not_of_today(study):
    done = study(PLAIN, 64)
    (done.folder / done.file).write_text("# gone\n")
    fix = all_fixes(done)["replace-activation"]
    assert "-        self.act = nn.Sigmoid()" in fix.diff


def test_an_alias_of_the_class_is_the_class(study):
    text = PLAIN.replace(
        "import torch\n", "import torch\nfrom torch.nn import Sigmoid as S\n"
    ).replace("nn.Sigmoid()", "S()")
    done = study(text, 64)
    assert "self.act = nn.ReLU()" in done.mended(all_fixes(done)["replace-activation"])
