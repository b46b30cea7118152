"""docs/styles.md holds a row for every style, and every situation has one."""

import ast
import re
from pathlib import Path

from style import PAGE

HERE = Path(__file__).parent
NEEDS_CUDA = {"CUDA graphs"}
ELSEWHERE = {53: "tests/styles/test_hooks.py needs a CUDA device"}


def _marked():
    """Name and situations of every ``pytest.mark.style``, as the sources have them."""
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.style":
                given = {k.arg: ast.literal_eval(k.value) for k in node.keywords
                         if k.arg == "situations"}  # fmt: skip
                yield ast.literal_eval(node.args[0]), given.get("situations", ())


def test_the_page_has_a_row_for_each_style_and_no_other():
    styles = [name for name, _ in _marked()]
    assert len(styles) == len(set(styles))
    rows = re.findall(r"^\| (?!style \|)(?!---)(.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    bare = {next((s for s in styles if row == s or row.startswith(f"{s} [")), row) for row in rows}
    assert bare == set(styles) - NEEDS_CUDA


def test_every_known_situation_is_tested():
    covered = {number for _, situations in _marked() for number in situations}
    assert covered | set(ELSEWHERE) == set(range(1, 54))
