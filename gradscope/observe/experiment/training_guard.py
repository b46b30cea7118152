"""Stops a file that trains while it is imported at its first optimizer step."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle


class TrainedWhileImported(BaseException):
    """Raised inside the user's ``optimizer.step()``.

    Not an ``Exception``: a file that catches those around its steps must not go on training.
    """


class TrainingGuard:
    """Context manager: inside it the first step of any optimizer raises TrainedWhileImported."""

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> TrainingGuard:
        self._handle = register_optimizer_step_pre_hook(self._refuse)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @staticmethod
    def _refuse(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        raise TrainedWhileImported
