"""A model that brings its own loop parts, as a LightningModule does; told by its methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gradscope.errors import LoadError
from gradscope.running.batches import Batches, endless
from gradscope.running.failures import user_code
from gradscope.running.losses import Loss
from gradscope.running.objects import Names, required

_FRAMEWORKS = ("lightning", "pytorch_lightning")


def brings_its_loop(model: nn.Module) -> bool:
    """Whether the model has ``training_step`` and ``configure_optimizers``."""
    return all(
        callable(getattr(model, name, None)) for name in ("training_step", "configure_optimizers")
    )


def own_batches(model: nn.Module) -> tuple[Batches, str] | None:
    """Batches of the model's ``train_dataloader()``, None if it has none of its own.

    ``prepare_data`` and ``setup`` run first, as a trainer would run them.
    """
    if not _defines(model, "train_dataloader"):
        return None
    with user_code(LoadError, "train_dataloader()"):
        if _defines(model, "prepare_data"):
            model.prepare_data()  # type: ignore[operator]
        if _defines(model, "setup"):
            model.setup("fit")  # type: ignore[operator]
        loader: Any = model.train_dataloader()  # type: ignore[operator]
    return endless(lambda: loader, "train_dataloader()"), "the model's `train_dataloader()`"


def own_loss(names: Names, model: nn.Module) -> tuple[Loss, str]:
    """The loss of the model's ``training_step``.

    Raises:
        LoadError: the model steps its optimizers itself.
    """
    if getattr(model, "automatic_optimization", True) is False:
        raise LoadError(
            f"{type(model).__name__} steps its optimizers itself (automatic_optimization = False)",
            where=names.origin,
            hint="put `with gradscope.watch(model):` around trainer.fit(…) instead",
        )
    with_index = len(required(model.training_step)) > 1  # type: ignore[arg-type]
    counted = iter(range(2**62))

    def loss(module: nn.Module, batch: Any) -> Tensor:
        # the index only counts, so it is no part of what is passed in from outside
        arguments = (batch, next(counted)) if with_index else (batch,)
        result = module.training_step(*arguments)  # type: ignore[operator]
        return result["loss"] if isinstance(result, Mapping) else result  # type: ignore[no-any-return]

    return loss, "the model's `training_step`"


def _defines(model: nn.Module, name: str) -> bool:
    """Whether a class of the user's, not the framework's base class, has the method."""
    for cls in type(model).__mro__:
        if name in vars(cls):
            return cls.__module__.split(".")[0] not in _FRAMEWORKS
    return False
