"""The pytest plugin: the fixture ``gradscope``, so that a model's gradient flow is a unit test.

pytest loads this module in every session of an environment that has gradscope, so it imports
nothing but pytest until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


class Trainability:
    """What the fixture gives.

    Attributes:
        folder: where the recordings of this test are kept, in its ``tmp_path``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = 0

    def assert_trainable(
        self,
        model: Any,
        batch: Any,
        loss_fn: Any = None,
        *,
        steps: int = 100,
        optimizer: Any = None,
        select: Iterable[str] = (),
        ignore: Iterable[str] = (),
        fail_on: str = "warning",
        try_fixes: bool = False,
    ) -> None:
        """``gradscope.assert_trainable``, whose recording pytest keeps for ``gradscope report``.

        Raises:
            AssertionError: something is wrong with the gradients; its text is that of the command.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        from gradscope.session.trainable import assert_trainable

        self._calls += 1
        assert_trainable(
            model, batch, loss_fn, steps=steps, optimizer=optimizer, select=select, ignore=ignore,
            fail_on=fail_on, try_fixes=try_fixes, run_dir=self.folder / f"gradscope-{self._calls}",
        )  # fmt: skip


@pytest.fixture
def gradscope(tmp_path: Path) -> Trainability:
    """``gradscope.assert_trainable(model, batch, loss_fn)`` fails where the command would."""
    return Trainability(tmp_path)
