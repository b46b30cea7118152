"""Whatever moves between two calls is put back: the second call is then the first one again."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.observe.experiment.frozen import Frozen

TOTAL = 0


class Tool:
    def __init__(self):
        self.used = 0


class Moves(nn.Module):
    """Moves one thing of its own in each call, and gives a number that depends on it."""

    made = 0

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.count, self.items, self.table, self.tool = 0, [], {"n": 0}, Tool()
        self.numbers = itertools.count()
        self.generator = torch.Generator().manual_seed(1)
        self.numpy, self.legacy = np.random.default_rng(2), np.random.RandomState(3)
        self.python = random.Random(4)
        self.array = np.zeros(2)
        self.register_buffer("buffer", torch.zeros(2))
        self.weight = nn.Parameter(torch.zeros(2))
        self.plain = torch.zeros(2)

    def forward(self):
        return float(getattr(self, f"by_{self.what}")())

    def by_counter(self):
        self.count += 1
        return self.count

    def by_list(self):
        self.items.append(1)
        return len(self.items)

    def by_dict(self):
        self.table["n"] = self.table["n"] + 1
        return self.table["n"]

    def by_object(self):
        self.tool.used += 1
        return self.tool.used

    def by_class(self):
        Moves.made += 1
        return Moves.made

    def by_global(self):
        global TOTAL
        TOTAL += 1
        return TOTAL

    def by_iterator(self):
        return next(self.numbers)

    def by_buffer(self):
        self.buffer += 1
        return self.buffer.sum()

    def by_new_buffer(self):
        self.buffer = self.buffer + 1
        return self.buffer.sum()

    def by_weight(self):
        self.weight.data.add_(1)
        return self.weight.detach().sum()

    def by_attribute(self):
        self.plain.add_(1)
        return self.plain.sum()

    def by_new_attribute(self):
        self.late = getattr(self, "late", 0) + 1
        return self.late

    def by_array(self):
        self.array += 1
        return self.array.sum()

    def by_generator(self):
        return torch.rand((), generator=self.generator)

    def by_numpy(self):
        return self.numpy.random()

    def by_legacy(self):
        return self.legacy.rand()

    def by_python(self):
        return self.python.random()

    def by_global_torch(self):
        return torch.rand(())

    def by_global_numpy(self):
        return np.random.rand()  # noqa: NPY002

    def by_global_python(self):
        return random.random()


WAYS = sorted(name.removeprefix("by_") for name in vars(Moves) if name.startswith("by_"))


@pytest.mark.parametrize("what", WAYS)
def test_it_is_put_back(what):
    module = Moves(what)
    module()
    state = Frozen([module])
    first, second = module(), module()
    assert first != second
    state.narrow()
    for _ in range(2):
        state.restore()
        assert module() == first


@pytest.mark.parametrize("what", WAYS)
def test_a_later_state_is_kept_apart(what):
    module = Moves(what)
    early = Frozen([module])
    first = module()
    early.narrow()
    late = early.again()
    second = module()
    late.restore()
    assert module() == second
    early.restore()
    assert module() == first
