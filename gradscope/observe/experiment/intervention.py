"""What a treated training does differently: the places at which a change may act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gradscope.observe.frames import Site


class Intervention:
    """A change of a running training, in memory.

    Each method is one place at which it may act; what is not overridden leaves that place as it
    is. An instance is sent to child processes, so it must be picklable, and it is told of one
    training only.

    Attributes:
        applied: whether it has found its place and acted; a trial in which it has not is none.
    """

    operations: ClassVar[frozenset[str]] = frozenset()
    """Names of the functions of torch for which ``call`` is asked; empty for none."""
    rescales_loss: ClassVar[bool] = False
    """Whether the loss means something else afterwards, so that it cannot be compared."""

    def __init__(self) -> None:
        self.applied = False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        fields = {k: v for k, v in vars(self).items() if k != "applied" and not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in fields.items())})"

    def model(self, root: nn.Module) -> None:
        """Change the model, before its first forward pass that is trained on."""

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
             kwargs: dict[str, Any], site: Site | None) -> Any:  # fmt: skip
        """Do what stands for ``function(*args, **kwargs)``; NotImplemented to leave it."""
        return NotImplemented

    def loss(self, loss: Tensor) -> Tensor:
        """The scalar to be differentiated in place of ``loss``."""
        return loss

    def recorded(self, loss: float) -> float:
        """What the trial notes for a loss, in the unchanged training's unit."""
        return loss

    def gradients(self, parameters: Sequence[Tensor]) -> None:
        """The gradients of ``parameters`` are complete and about to be used."""

    def step_begin(self, optimizer: Any) -> None:
        """An optimizer is about to step; its gradients are complete."""

    def step_end(self, optimizer: Any) -> None:
        """The optimizer has stepped."""

    def added(self) -> Sequence[Tensor]:
        """New parameters, which the optimizer of the model's other ones is to train."""
        return ()

    def zero_grad(self, owner: Any) -> bool:
        """Whether a call of ``zero_grad`` is let through."""
        return True

    def clip(self, limit: float) -> float | None:
        """The limit in place of ``limit`` of a clipping call; None not to clip there."""
        return limit

    def autocast(self, dtype: Any) -> Any:
        """The number format in place of ``dtype`` of an autocast."""
        return dtype


class NoOp(Intervention):
    """Adds a hook that hands on what it was given: the harmless edit of the self-test."""

    def model(self, root: nn.Module) -> None:
        """Put the hook on every leaf."""
        from gradscope.observe.experiment.steering import after

        for module in root.modules():
            if next(module.children(), None) is None:
                after(module, _same)
        self.applied = True


def _same(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return output
