"""Syntax trees of the user's files: where an attribute, an item or a name gets its value."""

from __future__ import annotations

import ast
import hashlib
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradscope.observe.frames import owner

TEXT_LIMIT = 200_000
"""Characters of a file that are kept, see ``facts.SOURCES``."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.While, ast.If, ast.Try, ast.AsyncFor)


def source_text(file: str) -> str | None:
    """Text of a file of the user's own.

    Args:
        file: path, absolute or below the working directory.

    Returns:
        The text in the file's own encoding, at most TEXT_LIMIT characters; None for files of
        installed packages, for what is no file, and for what cannot be read.
    """
    if owner(str(Path(file).absolute())) != "user":
        return None
    return _read(file)


def source_record(file: str) -> dict[str, Any] | None:
    """The record of table ``sources`` for a file; None where ``source_text`` has none."""
    text = source_text(file)
    if text is None:
        return None
    return {"file": file, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}


def _read(file: str) -> str | None:
    try:
        with Path(file).open("rb") as raw:
            encoding, _ = tokenize.detect_encoding(raw.readline)
        # with the line ends as they are: a diff against the text has to apply to the file
        with Path(file).open(encoding=encoding, newline="") as stream:
            return stream.read(TEXT_LIMIT)
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def tree_of(file: str) -> ast.Module | None:
    """The parsed file; None if it cannot be read or parsed."""
    try:
        changed = Path(file).stat().st_mtime_ns
    except OSError:
        return None
    return _parsed(file, changed)


@lru_cache(maxsize=128)
def _parsed(file: str, changed: int) -> ast.Module | None:
    text = _read(file)
    try:
        return None if text is None else ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Value:
    """An expression and where it stands.

    Attributes:
        file: the file.
        node: the expression.
        function: the function around it, None at the top of the file.
        several: it may be evaluated any number of times (a loop, a branch, a comprehension).
        methods: methods of the class around it.
    """

    file: str
    node: ast.expr
    function: Function | None
    several: bool = False
    methods: tuple[Function, ...] = ()

    @property
    def line(self) -> int:
        """Line on which the expression begins."""
        return self.node.lineno

    def but(self, node: ast.expr, *, several: bool | None = None) -> Value:
        """Another expression at the same place."""
        return replace(self, node=node, several=self.several if several is None else several)

    def own_attribute(self, name: str) -> ast.expr | None:
        """The expression ``self.<name>`` as the function around it would write it."""
        arguments = [] if self.function is None else self.function.args.args
        if not arguments:
            return None
        return ast.Attribute(ast.Name(arguments[0].arg, ast.Load()), name, ast.Load())

    def own_method(self) -> Function | None:
        """The method that the expression calls on its object; None if it is no such call."""
        function = self.node.func if isinstance(self.node, ast.Call) else None
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            return None
        arguments = [] if self.function is None else self.function.args.args
        if not arguments or function.value.id != arguments[0].arg:
            return None
        return next((m for m in self.methods if m.name == function.attr), None)


def class_node(tree: ast.Module, qualified: str) -> ast.ClassDef | None:
    """The definition of a class by its ``__qualname__``; None if it is not found or not alone."""
    *outer, name = [part for part in qualified.split(".") if part != "<locals>"]
    found = [
        node
        for node, above in _definitions(tree)
        if isinstance(node, ast.ClassDef) and node.name == name and above == outer
    ]
    return found[0] if len(found) == 1 else None


def function_node(tree: ast.Module, name: str) -> Function | None:
    """A function at the top of a file."""
    found = [n for n in tree.body if isinstance(n, _FUNCTIONS) and n.name == name]
    return found[-1] if found else None


def _definitions(node: ast.AST, above: tuple[str, ...] = ()) -> Iterator[tuple[ast.AST, list[str]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child, list(above)
            yield from _definitions(child, (*above, child.name))
        else:
            yield from _definitions(child, above)


def super_call(file: str, definition: ast.ClassDef) -> Value | None:
    """The call of ``super().__init__`` in a class's ``__init__``; None if there is none."""
    for method in _methods(definition)[:1]:
        for statement, _ in _statements(method.body):
            call = statement.value if isinstance(statement, ast.Expr) else None
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr == "__init__" and isinstance(call.func.value, ast.Call):
                return Value(file, call, method, methods=_methods(definition))
    return None


def _methods(definition: ast.ClassDef) -> tuple[Function, ...]:
    found = [node for node in definition.body if isinstance(node, _FUNCTIONS)]
    return tuple(sorted(found, key=lambda method: method.name != "__init__"))


def attribute_values(file: str, definition: ast.ClassDef, name: str) -> Iterator[Value]:
    """What the methods of a class give to the attribute ``name`` of their object.

    ``self.<name> = …``, ``add_module``, ``register_module`` and ``setattr`` count; ``__init__``
    comes first.
    """
    methods = _methods(definition)
    for method in methods:
        yield from _attribute_values(Value(file, ast.Constant(None), method, methods=methods), name)


def _attribute_values(place: Value, name: str) -> Iterator[Value]:
    method = place.function
    if method is None:
        return
    arguments = [*method.args.posonlyargs, *method.args.args]
    if not arguments:
        return
    own = arguments[0].arg
    for statement, several in _statements(method.body):
        for target, value in _assignments(statement):
            if _is_attribute(target, own, name):
                yield place.but(value, several=several)
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call):
            given = _given_module(call, own, name)
            if given is not None:
                yield place.but(given, several=several)


def added_values(place: Value, target: ast.expr) -> Iterator[Value]:
    """What ``append``, ``insert``, ``extend``, ``+=`` and ``add_module`` add to a target."""
    body = place.function.body if place.function is not None else tree_body(place.file)
    wanted = ast.dump(target)
    for statement, several in _statements(body):
        if isinstance(statement, ast.AugAssign) and _same(statement.target, wanted):
            yield from items_of(place.but(statement.value, several=several))
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if not _same(call.func.value, wanted) or not call.args:
            continue
        last = call.args[-1]
        if call.func.attr == "extend":
            yield from items_of(place.but(last, several=several))
        elif call.func.attr in ("append", "add_module", "insert"):
            yield place.but(last, several=several or call.func.attr == "insert")


def name_values(place: Value, name: str) -> Iterator[Value]:
    """What the function around a place, or the top of its file, gives to a variable."""
    body = place.function.body if place.function is not None else tree_body(place.file)
    for statement, several in _statements(body):
        for target, value in _assignments(statement):
            if isinstance(target, ast.Name) and target.id == name:
                yield place.but(value, several=several)


def returned_values(caller: Value, function: Function) -> Iterator[Value]:
    """What a function of the same file, or a method of the same class, returns."""
    for statement, _ in _statements(function.body):
        if isinstance(statement, ast.Return) and statement.value is not None:
            yield replace(caller, node=statement.value, function=function)


def items_of(place: Value) -> Iterator[Value]:
    """Items of a list, tuple, comprehension or variable that holds one; nothing if not known."""
    node = place.node
    if isinstance(node, (ast.List, ast.Tuple)):
        for item in node.elts:
            if isinstance(item, ast.Starred):
                yield from items_of(place.but(item.value, several=True))
            else:
                yield place.but(item)
    elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        yield place.but(node.elt, several=True)
    elif isinstance(node, ast.Name):
        for value in name_values(place, node.id):
            yield from items_of(value)
        yield from added_values(place, node)


def tree_body(file: str) -> list[ast.stmt]:
    """Statements at the top of a file."""
    tree = tree_of(file)
    return [] if tree is None else tree.body


def _statements(body: list[ast.stmt], several: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements in order, loops and branches entered, nested definitions left out."""
    for statement in body:
        yield statement, several
        if isinstance(statement, (ast.ClassDef, *_FUNCTIONS)):
            continue
        inner = several or isinstance(statement, _LOOPS)
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, part, []), inner)


def _assignments(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield statement.target, statement.value
    if not isinstance(statement, ast.Assign):
        return
    for target in statement.targets:
        yield target, statement.value
        both = (target, statement.value)
        if all(isinstance(side, ast.Tuple) for side in both):
            yield from zip(target.elts, statement.value.elts, strict=False)  # type: ignore[attr-defined]


def _is_attribute(node: ast.expr, own: str, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == own
    )


def _given_module(call: ast.Call, own: str, name: str) -> ast.expr | None:
    arguments = list(call.args)
    if isinstance(call.func, ast.Name) and call.func.id == "setattr" and len(arguments) == 3:
        target = arguments.pop(0)
    elif isinstance(call.func, ast.Attribute) and call.func.attr in (
        "add_module",
        "register_module",
    ):
        target = call.func.value
    else:
        return None
    mine = isinstance(target, ast.Name) and target.id == own
    return arguments[1] if mine and len(arguments) == 2 and _names(arguments[0], name) else None


def _names(node: ast.expr, name: str) -> bool:
    """Whether a string expression, f-strings included, can be ``name``."""
    if isinstance(node, ast.Constant):
        return node.value == name
    if not isinstance(node, ast.JoinedStr):
        return False
    parts = (
        re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
        for part in node.values
    )
    return re.fullmatch("".join(parts), name) is not None


def _same(node: ast.expr, wanted: str) -> bool:
    # a target is stored to in one place and loaded in the other
    return ast.dump(node).replace("Store()", "Load()") == wanted.replace("Store()", "Load()")
