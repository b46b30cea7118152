"""A small transformer that says whether the brackets of a line are balanced.

gradscope trace examples/trace/tokens.py --steps 300 --integrated-gradients
"""

import random

import torch
from torch import nn

token_names = ["<start>", "(", ")", "[", "]", "x"]
class_names = ["not balanced", "balanced"]
LENGTH = 12
CLOSES = {2: 1, 4: 3}


class BracketReader(nn.Module):
    def __init__(self, width=32, heads=4, depth=2):
        super().__init__()
        self.embed = nn.Embedding(len(token_names), width)
        self.position = nn.Embedding(LENGTH, width)
        block = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=64, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens):
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.encoder(self.embed(tokens) + self.position(place))
        return self.head(self.norm(x)[:, 0])


def balanced(tokens):
    open_ones = []
    for token in tokens:
        if token in (1, 3):
            open_ones.append(token)
        elif token in CLOSES and (not open_ones or open_ones.pop() != CLOSES[token]):
            return 0
    return int(not open_ones)


def line(wanted):
    while True:
        tokens = [random.choice([1, 2, 3, 4, 5, 5]) for _ in range(LENGTH - 1)]
        if wanted:
            # pairs put around one another and beside one another
            tokens = [5]
            while len(tokens) < LENGTH - 2:
                opened = random.choice([1, 3])
                at = random.randrange(len(tokens) + 1)
                until = random.randrange(at, len(tokens) + 1)
                tokens[until:until] = [opened + 1]
                tokens[at:at] = [opened]
            tokens += [5] * (LENGTH - 1 - len(tokens))
            if random.random() < 0.5:
                # nearly balanced: one bracket changed
                tokens[random.randrange(len(tokens))] = random.choice([1, 2, 3, 4])
        if balanced(tokens) == wanted:
            return [0, *tokens]


def get_batch():
    wanted = [random.randrange(2) for _ in range(64)]
    return torch.tensor([line(want) for want in wanted]), torch.tensor(wanted)


model = BracketReader()
criterion = nn.CrossEntropyLoss()


def make_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3)
