"""Fit a sine by LBFGS, which evaluates the model several times a step."""

import torch
from torch import nn, optim


def build(width):
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).double()


def fit(net, x, y, steps):
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(net.parameters(), lr=0.5, max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = criterion(net(x), y)
        loss.backward()
        return loss

    for i in range(steps):
        print(f"step {i}: {optimizer.step(closure).item():.8f}")


if __name__ == "__main__":
    torch.manual_seed(3)
    grid = torch.linspace(-3, 3, 50, dtype=torch.float64).unsqueeze(1)
    net = build(12)
    fit(net, grid, torch.sin(grid), 8)
    torch.save(net.state_dict(), "curve.pt")
