"""Distil a frozen teacher into a student; siamese calls, weight norm, a list of losses."""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = weight_norm(nn.Linear(12, 12))
        self.out = nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        h = torch.relu_(self.shared(x))
        return self.scale * self.out(h + self.shared(h))


def main(argv):
    steps = int(argv[1]) if len(argv) > 1 else 20
    torch.manual_seed(2)
    teacher = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
    teacher.requires_grad_(False)
    student = Student()
    optimizers = [
        torch.optim.SGD([p for n, p in student.named_parameters() if n != "scale"], lr=0.05),
        torch.optim.SGD([student.scale], lr=0.01),
    ]
    for step in range(steps):
        x = torch.randn(32, 12)
        target = teacher(x)
        losses = [
            F.kl_div(
                F.log_softmax(student(x), -1), F.log_softmax(target, -1), log_target=True,
                reduction="batchmean",
            ),
            0.1 * F.mse_loss(student(x), target),
        ]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses).backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 10 == 0:
            print(step, [round(loss.item(), 6) for loss in losses])
    torch.save(student.state_dict(), "student.pt")
    return 3  # the number of students that a scheduler is to start next


if __name__ == "__main__":
    sys.exit(main(sys.argv))
