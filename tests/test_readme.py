"""README and the documents say what is true: their code runs, their tables are the code's own."""

import re
import runpy
from pathlib import Path

import click
import pytest

import gradscope
from gradscope.cli import commands
from gradscope.config import Settings
from gradscope.rules import RULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
_CONTEXT = click.Context(commands)
KNOWN = {name: commands.get_command(_CONTEXT, name) for name in commands.list_commands(_CONTEXT)}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rule_rows(text):
    """Cells of the table rows that begin with a rule's code."""
    lines = re.findall(r"^\| *GS\d{3} .*$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def options_of(command):
    flags = [p for p in command.params if isinstance(p, click.Option)]
    return {opt for flag in flags for opt in (*flag.opts, *flag.secondary_opts)} | {"--help"}


def test_first_two_install_lines_stand_alone_in_this_order():
    lines = re.findall(r"^python -m pip install .*$", README, re.MULTILINE)
    assert lines[:2] == [
        'python -m pip install -c constraints.txt ".[examples]" && gradscope check '
        "examples/vanishing_sigmoid.py --report report.html",
        'python -m pip install -c constraints.txt ".[test]" && pytest',
    ]
    alone = [block.strip() for block in blocks(README, "sh")]
    assert alone[:2] == lines[:2]


def test_readme_loop_runs_and_finds_the_forgotten_layer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert re.match(r"GS403 not-in-optimizer .+", capsys.readouterr().out)
    assert (tmp_path / "report.html").stat().st_size > 20_000
    assert len(found["gradients"]) > 0


def test_guide_blocks_run_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, loop, checked, load = blocks(GUIDE, "python")
    (tmp_path / "model.py").write_text(model, encoding="utf-8")
    right = {}
    exec(compile(checked, "guide.md", "exec"), right)
    assert right["result"].verdict == "right"
    right["test_the_block_differentiates_rightly"]()
    assert gradscope.check("model.py", steps=60).exit_code == 0
    found = {}
    exec(compile(loop, "guide.md", "exec"), found)
    assert found["findings"] == []
    exec(compile(load, "guide.md", "exec"), found)
    assert (found["ratio"].dropna() > 0).all()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_flag_exists(document):
    text = document.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"`+([^`]+)`+", text))
    for name, arguments in re.findall(r"\bgradscope (?!#)([a-z]\w*)\b([^\n|&]*)", code):
        assert name in KNOWN, f"{document.name}: gradscope {name}"
        if name == "run":  # what follows the script is the script's
            arguments = re.split(r"\.py\b| -m ", arguments)[0]
        flags = set(re.findall(r"--[a-z][a-z-]+", arguments))
        unknown = flags - options_of(KNOWN[name])
        assert not unknown, f"{document.name}: gradscope {name} has no {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


def test_every_command_is_in_readme_or_guide():
    visible = {name for name, command in KNOWN.items() if not command.hidden}
    missing = {name for name in visible if f"gradscope {name}" not in README + GUIDE}
    assert not missing


def test_readme_table_is_that_of_the_rules():
    expected = [[rule.code, rule.name, rule.title] for rule in RULES]
    assert rule_rows(README) == expected


def test_rules_index_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "make_rules.py"))["rules_index"]()
    assert (ROOT / "docs" / "rules.md").read_text(encoding="utf-8") == made


def test_guide_lists_every_setting():
    listed = re.findall(r"^\| `([a-z-]+)` \|", GUIDE, re.MULTILINE)
    names = [name.replace("_", "-") for name in Settings.__dataclass_fields__ if name != "enabled"]
    assert listed == names


def test_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[([^]]+)\]", text, re.MULTILINE)[1] == gradscope.__version__
