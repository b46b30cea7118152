"""A script that looks at itself: pickles its classes, saves whole models, counts its hooks."""

import copy
import inspect
import os
import pickle

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = [nn.Linear(width, width) for _ in range(2)]  # not a ModuleList
        for i, block in enumerate(self.blocks):
            self.register_module(f"block{i}", block)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(torch.relu(x))
        return self.norm(x)


torch.manual_seed(0)
model = Residual(6)
seen = []
handle = model.norm.register_forward_hook(lambda m, i, o: seen.append(o.shape))
optimizer = torch.optim.Adagrad(model.parameters())
for step in range(12):
    loss = model(torch.randn(5, 6)).pow(4).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 5:
        handle.remove()
        torch.save(model, "whole.pt")
        again = torch.load("whole.pt", weights_only=False)
        twin = copy.deepcopy(model)
        same = all(torch.equal(a, b) for a, b in zip(again.parameters(), twin.parameters()))
        print("same", same, type(again) is Residual)
print(len(seen), [len(m._forward_hooks) >= 0 for m in model.modules()].count(True))
print(__name__, os.path.basename(__file__), inspect.getsource(Residual).count("\n"))
print(pickle.loads(pickle.dumps(Residual)) is Residual, pickle.loads(pickle.dumps(loss.item())))
torch.save(model.state_dict(), "residual.pt")
