"""The random states of torch, numpy and random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch (all devices), numpy's legacy generator and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the legacy generator is what scripts use
    random.seed(seed)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put all random states back at the end, so that what ran inside changed none."""
    state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])  # noqa: NPY002
