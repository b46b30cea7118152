"""Tensors in whatever a module takes or returns."""

from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gradscope.observe.reading.containers import batch_of, numbers_in, tensors_in

A, B = torch.ones(2), torch.zeros(3, dtype=torch.int64)
Pair = namedtuple("Pair", "a b")


@dataclass
class Output:
    a: torch.Tensor
    rest: list


class Custom:
    def __init__(self):
        self.a, self.b, self.text, self.deep = A, B, "no tensor", [A]


@pytest.mark.parametrize(
    "tree",
    [
        (A, [B]), {"a": A, "b": {"c": B}}, OrderedDict(a=A, b=(B,)), Pair(A, B), deque([A, B]),
        Output(A, [None, {"b": B}]), Custom(), [1, "text", None, A, B.device, B],
    ],
    ids=lambda tree: type(tree).__name__,
)  # fmt: skip
def test_tensors_are_found_in_order(tree):
    found = tensors_in(tree)
    assert [t is e for t, e in zip(found, (A, B), strict=True)] == [True, True]
    assert [t is A for t in numbers_in(tree)] == [True]


def test_what_is_no_container():
    assert tensors_in((nn.Linear(2, 2), Output, "text", 3.0)) == []


def test_the_batch_is_the_first_axis_of_the_first_tensor():
    assert batch_of((torch.tensor(1), B), {}) == 3
    assert batch_of((), {"given": Output(torch.ones(5, 2), [])}) == 5
    assert batch_of((1,), {}) is None
