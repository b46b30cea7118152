"""A small pre-norm transformer that reads each digit as a sequence of eight rows: healthy."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class DigitTransformer(nn.Module):
    def __init__(self, width=32, heads=4, depth=2):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(8, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, rows):
        x = self.embed(rows) + self.position
        x = self.norm(self.encoder(x))
        return self.head(x.mean(dim=1))


def build_model():
    return DigitTransformer()


def batches():
    digits = load_digits()
    rows = torch.tensor(digits.images, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    while True:
        for chosen in torch.randperm(len(rows)).split(64):
            yield {"rows": rows[chosen], "labels": labels[chosen]}


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["rows"]), batch["labels"], label_smoothing=0.05)


def make_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3)
