"""python -m textclf.train"""

import random

import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from .config import get_args
from .model import BagOfWords

WORDS = {
    0: "stock market price trade bank profit share growth".split(),
    1: "match goal team score coach league player win".split(),
    2: "cell protein gene virus vaccine trial study drug".split(),
}
VOCABULARY = {word: i for i, word in enumerate(sum(WORDS.values(), []))}


def sentences(count):
    for _ in range(count):
        label = random.randrange(3)
        yield label, [VOCABULARY[random.choice(WORDS[label])] for _ in range(random.randint(3, 9))]


def collate(batch):
    labels = torch.tensor([label for label, _ in batch])
    offsets = torch.tensor([0] + [len(words) for _, words in batch[:-1]]).cumsum(0)
    return labels, torch.tensor(sum((words for _, words in batch), [])), offsets


def main():
    args = get_args()
    random.seed(5)
    torch.manual_seed(5)
    data = list(sentences(256))
    loader = DataLoader(data, 32, shuffle=True, collate_fn=collate)
    model = BagOfWords(len(VOCABULARY), args.dim, 3)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    loss_fn = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        total = 0.0
        for labels, text, offsets in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(text, offsets=offsets), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: {total / len(loader):.5f} (momentum {args.momentum})")
    torch.save(model.state_dict(), "textclf.pt")


if __name__ == "__main__":
    main()
