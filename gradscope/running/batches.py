"""Finding the batches in the user's file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradscope.errors import LoadError
from gradscope.running.objects import Names, call_without_arguments, parameters

Batches = Callable[[], Iterator[Any]]
"""Gives an iterator that begins again when the data end; on the CPU, as the user made them."""

DEFAULT_BATCH = 32


def find_batches(names: Names) -> tuple[Batches, str] | None:
    """The batches and a phrase that says what was taken; None if the file has none.

    Taken is, in this order: ``batches()`` (or an iterable of that name), ``train_loader``,
    ``get_batch()``, ``batch``, a ``Dataset``.

    Raises:
        LoadError: what was found cannot give a batch.
    """
    found = _from_names(names)
    if found is None:
        return _from_dataset(names)
    if names.batch_size is not None and not _takes_size(names):
        names.assume(f"The given batch size is not used: the batches are {found[1]}.")
    return found


def _takes_size(names: Names) -> bool:
    """Whether the function that gives the batches has a parameter for their size."""
    sources = (names.get(name) for name in ("batches", "train_loader", "get_batch"))
    first = next((source for source in sources if source is not None), None)
    return callable(first) and "batch_size" in parameters(first)


def _from_names(names: Names) -> tuple[Batches, str] | None:
    batches = names.get("batches")
    if batches is not None:
        if callable(batches):
            make = _calling(batches, "batches", names)
            return endless(make, "batches()"), "`batches()`"
        return endless(_iterable(batches, "batches", names), "batches"), "`batches`"
    loader = names.get("train_loader")
    if loader is not None:
        return endless(_iterable(loader, "train_loader", names), "train_loader"), "`train_loader`"
    get_batch = names.get("get_batch")
    if get_batch is not None:
        return _one_by_one(get_batch, names), "`get_batch()`"
    if names.get("batch") is not None:
        return _the_same(names.get("batch")), "`batch`, the same in every step"
    return None


def endless(make: Callable[[], Iterable[Any]], name: str) -> Batches:
    """Batches epoch after epoch.

    They end where ``make`` gives nothing more, as a generator object does that is used up.

    Args:
        make: gives the batches of one epoch.
        name: how to call them in a message.
    """

    def iterate() -> Iterator[Any]:
        epochs = 0
        while True:
            batch_seen = False
            for batch in make():
                batch_seen = True
                yield batch
            if not batch_seen:
                if epochs == 0:
                    raise LoadError(
                        f"{name} gives no batch: the data set is empty",
                        hint="a loader with drop_last=True is empty too when the data set is "
                        "smaller than one batch",
                    )
                return
            epochs += 1

    return iterate


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with all its tensors on ``device``; tuples, lists and dicts keep their types."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(item, device) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(moved(item, device) for item in batch)
    if isinstance(batch, dict):
        return {key: moved(item, device) for key, item in batch.items()}
    if hasattr(batch, "to") and callable(batch.to):
        # BatchEncoding, PackedSequence, a graph: objects that know how to move
        return batch.to(device)
    return batch


def _calling(function: Callable[..., Any], name: str, names: Names) -> Callable[[], Iterable[Any]]:
    def make() -> Iterable[Any]:
        result = call_without_arguments(function, name, names)
        return _iterable(result, f"{name}()", names)()

    return make


def _iterable(thing: Any, name: str, names: Names) -> Callable[[], Iterable[Any]]:
    single = isinstance(thing, torch.Tensor) or (
        isinstance(thing, tuple) and all(isinstance(item, torch.Tensor) for item in thing)
    )
    if single or not hasattr(thing, "__iter__"):
        kind = "tuple of tensors" if isinstance(thing, tuple) else type(thing).__name__
        raise LoadError(
            f"{name} is a {kind}, which gives no batches",
            where=names.origin,
            hint="it should be iterable, such as a DataLoader or a list of batches; for a single "
            "batch call it `batch`",
        )
    return lambda: thing


def _one_by_one(function: Any, names: Names) -> Batches:
    if not callable(function):
        raise LoadError(
            f"get_batch is a {type(function).__name__}, not a function",
            where=names.origin,
            hint="for a single batch call it `batch`",
        )

    def iterate() -> Iterator[Any]:
        while True:
            yield call_without_arguments(function, "get_batch", names)

    return iterate


def _the_same(batch: Any) -> Batches:
    def iterate() -> Iterator[Any]:
        while True:
            yield batch

    return iterate


def _from_dataset(names: Names) -> tuple[Batches, str] | None:
    found: dict[str, Dataset[Any]] = {}
    for name, thing in names.found.items():
        if isinstance(thing, Dataset) and not any(thing is other for other in found.values()):
            found[name] = thing
    if not found:
        return None
    trains = [name for name in found if "train" in name.lower()]
    name = trains[0] if trains else next(iter(found))
    if len(found) > 1:
        names.assume(f"`{name}` is the training data, of the data sets {', '.join(found)}.")
    dataset, size = found[name], names.batch_size or DEFAULT_BATCH
    shuffle = not isinstance(dataset, IterableDataset)
    if shuffle and len(dataset) == 0:  # type: ignore[arg-type]
        raise LoadError(
            f"the data set `{name}` is empty", where=names.origin, hint="its length is 0"
        )
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=size, shuffle=shuffle)
    order = "shuffled" if shuffle else "in their own order"
    names.assume(f"Batches of {size} are taken from the data set `{name}`, {order}.")
    return endless(lambda: loader, name), f"the data set `{name}`"
