"""Regression under autocast with a gradient scaler; skips the steps that overflow."""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

torch.manual_seed(42)
x, y = load_diabetes(return_X_y=True, scaled=True)
x = torch.tensor(x * 20, dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32).unsqueeze(1)
y = (y - y.mean()) / y.std()

net = nn.Sequential()
net.add_module("inp", nn.Linear(10, 32))
net.add_module("act", nn.SiLU())
net.add_module("out", nn.Linear(32, 1))
optimizer = torch.optim.Adam(net.parameters(), 1e-2, fused=True)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)

for epoch in range(3):
    for i in range(0, 400, 50):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(net(x[i : i + 50]), y[i : i + 50])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    print(epoch, loss.item(), scaler.get_scale())
torch.save(net.state_dict(), "net.pt")
