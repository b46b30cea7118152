"""Which expression in the source can have built a module: names and functions followed to it."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from gradscope.observe.model.source_code import (
    Function,
    Value,
    function_node,
    name_values,
    returned_values,
    tree_of,
)

DEPTH = 8
"""Names and functions followed from one expression."""


def resolve_all(values: Iterable[Value]) -> list[Value]:
    """``resolve`` for several."""
    return [end for value in values for end in resolve(value, DEPTH)]


def resolve(value: Value, depth: int) -> Iterator[Value]:
    """The expressions that make an object, names and functions of the same file followed."""
    node = value.node
    if depth == 0:
        return
    if isinstance(node, ast.IfExp):
        for branch in (node.body, node.orelse):
            yield from resolve(value.but(branch), depth - 1)
    elif isinstance(node, ast.Name):
        # an argument of the function is built by a caller that is not known here
        for given in name_values(value, node.id):
            yield from resolve(given, depth - 1)
    elif (function := _called(value)) is not None:
        for returned in returned_values(value, function):
            yield from resolve(returned, depth - 1)
    else:
        yield value


def _called(value: Value) -> Function | None:
    """The function of the same file, or method of the same object, that an expression calls."""
    node = value.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return value.own_method()
    tree = tree_of(value.file)
    return function_node(tree, node.func.id) if tree is not None else None


def only(values: list[Value], module: Any) -> Value | None:
    """The one expression that can have built a module; by its class where there are several."""
    values = [value for value in values if could_be(value.node, module)]
    if len(values) > 1:
        values = [value for value in values if names_class(value.node, type(module))]
    return values[0] if len(values) == 1 else None


def names_class(node: ast.expr, cls: type) -> bool:
    """Whether a call of a class of this name stands anywhere in an expression."""
    return any(
        isinstance(call, ast.Call) and tail(call.func) == cls.__name__ for call in ast.walk(node)
    )


def calls_class(node: ast.expr, cls: type) -> bool:
    """Whether an expression is a call of a class of this name."""
    return isinstance(node, ast.Call) and tail(node.func) == cls.__name__


def tail(function: ast.expr) -> str | None:
    """The last name of ``a.b.c``."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def could_be(node: ast.expr, module: Any) -> bool:
    """False where an expression calls another one of torch.nn's classes than the module's.

    Also where it gives that class another number than the module has: a head that was replaced
    after the model was built was not built where its class builds one.
    """
    if not isinstance(node, ast.Call):
        return True
    name = tail(node.func)
    cls = None if name is None else getattr(nn, name, None)
    if not isinstance(cls, type):
        return True
    return name == type(module).__name__ and not _other_numbers(node, cls, module)


def _other_numbers(call: ast.Call, cls: type, module: Any) -> bool:
    """Whether a call gives a whole number where the module's attribute is another one."""
    names = list(inspect.signature(cls).parameters)
    # zip ends at the shorter one: a starred argument hides what follows it
    plain = itertools.takewhile(lambda arg: not isinstance(arg, ast.Starred), call.args)
    given = [*zip(names, plain, strict=False)]
    given += [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg]
    return any(
        isinstance(value, ast.Constant)
        and type(value.value) is int
        and type(own := getattr(module, name, None)) is int
        and own != value.value
        for name, value in given
    )
