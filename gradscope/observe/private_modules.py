"""Names from torch's private modules, each with a public fallback.

Like ``private``, this is the only file that imports these modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

    DispatchMode = TorchDispatchMode
else:
    try:
        from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
    except ImportError:

        class DispatchMode:
            """A mode that no operation passes through: the search behind it finds nothing."""

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None


def _pytree() -> Any | None:
    try:
        return importlib.import_module("torch.utils._pytree")
    except ImportError:
        return None


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``function`` of each leaf.

    Containers are those that torch knows, registered ones (the outputs of transformers) included;
    without torch's own walk tuples, lists and dicts.
    """
    own = _pytree()
    if own is not None:
        return own.tree_map(function, tree)
    if isinstance(tree, dict):
        return type(tree)((key, tree_map(function, value)) for key, value in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(tree_map(function, item) for item in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(tree_map(function, item) for item in tree)
    return function(tree)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of ``tree``, in order; containers as in ``tree_map``."""
    own = _pytree()
    return list(own.tree_leaves(tree)) if own is not None else list(_leaves(tree))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if not isinstance(tree, list | tuple):
        yield tree
        return
    for item in tree:
        yield from _leaves(item)
