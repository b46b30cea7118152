"""The arrows between the folders, read from the source: they hold or this fails."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradscope

PACKAGE = Path(gradscope.__file__).parent
ORDER = (
    "errors", "config", "recording", "observe", "diagnose", "rules", "finite_difference", "anatomy",
    "running", "advise", "report", "compare", "baseline", "session", "integrations", "cli",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
HOOK = re.compile(r"register_\w*hook\w*")


def part(file: Path) -> str:
    """The folder or module below gradscope that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Full names that a file imports, wherever the import stands."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def torch_names(module: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {
                (a.asname or a.name).split(".")[0]
                for a in node.names
                if a.name.split(".")[0] == "torch"
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found |= {a.asname or a.name for a in node.names}
    return found


def root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_part_and_those_before_it(file: Path) -> None:
    own = part(file)
    if own in ("__init__", "__main__"):
        return
    assert own in ORDER, f"{own} has no place in the order"
    for name, line in imports(file):
        first, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if first != "gradscope" or other == "__version__" or not rest:
            continue
        assert ORDER.index(other) <= ORDER.index(own), f"{file}:{line}: {own} imports {name}"


def test_only_observe_registers_hooks() -> None:
    for file in FILES:
        if part(file) == "observe":
            continue
        for node in ast.walk(tree(file)):
            names = (
                [node.attr] if isinstance(node, ast.Attribute)
                else [node.id] if isinstance(node, ast.Name)
                else [a.name for a in node.names] if isinstance(node, ast.ImportFrom)
                else []
            )  # fmt: skip
            assert not any(map(HOOK.fullmatch, names)), f"{file}:{node.lineno}: {names}"


def test_only_observe_patches_torch() -> None:
    for file in FILES:
        if part(file) == "observe":
            continue
        module = tree(file)
        theirs = torch_names(module)
        for node in ast.walk(module):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.Call) and root(node.func) == "setattr" and node.args:
                targets = [node.args[0]]
            for target in targets:
                attribute = isinstance(target, ast.Attribute) or isinstance(node, ast.Call)
                assert not (attribute and root(target) in theirs), f"{file}:{node.lineno}"


@pytest.mark.parametrize(("library", "owner"), [("plotly", "report"), ("click", "cli")])
def test_a_library_belongs_to_one_folder(library: str, owner: str) -> None:
    for file in FILES:
        for name, line in imports(file):
            if name.split(".")[0] == library:
                assert part(file) == owner, f"{file}:{line} imports {name}"


def test_importing_gradscope_loads_none_of_the_heavy_libraries() -> None:
    code = "import gradscope, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["pandas", "plotly", "click", "jinja2", "torch", "rich"]
    result = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_watching_loads_neither_plotly_nor_click_nor_jinja2() -> None:
    code = (
        "import gradscope, sys; gradscope.watch; "
        "print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "plotly", "click", "jinja2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_file_is_not_longer_than_one_purpose_needs(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
