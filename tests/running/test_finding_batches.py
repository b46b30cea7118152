"""Which batches are taken from a file, and how long they last."""

from itertools import islice

import pytest
import torch

from gradscope.errors import LoadError
from gradscope.running.batches import endless, moved

MODEL = "model = nn.Linear(3, 2)\n"
PAIR = "(torch.full((4, 3), {0}), torch.zeros(4, 2))"


def firsts(found, count=3):
    return [batch[0][0, 0].item() for batch in islice(found.batches(), count)]


@pytest.mark.parametrize(
    ("text", "took", "values"),
    [
        (
            f"def batches():\n    for i in (1., 2.):\n        yield {PAIR.format('i')}\n",
            "`batches()`",
            [1, 2, 1],
        ),
        (f"batches = [{PAIR.format('1.')}, {PAIR.format('2.')}]\n", "`batches`", [1, 2, 1]),
        (
            "from torch.utils.data import DataLoader, TensorDataset\n"
            "data = TensorDataset(torch.full((4, 3), 5.), torch.zeros(4, 2))\n"
            "train_loader = DataLoader(data, 2)\n",
            "`train_loader`",
            [5, 5, 5],
        ),
        (
            f"n = 0\ndef get_batch():\n    global n\n    n += 1.\n    return {PAIR.format('n')}\n",
            "`get_batch()`",
            None,
        ),
        (f"batch = {PAIR.format('7.')}\n", "`batch`, the same in every step", [7, 7, 7]),
        (
            "from torch.utils.data import TensorDataset\n"
            "data = TensorDataset(torch.full((4, 3), 9.), torch.zeros(4, 2))\n",
            "the data set `data`",
            [9, 9, 9],
        ),
    ],
)
def test_each_source_is_found(desk, text, took, values):
    found = desk.load(MODEL + text)
    assert found.took["batches"] == took
    seen = firsts(found)
    if values is None:
        assert seen[1] == seen[0] + 1
    else:
        assert seen == values


def test_batches_go_before_a_loader_and_a_loader_before_a_batch(desk):
    text = MODEL + f"batch = {PAIR.format('1.')}\ntrain_loader = [{PAIR.format('2.')}]\n"
    assert firsts(desk.load(text), 1) == [2]
    assert firsts(desk.load(text + f"batches = [{PAIR.format('3.')}]\n"), 1) == [3]


def test_the_training_set_is_taken_of_several(desk):
    found = desk.load(
        MODEL + "from torch.utils.data import TensorDataset as T\n"
        "test_set, train_set = (T(torch.full((40, 3), v), torch.zeros(40, 2)) for v in (1., 2.))\n",
        batch_size=8,
    )
    batch = next(found.batches())
    assert batch[0].shape == (8, 3)
    assert batch[0][0, 0] == 2
    assert any("`train_set` is the training data" in s for s in found.assumptions)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batches = []\n", "batches gives no batch: the data set is empty"),
        ("def batches():\n    return iter(())\n", "batches() gives no batch"),
        (
            "from torch.utils.data import TensorDataset\ndata = TensorDataset(torch.zeros(0, 3))\n",
            "the data set `data` is empty",
        ),
        (
            "from torch.utils.data import DataLoader, TensorDataset\n"
            "train_loader = DataLoader(TensorDataset(torch.zeros(3, 3)), 8, drop_last=True)\n",
            "train_loader gives no batch",
        ),
        ("train_loader = torch.zeros(3)\n", "train_loader is a Tensor, which gives no batches"),
        ("batches = torch.zeros(3), torch.zeros(3)\n", "batches is a tuple of tensors"),
        ("def get_batch(split):\n    pass\n", "get_batch() needs the argument split"),
        ("get_batch = 3\n", "get_batch is a int, not a function"),
        (
            "def batches():\n    raise ValueError('odd')\n",
            "the first batch failed: ValueError: odd",
        ),
    ],
)
def test_bad_batches_are_told(desk, text, words):
    with pytest.raises(LoadError) as caught:
        desk.load(MODEL + text)
    assert words in caught.value.what


def test_a_generator_that_is_used_up_ends_the_batches():
    generator = iter([1, 2])
    assert list(endless(lambda: generator, "batches")()) == [1, 2]


def test_moving_keeps_the_containers():
    from collections import namedtuple

    Pair = namedtuple("Pair", "x y")
    device = torch.device("meta")
    batch = moved({"a": [torch.zeros(2)], "b": Pair(torch.zeros(1), "text"), "c": 3}, device)
    assert batch["a"][0].device == device
    assert isinstance(batch["b"], Pair)
    assert batch["b"].x.device == device
    assert (batch["b"].y, batch["c"]) == ("text", 3)


def test_the_batch_size_goes_to_a_function_that_takes_it(desk):
    text = (
        "def batches(batch_size=2):\n"
        "    yield torch.zeros(batch_size, 3), torch.zeros(batch_size, 2)\n"
    )
    found = desk.load(MODEL + text, batch_size=6)
    assert next(found.batches())[0].shape == (6, 3)
    assert not any("batch size is not used" in s for s in found.assumptions)


def test_a_batch_size_that_is_not_used_is_said(desk):
    found = desk.load(MODEL + f"train_loader = [{PAIR.format('1.')}]\n", batch_size=6)
    assert any("The given batch size is not used" in s for s in found.assumptions)
