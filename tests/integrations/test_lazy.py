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
