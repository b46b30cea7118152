"""No framework is imported that the user has not imported."""

import subprocess
import sys


def test_watching_and_checking_import_no_framework(folder):
    code = """
import sys
import torch
from torch import nn
import gradscope

model = nn.Linear(3, 2)
batch = torch.randn(8, 3), torch.randn(8, 2)
gradscope.assert_trainable(model, batch, steps=3)
with gradscope.watch(model) as scope:
    model(batch[0]).sum().backward()
scope.report("r.html")
frameworks = (
    "lightning", "pytorch_lightning", "transformers", "accelerate", "skorch", "ignite",
    "tensorboard", "wandb", "mlflow", "pytest",
)
print([name for name in frameworks if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_training_that_is_only_watched_does_without_pandas(folder):
    """Some 75 MB and a second: what judges is imported when somebody asks for a verdict."""
    code = """
import sys
import torch
from torch import nn
import gradscope

model = nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with gradscope.watch(model, optimizer=optimizer) as scope:
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).sum().backward()
        optimizer.step()
print("pandas" in sys.modules, scope.steps)
print(len(scope.recording.steps), "pandas" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == ["False 30", "30 True"]
