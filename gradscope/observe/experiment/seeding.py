"""Another seed for code that sets its own: an offset on every seed that it gives."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def shift_seeds(offset: int) -> None:
    """Add ``offset`` to every seed given to torch, numpy, random and generators from now on.

    For a process of its own: nothing is put back. What decides a data set (scikit-learn's
    ``random_state``) stays, because another data set is another task. All states are seeded once
    by ``offset`` for code that never seeds.
    """
    torch.manual_seed(offset)
    random.seed(offset)
    np.random.seed(offset)  # noqa: NPY002  the legacy generator is what scripts use
    torch.manual_seed = _shifted(torch.manual_seed, offset)
    torch.random.manual_seed = _shifted(torch.random.manual_seed, offset)
    random.seed = _shifted(random.seed, offset)
    np.random.seed = _shifted(np.random.seed, offset)
    np.random.default_rng = _shifted(np.random.default_rng, offset)
    torch.Generator = _generator(offset)  # type: ignore[misc]


def _shifted(original: Callable[..., Any], offset: int) -> Callable[..., Any]:
    @functools.wraps(original)
    def seed(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], int) and not isinstance(args[0], bool):
            args = ((args[0] + offset) % 2**32, *args[1:])
        else:
            kwargs = {
                k: v + offset if k in ("seed", "a") and isinstance(v, int) else v
                for k, v in kwargs.items()
            }
        return original(*args, **kwargs)

    return seed


def _generator(offset: int) -> type[torch.Generator]:
    class Generator(torch.Generator):
        """torch's own, whose method cannot be exchanged, with another seed."""

        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + offset)

    return Generator
