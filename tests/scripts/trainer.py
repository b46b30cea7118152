"""A trainer class: EMA, validation, early stopping, checkpoint and resume."""

import copy
import dataclasses
import json
import pathlib

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


@dataclasses.dataclass
class Config:
    epochs: int = 3
    batch_size: int = 64
    lr: float = 3e-3
    ema: float = 0.9
    folder: str = "checkpoints"


class Classifier(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.layers = nn.ModuleList([nn.Linear(features, 24), nn.Linear(24, 24)])
        self.head = nn.Linear(24, 2)

    def forward(self, batch):
        h = self.norm(batch["x"])
        for layer in self.layers:
            h = torch.relu(layer(h))
        logits = self.head(h)
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, batch["y"])}


class Trainer:
    def __init__(self, config, model, data):
        self.config = config
        self.model = model
        self.ema = copy.deepcopy(model)
        train, valid = random_split(data, [400, len(data) - 400])
        self.train_loader = DataLoader(train, config.batch_size, shuffle=True)
        self.valid_loader = DataLoader(valid, config.batch_size)
        self.optim = torch.optim.AdamW(self.param_groups(), lr=config.lr)
        self.best, self.epoch = float("inf"), 0
        self.folder = pathlib.Path(config.folder)
        self.folder.mkdir(exist_ok=True)

    def param_groups(self):
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        rest = [p for p in self.model.parameters() if p.dim() <= 1]
        return [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]

    def train_epoch(self):
        self.model.train()
        for x, y in self.train_loader:
            loss = self.model({"x": x, "y": y})["loss"]
            self.optim.zero_grad(set_to_none=False)
            loss.backward()
            self.optim.step()
            with torch.no_grad():
                for ours, theirs in zip(self.ema.parameters(), self.model.parameters()):
                    ours.lerp_(theirs, 1 - self.config.ema)

    @torch.no_grad()
    def validate(self, model):
        model.eval()
        losses = [model({"x": x, "y": y})["loss"].item() for x, y in self.valid_loader]
        return sum(losses) / len(losses)

    def save(self):
        state = {"model": self.model.state_dict(), "optim": self.optim.state_dict()}
        torch.save(state | {"ema": self.ema.state_dict()}, self.folder / "last.pt")

    def load(self):
        state = torch.load(self.folder / "last.pt")
        self.model.load_state_dict(state["model"])
        self.optim.load_state_dict(state["optim"])

    def fit(self):
        for self.epoch in range(self.config.epochs):
            self.train_epoch()
            loss = self.validate(self.ema)
            print(json.dumps({"epoch": self.epoch, "valid": loss}))
            if loss < self.best:
                self.best = loss
                self.save()
            else:
                self.load()


def main():
    torch.manual_seed(7)
    x, y = load_breast_cancer(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    Trainer(Config(), Classifier(x.shape[1]), data).fit()


main()
