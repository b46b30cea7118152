"""One of the user's files: its text, its syntax tree, and where each node stands in the text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import TypeVar

_LINE_END = re.compile(r"\r\n|\r|\n")
_BOM = "\ufeff"
Node = TypeVar("Node", bound=ast.AST)
Located = ast.expr | ast.stmt | ast.keyword


def dotted(node: ast.AST) -> str | None:
    """``a.b.c`` as it is written, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else None
    return None


class SourceFile:
    """A parsed Python file; every position is an offset into ``text`` as it was recorded.

    Attributes:
        name: the path as it stands in the recording.
        text: the text, with its line ends, tabs and byte order mark as they are.
        tree: the syntax tree.
    """

    def __init__(self, name: str, text: str) -> None:
        """Parse ``text``.

        Raises:
            SyntaxError, ValueError, RecursionError, MemoryError: it does not parse.
        """
        self.name = name
        self.text = text
        self._shift = 1 if text.startswith(_BOM) else 0
        with warnings.catch_warnings():
            # an invalid escape in the user's file is no news to gradscope's caller
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text[self._shift :])
        ends = [m.end() for m in _LINE_END.finditer(text)]
        self._starts = [0, *ends]

    # ------------------------------------------------------------------ positions

    def offset(self, line: int, column: int) -> int:
        """Offset of a position of the tree: line from 1, column in UTF-8 bytes."""
        start = self._starts[line - 1] + (self._shift if line == 1 else 0)
        if column == 0:
            return start
        raw = self.text[start : self._line_stop(line)].encode("utf-8", "surrogatepass")
        return start + len(raw[:column].decode("utf-8", "surrogatepass"))

    def start(self, node: Located) -> int:
        """Offset of the first character of ``node``; of its first decorator if it has some."""
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            # the tree gives the expression; the line begins with "@"
            line_start = self._starts[decorators[0].lineno - 1]
            return self.text.rindex("@", line_start, self.start(decorators[0]))
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: Located) -> int:
        """Offset behind the last character of ``node``."""
        # only a node that ast did not make itself has no end
        assert node.end_lineno is not None
        return self.offset(node.end_lineno, node.end_col_offset or 0)

    def code(self, node: Located) -> str:
        """The text of ``node``, exactly as it stands."""
        return self.text[self.start(node) : self.end(node)]

    def _line_stop(self, line: int) -> int:
        """Offset of the end of a line, before its line end."""
        if line >= len(self._starts):
            return len(self.text)
        stop = self._starts[line]
        while stop > self._starts[line - 1] and self.text[stop - 1] in "\r\n":
            stop -= 1
        return stop

    def line_start(self, offset: int) -> int:
        """Offset of the start of the line that holds ``offset``."""
        before = max(self.text.rfind("\n", 0, offset), self.text.rfind("\r", 0, offset))
        return before + 1

    def line_stop(self, offset: int) -> int:
        """Offset of the end of the line that holds ``offset``, before its line end."""
        found = _LINE_END.search(self.text, offset)
        return found.start() if found else len(self.text)

    def indent(self, node: Located) -> str:
        """White space at the start of the line on which ``node`` begins."""
        start = self.line_start(self.start(node))
        line = self.text[start : self.line_stop(start)].lstrip(_BOM)
        return line[: len(line) - len(line.lstrip(" \t\f"))]

    @cached_property
    def newline(self) -> str:
        """The line end that most lines have."""
        return "\r\n" if 2 * self.text.count("\r\n") > self.text.count("\n") else "\n"

    @cached_property
    def indent_unit(self) -> str:
        """One level of indentation, as the file's first indented block has it."""
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            if isinstance(node, ast.stmt) and isinstance(body, list):
                inner = self.indent(body[0]).removeprefix(self.indent(node))
                if inner:
                    return inner
        return "    "

    # ------------------------------------------------------------------ the tree

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Parent of each node; none inside f-strings, where positions are not exact."""
        found: dict[ast.AST, ast.AST] = {}
        todo: list[ast.AST] = [self.tree]
        while todo:
            node = todo.pop()
            if isinstance(node, ast.JoinedStr):
                continue
            for child in ast.iter_child_nodes(node):
                found[child] = node
                todo.append(child)
        return found

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Parent, its parent, and so on."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def enclosing(self, node: ast.AST, kind: type[Node]) -> Node | None:
        """The innermost ancestor of that type."""
        return next((n for n in self.ancestors(node) if isinstance(n, kind)), None)

    def statement(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that holds ``node`` (itself if it is one)."""
        if isinstance(node, ast.stmt):
            return node
        found = self.enclosing(node, ast.stmt)
        assert found is not None
        return found

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The list of statements in which ``statement`` stands."""
        parent = self.parents[statement]
        for name in ("body", "orelse", "finalbody"):
            body = getattr(parent, name, None)
            if isinstance(body, list) and statement in body:
                return body
        return [statement]

    def all(self, kind: type[Node]) -> list[Node]:
        """Every node of that type, in the order of the text (f-strings left out)."""
        nodes = [n for n in self.parents if isinstance(n, kind)]
        return sorted(nodes, key=lambda n: (getattr(n, "lineno", 0), getattr(n, "col_offset", 0)))

    @cached_property
    def calls(self) -> list[ast.Call]:
        """Every call, in the order of the text."""
        return self.all(ast.Call)

    def calls_at(self, line: int) -> list[ast.Call]:
        """Calls whose called name stands on ``line``, else the calls that reach over it."""
        exact = [c for c in self.calls if c.lineno <= line <= (c.func.end_lineno or c.lineno)]
        return exact or [c for c in self.calls if c.lineno <= line <= (c.end_lineno or c.lineno)]

    @cached_property
    def bindings(self) -> dict[str, str]:
        """Dotted origin of each name bound by an import or by a plain ``name = a.b.c``.

        Imports inside functions count too: a name is rarely used for two things in one file, and a
        diff is compiled before it is shown.
        """
        found: dict[str, str] = {}
        for node in self.all(ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = alias.name if alias.asname else name
        for origin in self.all(ast.ImportFrom):
            for alias in origin.names:
                if origin.module and not origin.level:
                    found[alias.asname or alias.name] = f"{origin.module}.{alias.name}"
        for assignment in self.all(ast.Assign):
            target, written = assignment.targets[0], dotted(assignment.value)
            if isinstance(target, ast.Name) and written and written.partition(".")[0] in found:
                found.setdefault(target.id, written)
        return found

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that code reads or binds as a variable, an argument, a function or a class."""
        found = {node.id for node in self.all(ast.Name)} | {node.arg for node in self.all(ast.arg)}
        found |= {node.name for node in self.all(ast.FunctionDef)}
        found |= {node.name for node in self.all(ast.ClassDef)}
        return frozenset(found | set(self.bindings))

    @cached_property
    def words(self) -> frozenset[str]:
        """Every identifier in the file: a new name must not be one of them."""
        return frozenset(re.findall(r"\w+", self.text))

    def free_name(self, *wished: str) -> str:
        """The first of ``wished`` that is not in use, else the last with a number behind it."""
        for name in wished:
            if name not in self.words:
                return name
        number = 2
        while f"{wished[-1]}{number}" in self.words:
            number += 1
        return f"{wished[-1]}{number}"
