"""Finds the line that builds a module in the source of the classes above it.

It follows the path of a module from its root: through ``self.<name> = …`` in user's classes, items
of containers, variables and functions that return a module. A line is given only where one
expression alone can be meant.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from gradscope.observe.frames import Site, owner
from gradscope.observe.model.source_candidates import (
    DEPTH,
    calls_class,
    could_be,
    names_class,
    only,
    resolve,
    resolve_all,
    tail,
)
from gradscope.observe.model.source_code import (
    Function,
    Value,
    added_values,
    attribute_values,
    class_node,
    items_of,
    super_call,
    tree_of,
)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class SourceSearch:
    """Finds the lines that build the modules below one root.

    What was found on the way to a path is kept: a model of a thousand modules is searched in one
    pass. Make a new one when the model may have changed.
    """

    def __init__(self, root: nn.Module, file: str | None = None) -> None:
        """Begin with the root.

        Args:
            root: the root module.
            file: file in which the root is built, where its class is one of torch's; the main
                script by default.
        """
        value = _builder(root, file)
        site = _class_site(root) if value is None else Site(value.file, value.line)
        self._found: dict[str, _Found | None] = {"": _Found(root, site, value)}

    def at(self, path: str) -> Site | None:
        """File and line that build the module at ``path`` below the root.

        Args:
            path: as in ``named_modules()``; items of plain lists and dicts count too.

        Returns:
            The place, for the root of a user's class the line of the class. None where nothing or
            more than one place was found.
        """
        found = self._at(path)
        return None if found is None else found.site

    def _at(self, path: str) -> _Found | None:
        if path not in self._found:
            above, _, name = path.rpartition(".")
            parent = self._at(above)
            self._found[path] = None if parent is None else parent.inside(name)
        return self._found[path]


@dataclass(frozen=True)
class _Found:
    """A module on the way, and what is known of how it is built.

    Attributes:
        module: the module, or the list or dict.
        site: where it is built.
        value: the expression that builds it.
        target: what that expression is assigned to, as its function would write it.
        hidden: built inside a torch or library module: the line that builds that one stays.
    """

    module: Any
    site: Site | None
    value: Value | None
    target: ast.expr | None = None
    hidden: bool = False

    def inside(self, name: str) -> _Found | None:
        """What is known of the child of this name; None where there is none."""
        child = _child(self.module, name)
        if child is None:
            return None
        if _is_user_class(self.module):
            own = resolve_all(_attribute(type(self.module), name))
            value = only(own, child)
            if own and not any(could_be(v.node, child) for v in own):
                # it was replaced after the class had built its own
                given = resolve_all(_from_outside(type(self.module), name))
                value = only([v for v in given if calls_class(v.node, type(child))], child)
            if value is None and isinstance(self.module, nn.Sequential):
                value = None if self._handed_up is None else self._handed_up.item(name, child)
            target = None if value is None else value.own_attribute(name)
            return _Found(child, _site(value), value, target)
        if isinstance(self.module, (*_CONTAINERS, list, tuple, dict)) and not self.hidden:
            value = None if self._items is None else self._items.item(name, child)
            return _Found(child, _site(value), value)
        return _Found(child, self.site, None, hidden=True)

    @cached_property
    def _items(self) -> _Items | None:
        if self.value is None:
            return None
        return _Items(self.value, self.target, len(self.module))

    @cached_property
    def _handed_up(self) -> _Items | None:
        """What a user's subclass of a container hands to its ``super().__init__``."""
        given = _super_call(type(self.module))
        return None if given is None else _Items(given, None, len(self.module))


def _site(value: Value | None) -> Site | None:
    return None if value is None else Site(value.file, value.line)


def _child(module: Any, name: str) -> Any:
    if isinstance(module, dict):
        return module.get(name)
    if isinstance(module, (list, tuple)):
        return module[int(name)] if name.isdigit() and int(name) < len(module) else None
    return getattr(module, name, None)


def _is_user_class(module: Any) -> bool:
    return isinstance(module, nn.Module) and _class_file(type(module)) is not None


def _class_file(cls: type) -> str | None:
    """The user's file that defines a class; None for torch's and libraries' classes."""
    for name in ("__init__", "forward"):
        code = getattr(vars(cls).get(name), "__code__", None)
        if code is not None:
            return code.co_filename if owner(code.co_filename) == "user" else None
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file if file is not None and owner(file) == "user" else None


def _class_site(module: nn.Module) -> Site | None:
    file = _class_file(type(module))
    tree = tree_of(file) if file is not None else None
    node = class_node(tree, type(module).__qualname__) if tree is not None else None
    return None if file is None or node is None else Site(file, node.lineno)


def _attribute(cls: type, name: str) -> list[Value]:
    for base in cls.__mro__:
        file = _class_file(base)
        tree = tree_of(file) if file is not None else None
        node = class_node(tree, base.__qualname__) if tree is not None else None
        if file is None or node is None:
            continue
        if found := list(attribute_values(file, node, name)):
            return found
    return []


def _from_outside(cls: type, name: str) -> list[Value]:
    """What the file of a class gives its objects from outside, as ``model.head = …``."""
    file = _class_file(cls)
    tree = tree_of(file) if file is not None else None
    if file is None or tree is None:
        return []
    inside = _functions_of(tree)
    parts = _parts_of_classes(tree)
    return [
        Value(file, node.value, inside.get(id(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and id(node) not in parts
        and any(isinstance(t, ast.Attribute) and t.attr == name for t in node.targets)
    ]


def _functions_of(tree: ast.AST) -> dict[int, Function]:
    """The function around each node, by the node's id."""
    functions = [
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return {id(node): f for f in functions for node in ast.walk(f)}


def _parts_of_classes(tree: ast.AST) -> set[int]:
    """Ids of the nodes inside the classes of a file."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {id(node) for definition in classes for node in ast.walk(definition)}


def _super_call(cls: type) -> Value | None:
    """What a user's subclass of a container hands to ``super().__init__``."""
    file = _class_file(cls)
    tree = tree_of(file) if file is not None else None
    node = class_node(tree, cls.__qualname__) if tree is not None else None
    return None if file is None or node is None else super_call(file, node)


class _Items:
    """The expressions of the items of a container of ``length`` items that ``value`` builds."""

    def __init__(self, value: Value, target: ast.expr | None, length: int) -> None:
        self._length = length
        self._named: dict[Any, list[Value]] = {}
        for key, item in _named_items(value):
            self._named.setdefault(key, []).append(item)
        self._listed = list(_items(value))
        if target is not None:
            self._listed += added_values(value, target)
        loops = [position for position, item in enumerate(self._listed) if item.several]
        self._first = loops[0] if loops else None
        self._last = loops[-1] if loops else -1
        self._between: list[Value] | None = None

    def item(self, name: str, child: Any) -> Value | None:
        """The one expression that can have built the item of this name."""
        if self._named:
            return only(resolve_all(self._named.get(name, [])), child)
        return only(self._candidates(int(name)), child) if name.isdigit() else None

    def _candidates(self, index: int) -> list[Value]:
        items = self._listed
        if self._first is None:
            return resolve_all(items[index : index + 1]) if len(items) == self._length else []
        if index < self._first:
            return resolve_all([items[index]])
        if self._length - index < len(items) - self._last:
            # behind the last loop positions are known from the end
            return resolve_all([items[index - self._length]])
        if self._between is None:
            self._between = resolve_all(items[self._first : self._last + 1])
        return self._between


def _items(value: Value) -> Iterator[Value]:
    node = value.node
    if not isinstance(node, ast.Call):
        yield from items_of(value)
        return
    if tail(node.func) in ("ModuleList", "list", "tuple"):
        for argument in node.args[:1]:
            yield from items_of(value.but(argument))
        return
    if tail(node.func) not in ("Sequential", "__init__"):
        return
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            yield from items_of(value.but(argument.value))
        else:
            yield value.but(argument)


def _named_items(value: Value) -> list[tuple[Any, Value]]:
    node = value.node
    if isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]
    if isinstance(node, ast.Call) and tail(node.func) in ("OrderedDict", "dict") and node.args:
        node = node.args[0]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [(k.value, value.but(v)) for k, v in pairs if isinstance(k, ast.Constant)]
    if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
        if not all(isinstance(pair, ast.Tuple) and len(pair.elts) == 2 for pair in node.elts):
            return []
        split = [(pair.elts[0], pair.elts[1]) for pair in node.elts if isinstance(pair, ast.Tuple)]
        return [(k.value, value.but(v)) for k, v in split if isinstance(k, ast.Constant)]
    return []


def _builder(root: nn.Module, file: str | None) -> Value | None:
    """The expression in a file that builds a root of one of torch's classes."""
    if _is_user_class(root) or not isinstance(root, _CONTAINERS):
        return None
    place = file or getattr(sys.modules.get("__main__"), "__file__", None)
    tree = tree_of(place) if place is not None else None
    if tree is None or place is None or owner(place) != "user":
        return None
    inside, parts = _functions_of(tree), _parts_of_classes(tree)
    calls = [
        Value(place, node, inside.get(id(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and tail(node.func) == type(root).__name__
        and id(node) not in parts  # what a class builds is a part of it, no root
    ]
    # one whose items are all known tells more than one that is filled in a loop
    for certain in (True, False):
        fitting = [call for call in calls if _fits(call, root) is (True if certain else None)]
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _fits(call: Value, root: nn.Module) -> bool | None:
    """Whether a container's literal can have built a root: as many items, of the same classes.

    None where its items are not known.
    """
    items, children = list(_items(call)), list(root.children())
    pairs = _named_items(call)
    if pairs:
        return [key for key, _ in pairs] == [name for name, _ in root.named_children()]
    if any(item.several for item in items):
        ends = [end.node for item in items for end in resolve(item, DEPTH)]
        kinds = {type(child) for child in children}
        named = all(any(names_class(end, kind) for end in ends) for kind in kinds)
        return None if named else False
    if len(items) != len(children):
        return False
    return all(
        all(could_be(end.node, child) for end in resolve(item, DEPTH))
        for item, child in zip(items, children, strict=True)
    )
