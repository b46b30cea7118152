"""Pre-train an autoencoder, then put a classifier on its encoder; every model in a function."""

import torch
from sklearn.datasets import load_digits
from torch import nn


def make_encoder():
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8))


def pretrain(images):
    encoder = make_encoder()
    autoencoder = nn.Sequential(encoder, nn.ReLU(), nn.Linear(8, 64))
    opt = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    for batch in images.split(128):
        loss = nn.functional.mse_loss(autoencoder(batch), batch)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print("reconstruction", loss.item())
    return encoder


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x)))


def finetune(encoder, images, labels):
    classifier = Classifier(encoder)
    opt = torch.optim.SGD(
        [p for p in classifier.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    for x, y in zip(images.split(128), labels.split(128)):
        loss = nn.functional.cross_entropy(classifier(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print("classification", loss.item())
    return classifier


if __name__ == "__main__":
    torch.manual_seed(11)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32)[:1280]
    labels = torch.tensor(labels)[:1280]
    model = finetune(pretrain(images), images, labels)
    torch.save(model.state_dict(), "classifier.pt")
