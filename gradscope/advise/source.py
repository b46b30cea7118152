"""Finding the code: which call in the user's file built a module.

Nothing is guessed. The recorded line must hold exactly one call of the module's own class that
fits the module's path; else there is no site, and a fix gives a snippet in place of a diff.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradscope.advise.layers import Layer, Layers
from gradscope.advise.names import last_name
from gradscope.advise.source_file import SourceFile
from gradscope.recording.reader import Recording

_ITEMS_BY_INDEX = ("Sequential", "ModuleList")


@dataclass(frozen=True, slots=True)
class Site:
    """The call that built one or more modules.

    Attributes:
        file: the file it stands in.
        call: the call, ``nn.Linear(64, 32)``.
        layers: every layer that this call built, in the order of their ids: more than one in a
            loop, a comprehension, a helper function or a class that is used several times.
    """

    file: SourceFile
    call: ast.Call
    layers: tuple[Layer, ...]

    def argument(self, position: int, *keywords: str) -> str | None:
        """Text of an argument by position or by keyword; None if it cannot be seen."""
        for keyword in self.call.keywords:
            if keyword.arg in keywords:
                return self.file.code(keyword.value)
        before = self.call.args[: position + 1]
        if len(before) <= position or any(isinstance(a, ast.Starred) for a in before):
            return None
        return self.file.code(self.call.args[position])

    @property
    def line(self) -> int:
        """Line of the call, from 1."""
        return self.call.lineno


class Source:
    """The user's files of a recording, and where in them things are.

    Attributes:
        layers: the modules of the recording.
    """

    def __init__(self, recording: Recording) -> None:
        self.layers = Layers(recording)
        self._recording = recording

    @cached_property
    def files(self) -> dict[str, SourceFile]:
        """The recorded files that parse, by the path under which they were recorded."""
        found = {}
        for name, text in self._recording.sources.items():
            try:
                found[name] = SourceFile(name, text)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                # it ran, so it parsed then: the recorded text is cut or not Python (a notebook)
                continue
        return found

    def site(self, layer: Layer) -> Site | None:
        """The call that built ``layer``, None if it cannot be told for certain."""
        return self._sites.get(layer.id)

    def place(self, file: str | None, line: int | None) -> tuple[SourceFile, int] | None:
        """A recorded file and line, None if either is absent or the file's text is not there."""
        if file is None or line is None or file not in self.files:
            return None
        return self.files[file], line

    def site_of_event(self, site: Any) -> tuple[SourceFile, int] | None:
        """The place that a recorded ``file:line`` names."""
        file, _, line = site.rpartition(":") if isinstance(site, str) else ("", "", "")
        return self.place(file, int(line)) if line.isdigit() else None

    @cached_property
    def _sites(self) -> dict[int, Site]:
        built: dict[int, tuple[SourceFile, ast.Call]] = {}
        for layer in self.layers.by_id.values():
            at = self.place(layer.file, layer.line)
            call = _call_that_built(at[0], at[1], layer) if at else None
            if at and call is not None:
                built[layer.id] = (at[0], call)
        sharing: dict[int, list[Layer]] = {}
        for identity, (_, call) in sorted(built.items()):
            sharing.setdefault(id(call), []).append(self.layers.by_id[identity])
        return {
            identity: Site(file, call, tuple(sharing[id(call)]))
            for identity, (file, call) in built.items()
        }


def _call_that_built(file: SourceFile, line: int, layer: Layer) -> ast.Call | None:
    named = [c for c in file.calls_at(line) if last_name(file, c) == layer.type]
    calls = [c for c in named if not _contradicts(c, layer)]
    if len(calls) > 1:
        path = layer.path.split(".")
        calls = [c for c in calls if _fits(_address(file, c), path)]
    return calls[0] if len(calls) == 1 else None


def _contradicts(call: ast.Call, layer: Layer) -> bool:
    """Whether the call names a width that is not the layer's."""
    if layer.type != layer.torch_type or any(isinstance(a, ast.Starred) for a in call.args):
        return False
    widths = {"in": layer.inputs, "out": layer.channels}
    given = {k.arg.partition("_")[0]: k.value for k in call.keywords if k.arg}
    given.update(zip(("in", "out"), call.args, strict=False))
    return any(
        isinstance(node, ast.Constant) and node.value != widths[name]
        for name, node in given.items()
        if widths.get(name) is not None
    )


def _fits(address: list[str], path: list[str]) -> bool:
    return bool(address) and path[-len(address) :] == address


def _address(file: SourceFile, call: ast.Call) -> list[str]:
    """The end of a module's path as the nesting of ``call`` in the text gives it."""
    parts: list[str] = []
    node: ast.AST = call
    while True:
        step = _step_up(file, node)
        if step is None:
            return parts[::-1]
        part, node, last = step
        parts.append(part)
        if last:
            return parts[::-1]


def _step_up(file: SourceFile, node: ast.AST) -> tuple[str, ast.AST, bool] | None:
    """Name of ``node`` in what holds it, the holder, and whether that ends the path."""
    parent = file.parents.get(node)
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Attribute):
        return parent.targets[0].attr, parent, True
    if isinstance(parent, ast.Call) and node in parent.args:
        return _of_container(file, parent, list(parent.args), node)
    if isinstance(parent, ast.List | ast.Tuple) and node in parent.elts:
        return _of_display(file, parent, node)
    if isinstance(parent, ast.Dict) and node in parent.values:
        key = parent.keys[parent.values.index(node)]
        holder = file.parents.get(parent)
        if isinstance(key, ast.Constant) and isinstance(holder, ast.Call):
            return str(key.value), holder, False
    return None


def _of_display(
    file: SourceFile, display: ast.List | ast.Tuple, node: ast.AST
) -> tuple[str, ast.AST, bool] | None:
    holder = file.parents.get(display)
    first = display.elts[0]
    if len(display.elts) == 2 and isinstance(first, ast.Constant) and isinstance(first.value, str):
        # ("fc1", nn.Linear(…)) of an OrderedDict
        call = file.enclosing(display, ast.Call)
        # the dict is only the way in which the names get into the Sequential
        while call is not None and last_name(file, call) == "OrderedDict":
            call = file.enclosing(call, ast.Call)
        return (first.value, call, False) if call is not None else None
    if isinstance(holder, ast.Starred):
        outer = file.parents.get(holder)
        if isinstance(outer, ast.Call) and len(outer.args) == 1:
            return _of_container(file, outer, list(display.elts), node)
    if isinstance(holder, ast.Call) and holder.args == [display]:
        return _of_container(file, holder, list(display.elts), node)
    return None


def _of_container(
    file: SourceFile, call: ast.Call, items: list[ast.expr], node: ast.AST
) -> tuple[str, ast.AST, bool] | None:
    index = next(i for i, item in enumerate(items) if item is node)
    if any(isinstance(item, ast.Starred) for item in items[:index]):
        return None
    if last_name(file, call) in _ITEMS_BY_INDEX:
        return str(index), call, False
    return None
