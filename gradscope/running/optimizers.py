"""Finding the optimizer in the user's file."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from gradscope.errors import LoadError
from gradscope.running.failures import user_code
from gradscope.running.objects import Names, required, where

DEFAULT_LR = 1e-3


def find_optimizer(names: Names, model: nn.Module) -> tuple[Any, tuple[Any, ...], str]:
    """The optimizer, the schedulers to be stepped after it, and a phrase that says what was taken.

    Taken is, in this order: ``optimizer``, ``make_optimizer(model)``, ``configure_optimizers``
    of the file or of the model, and else AdamW with a learning rate of 0.001.

    Raises:
        LoadError: nothing can be trained, or what was found is no optimizer.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        count = sum(1 for _ in model.parameters())
        raise LoadError(
            f"nothing to train: none of the {count} parameters of {type(model).__name__} requires "
            "grad"
            if count
            else f"nothing to train: {type(model).__name__} has no parameters",
            hint="set requires_grad on the parameters that should be trained"
            if count
            else "modules kept in a plain list or dict are not seen: use nn.ModuleList, ModuleDict",
        )
    found = names.get("optimizer")
    if found is not None:
        return _checked(found, "optimizer", names), (), "`optimizer`"
    make = names.get("make_optimizer")
    if callable(make):
        with user_code(LoadError, "make_optimizer(model)"):
            made = make(model)
        return _checked(made, "make_optimizer(model)", names, make), (), "`make_optimizer(model)`"
    configure = names.get("configure_optimizers") or getattr(model, "configure_optimizers", None)
    if callable(configure):
        with user_code(LoadError, "configure_optimizers()"):
            made = configure(model) if required(configure) else configure()
        optimizer, schedulers = _configured(made, names)
        return optimizer, schedulers, "`configure_optimizers()`"
    names.assume(
        f"No optimizer was found: it is AdamW with a learning rate of {DEFAULT_LR} over all "
        "trainable parameters."
    )
    return torch.optim.AdamW(trainable, lr=DEFAULT_LR), (), f"AdamW, lr {DEFAULT_LR}"


def needs_closure(optimizer: Any) -> bool:
    """Whether ``step`` must be given a function that computes the loss again (LBFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return isinstance(optimizer, torch.optim.LBFGS) or (
        closure is not None and closure.default is closure.empty
    )


def _checked(found: Any, name: str, names: Names, maker: Any = None) -> Any:
    if inspect.isclass(found) or not all(hasattr(found, part) for part in ("step", "zero_grad")):
        kind = f"the class {found.__name__}" if inspect.isclass(found) else type(found).__name__
        raise LoadError(
            f"{name} is no optimizer but {kind}",
            where=where(maker, names) if maker else names.origin,
            hint="it should be an object such as torch.optim.SGD(model.parameters(), lr=0.1)",
        )
    return found


def _configured(made: Any, names: Names) -> tuple[Any, tuple[Any, ...]]:
    """Read what Lightning allows ``configure_optimizers`` to return."""
    schedulers: list[Any] = []
    if isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], list | tuple):
        made, schedulers = made[0], list(made[1])
    items = list(made) if isinstance(made, tuple | list) else [made]
    if len(items) != 1:
        raise LoadError(
            f"configure_optimizers() returned {len(items)} optimizers",
            where=names.origin,
            hint="gradscope check runs a loop with one; put `with gradscope.watch(…):` around your "
            "own loop instead",
        )
    optimizer = items[0]
    if isinstance(optimizer, dict):
        schedulers = [optimizer["lr_scheduler"]] if "lr_scheduler" in optimizer else schedulers
        optimizer = optimizer.get("optimizer")
    each_step = []
    for item in schedulers:
        config = item if isinstance(item, dict) else {"scheduler": item}
        if config.get("interval", "epoch") == "step":
            each_step.append(config["scheduler"])
        else:
            names.assume(
                f"The schedule {type(config['scheduler']).__name__} moves once an epoch; it is not "
                "run."
            )
    return _checked(optimizer, "configure_optimizers()", names), tuple(each_step)
