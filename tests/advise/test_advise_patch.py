"""Unified diffs against the real ``patch``, on hostile names and hostile texts."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradscope.advise.patch import Edit, apply_edits, unified_diff

needs_patch = pytest.mark.skipif(
    shutil.which("patch") is None and not os.environ.get("CI"), reason="patch(1) is missing"
)


def applied(folder, file, text, diff):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--binary", "--no-backup-if-mismatch"],
        input=diff.encode(), cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode() + diff
    return path.read_bytes().decode()


NAMES = [
    "model.py",
    "deep/er/model.py",
    "my model.py",
    " leading.py",
    "trailing .py",
    "naïve-模型.py",
    "-p9.py",
    'quo"te.py',
    "it's.py",
    "back\\slash.py",
    "tab\there.py",
    "a\nnew line.py",
    "--- a.py",
    "$(touch x).py",
    "model.py\t2020-01-01",
]


@needs_patch
@pytest.mark.parametrize("name", NAMES)
def test_patch_finds_the_file_whatever_its_name(tmp_path, name):
    text = "one\ntwo\nthree\n"
    diff = unified_diff(name, text, [Edit(4, 7, "zwei")])
    assert applied(tmp_path, name, text, diff) == "one\nzwei\nthree\n"


def test_an_absolute_path_becomes_relative_to_the_root():
    diff = unified_diff("/home/u/model.py", "a\n", [Edit(0, 1, "b")])
    assert diff.startswith("--- a/home/u/model.py\n+++ b/home/u/model.py\n")


def test_header_context_and_hunks_as_git_writes_them():
    text = "".join(f"{i}\n" for i in range(20))
    near = [
        Edit(text.index("3\n"), text.index("3\n") + 1, "x"),
        Edit(text.index("9\n"), text.index("9\n"), "y\n"),
    ]
    assert unified_diff("f", text, near) == (
        "--- a/f\n+++ b/f\n@@ -1,12 +1,13 @@\n"
        " 0\n 1\n 2\n-3\n+x\n 4\n 5\n 6\n 7\n 8\n+y\n 9\n 10\n 11\n"
    )
    far = [Edit(0, 1, "x"), Edit(text.index("9\n"), text.index("9\n") + 2, "")]
    heads = [line for line in unified_diff("f", text, far).splitlines() if line.startswith("@@")]
    assert heads == ["@@ -1,4 +1,4 @@", "@@ -7,7 +7,6 @@"]


def test_no_change_is_no_diff():
    assert unified_diff("f", "same\n", [Edit(0, 4, "same")]) == ""
    assert unified_diff("f", "same\n", []) == ""


def test_overlapping_edits_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        apply_edits("abcdef", [Edit(0, 3, "x"), Edit(2, 4, "y")])


def test_insertions_at_one_place_keep_their_order():
    assert apply_edits("ad", [Edit(1, 1, "b"), Edit(1, 1, "c")]) == "abcd"


@st.composite
def edited_texts(draw):
    line = st.text(st.sampled_from(list("ab \t\rü模-+@\\")), max_size=6)
    lines = draw(st.lists(line, max_size=30))
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    new = st.text(st.sampled_from(list("xy\nü\r")), max_size=5)
    edits = [Edit(a, b, draw(new)) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    return text, edits


@needs_patch
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edited_texts())
def test_patch_gives_what_the_edits_give(tmp_path, case):
    text, edits = case
    diff = unified_diff("f.py", text, edits)
    wanted = apply_edits(text, edits)
    if not diff:
        assert wanted == text
    elif wanted and text:
        # GNU patch makes and removes files where one side is empty
        assert applied(tmp_path, "f.py", text, diff) == wanted
