"""Made-up inputs: their shape, and that a healthy model of any kind learns them."""

import pytest
import torch

from gradscope.errors import LoadError
from gradscope.running.training import train

MLP = "model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))\n"
CNN = (
    "model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(),"
    " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))\n"
)
FIXED = "model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3))\n"
SERIES = (
    "model = nn.Sequential(nn.Conv1d(2, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),"
    " nn.Linear(64, 4))\n"
)
TEXT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 32)
        self.rnn = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, {width})
    def forward(self, x):
        return self.head(self.rnn(self.embedding(x))[0]{last})
"""
RECURRENT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 32)
        self.head = nn.Linear(32, 2)
    def forward(self, x):
        return self.head(self.rnn(x)[0])
"""
AUTOENCODER = "model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 30))\n"
VALUE = "model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))\n"
KINDS = [
    (MLP, (32, 20), "`0` (Linear)"),
    (CNN, (32, 3, 28, 28), "`0` (Conv2d)"),
    (FIXED, (32, 1, 32, 32), "`0` (Conv2d)"),
    (SERIES, (32, 2, 64), "`0` (Conv1d)"),
    (TEXT.format(width=7, last="[:, -1]"), (32, 16), "`embedding` (Embedding)"),
    (TEXT.format(width=1000, last=""), (32, 16), "`embedding` (Embedding)"),
    (RECURRENT, (16, 32, 6), "`rnn` (LSTM)"),
    (AUTOENCODER, (32, 30), "`0` (Linear)"),
    (VALUE, (32, 20), "`0` (Linear)"),
]
NAMES = ["mlp", "cnn", "fixed-size", "series", "text", "language", "rnn", "autoencoder", "value"]


@pytest.mark.parametrize(("text", "shape", "layer"), KINDS, ids=NAMES)
def test_the_shape_comes_from_the_first_layers(desk, text, shape, layer):
    found = desk.load(text)
    batch = next(found.batches())
    assert (batch[0] if isinstance(batch, tuple | list) else batch).shape == shape
    sentence = next(s for s in found.assumptions if s.startswith("No batches were found"))
    assert " x ".join(map(str, shape)) in sentence
    assert layer in sentence


@pytest.mark.parametrize(("text", "shape", "layer"), KINDS, ids=NAMES)
def test_a_healthy_model_learns_them(desk, text, shape, layer):
    found = desk.load(text)
    losses = []
    train(found, steps=150, seconds=60, progress=lambda step, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_batches_differ_and_repeat_with_the_seed(desk):
    first, second = (b[0] for b, _ in zip(desk.load(MLP).batches(), range(2), strict=False))
    assert not torch.equal(first, second)
    assert torch.equal(first, next(desk.load(MLP).batches())[0])
    assert not torch.equal(first, next(desk.load(MLP, seed=1).batches())[0])


def test_the_batch_size_and_the_shape_can_be_said(desk):
    assert next(desk.load(MLP, batch_size=5).batches())[0].shape == (5, 20)
    found = desk.load(CNN, input_shape=(4, 3, 40, 50))
    assert next(found.batches())[0].shape == (4, 3, 40, 50)
    assert any("as --input says" in s for s in found.assumptions)


def test_the_shape_is_not_used_when_the_file_has_batches(desk):
    found = desk.load(
        MLP + "batch = torch.randn(4, 20), torch.randint(5, (4,))\n", input_shape=(9, 9)
    )
    assert any("input shape is not used" in s for s in found.assumptions)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (MLP, {"input_shape": (2, 7)}, "the model does not take an input of 2 x 7"),
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.w = nn.Parameter(torch.ones(3))\n    def forward(self, x):\n"
            "        return x * self.w\n",
            {},
            "the first layers do not tell which input they take",
        ),
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.fc = nn.Linear(3, 3)\n    def forward(self, source, target):\n"
            "        return self.fc(source)\n",
            {},
            "the model's forward needs source, target",
        ),
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.fc = nn.Linear(3, 3)\n    def forward(self, x):\n"
            "        return self.fc(x.reshape(-1, 4))\n",
            {},
            "the model does not take an input of 32 x 3",
        ),
    ],
)
def test_what_cannot_be_guessed_is_told(desk, text, options, words):
    with pytest.raises(LoadError) as caught:
        desk.load(text, **options)
    assert words in caught.value.what
    assert "--input 32,1,28,28" in caught.value.hint or "batches()" in caught.value.hint
