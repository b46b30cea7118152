# A two-layer network from scratch: no nn, no optim.
import torch

torch.manual_seed(0)
N, D_in, H, D_out = 64, 20, 16, 5
x = torch.randn(N, D_in)
y = torch.randn(N, D_out)

W1 = torch.randn(D_in, H, requires_grad=True)
b1 = torch.zeros(H, requires_grad=True)
W2 = torch.randn(H, D_out, requires_grad=True)

learning_rate = 1e-4
for t in range(30):
    y_pred = (x @ W1 + b1).clamp(min=0) @ W2
    loss = (y_pred - y).pow(2).sum()
    if t % 10 == 9:
        print(t, loss.item())
    loss.backward()
    with torch.no_grad():
        for w in (W1, b1, W2):
            w -= learning_rate * w.grad
            w.grad.zero_()

torch.save({"W1": W1, "b1": b1, "W2": W2}, "weights.pt")
