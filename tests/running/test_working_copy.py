"""The copy of a script's folder: what is in it, and what happens to the original."""

from pathlib import Path

import pytest

from gradscope.running import working_copy


def a_project(at: Path) -> Path:
    (at / "src").mkdir(parents=True)
    (at / "data").mkdir()
    (at / ".git").mkdir()
    (at / ".git" / "HEAD").write_text("x")
    (at / "src" / "train.py").write_text("print(1)")
    (at / "data" / "table.csv").write_text("1,2")
    (at / "link.csv").symlink_to(at / "data" / "table.csv")
    return at


def test_the_working_directory_is_copied_where_the_script_lies_below_it(tmp_path):
    project = a_project(tmp_path / "project")
    below = tmp_path / "copies"
    below.mkdir()
    made = working_copy.make(project / "src" / "train.py", project, below)
    assert made.script == made.cwd / "src" / "train.py"
    assert (made.cwd / "data" / "table.csv").read_text() == "1,2"
    assert not (made.cwd / ".git").exists()
    # a write through a link must not reach the original
    (made.cwd / "link.csv").write_text("changed")
    assert (project / "data" / "table.csv").read_text() == "1,2"


def test_the_scripts_own_folder_is_copied_where_it_lies_elsewhere(tmp_path):
    project = a_project(tmp_path / "project")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = working_copy.make(project / "src" / "train.py", elsewhere, elsewhere)
    assert made.script == made.cwd / "train.py"


def test_the_copy_before_is_removed(tmp_path):
    project = a_project(tmp_path / "project")
    below = tmp_path / "copies"
    below.mkdir()
    first = working_copy.make(project / "src" / "train.py", project, below)
    second = working_copy.make(project / "src" / "train.py", project, below)
    assert list(below.iterdir()) == [second.folder]
    assert first.folder != second.folder


@pytest.mark.parametrize(("most", "refused"), [(5, True), (6, False)])
def test_a_folder_that_is_too_large_is_refused(tmp_path, monkeypatch, most, refused):
    project = a_project(tmp_path / "project")
    for number in range(3):
        (project / f"{number}.bin").write_bytes(b"x")
    monkeypatch.setattr(working_copy, "MOST_FILES", most)
    if refused:
        with pytest.raises(working_copy.TooLargeError, match="too many"):
            working_copy.refuse_large(project)
    else:
        working_copy.refuse_large(project)
