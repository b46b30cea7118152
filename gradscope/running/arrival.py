"""Something to be done as soon as a library has been imported, whoever imports it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Arrival(MetaPathFinder):
    """Waits on ``sys.meta_path`` for one import and is gone after it.

    A script may set environment variables that a library reads while it is imported, so gradscope
    does not import it before the script does.
    """

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        """Make one.

        Args:
            name: name of the library's top-level module.
            then: called once the module has been imported; must not raise.
        """
        self._name = name
        self._then = then

    def begin(self) -> None:
        """Wait from now on; a library that is there already has arrived."""
        if self._name in sys.modules:
            self._then()
        else:
            sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Wait no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The library's own spec, with a loader that tells when it is done."""
        if name != self._name:
            return None
        self.end()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Told(spec, spec.loader, self._then)
        return spec


class _Told(Loader):
    """Loads as the loader that it stands for, which it puts back first."""

    def __init__(self, spec: ModuleSpec, loader: Loader, then: Callable[[], None]) -> None:
        self._spec, self._loader, self._then = spec, loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See ``Loader``."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See ``Loader``."""
        self._spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()
