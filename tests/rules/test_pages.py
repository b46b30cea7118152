"""Every rule's page: its headings, and its two scripts, run as a person would run them.

A script is a model file for ``gradscope check``, whose loop is gradscope's own. One whose fault
lies in the loop says so in its first line, ``# gradscope: command=watch``: it is run as a program,
from top to bottom, and holds its own loop inside ``with gradscope.watch(...) as scope:``; the
findings are those of the variable ``scope``. It watches every step (``every=1,
activations_every=1``), so that the machine's speed decides nothing. With ``ranks=2`` beside it, two
processes of one group run it, as torchrun would start them, and the folder is ``run``.
``command=gradcheck`` is for a model file whose backward passes are compared with finite
differences.
"""

import os
import re
import runpy
import socket

import pytest

import gradscope
from gradscope.diagnose.finding import worst
from gradscope.rules import RULES
from gradscope.session import from_folder

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


def directives(text):
    """Words ``name=value`` of a first line ``# gradscope: …``."""
    found = re.match(r"# gradscope: (.*)\n", text)
    return dict(word.split("=", 1) for word in found.group(1).split()) if found else {}


def checked(file, folder):
    return gradscope.check(file, steps=100, run_dir=folder)


def watched(file, _folder):
    scope = runpy.run_path(str(file), run_name="__main__")["scope"]
    assert not scope.attached
    return from_folder(scope.folder)


def in_ranks(python, file, folder, ranks):
    """The diagnosis of a script that ``ranks`` processes of one group have run, as of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = python.together(
        [[file.name]] * ranks,
        folder=file.parent,
        environments=[os.environ | group | {"RANK": str(rank)} for rank in range(ranks)],
    )
    assert [one.returncode for one in done] == [0] * ranks, "\n".join(one.stderr for one in done)
    return from_folder(folder)


def gradchecked(file, folder):
    return gradscope.gradcheck(file, run_dir=folder).diagnosis


COMMANDS = {"check": checked, "watch": watched, "gradcheck": gradchecked}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_headings_are_fixed(rule):
    page = rule.page()
    assert page.startswith(f"# {rule.code} {rule.name}\n")
    assert re.findall(r"^## (.*)$", page, re.M) == HEADINGS


@pytest.mark.parametrize("heading", ["Broken example", "Mended example"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_scripts(rule, heading, python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = script(rule, heading)
    file = tmp_path / f"{rule.name.replace('-', '_')}_{heading.split()[0].lower()}.py"
    file.write_text(text)
    words = directives(text)
    if "ranks" in words:
        diagnosis = in_ranks(python, file, tmp_path / "run", int(words["ranks"]))
    else:
        diagnosis = COMMANDS[words.get("command", "check")](file, tmp_path / "run")
    assert diagnosis.errors == ()
    codes = [finding.code for finding in diagnosis.findings]
    if heading == "Broken example":
        assert codes == [rule.code]
        assert worst(diagnosis.findings) in ("critical", "warning")
    else:
        assert codes == []
