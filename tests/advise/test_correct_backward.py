"""correct-backward: its diff mends the very module, as PyTorch's own check says."""

import importlib.util

import pytest
import torch

import gradscope

TEMPLATE = """
import torch
from torch import nn


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return {returned}


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x):
        return {forward}


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 3), Leaf())
batches = [(torch.randn(4, 3), torch.randn(4, 3))]
loss = nn.MSELoss()
"""
CUSTOM = "Custom.apply(self.lin(x))"


def written(folder, name, text):
    file = folder / f"{name}.py"
    file.write_text(text)
    return file


def fix_of(folder, monkeypatch, name, **parts):
    monkeypatch.chdir(folder)
    text = TEMPLATE.format(**{"returned": "grad * x.exp()", "forward": CUSTOM, **parts})
    file = written(folder, name, text)
    (finding,) = gradscope.gradcheck(file, run_dir=folder / "run").findings
    (fix,) = [fix for fix in finding.fixes if fix.name == "correct-backward"]
    return text, fix


def mended(text, diff):
    """``text`` after the diff, whose hunks change single lines."""
    out = text
    removed, added = [], []
    for line in diff.splitlines():
        if line.startswith("-") and not line.startswith("---"):
            removed.append(line[1:])
        if line.startswith("+") and not line.startswith("+++"):
            added.append(line[1:])
    for old, new in zip(removed, added, strict=True):
        assert out.count(old) == 1
        out = out.replace(old, new)
    return out


@pytest.mark.parametrize(
    ("name", "returned"),
    [
        ("half", "0.5 * grad * x.exp()"),
        ("twice", "grad * x.exp() * 2"),
        ("minus", "-grad * x.exp()"),
        ("plain", "torch.mul(grad, x.exp() / 3)"),
    ],
)
def test_a_missing_factor_is_put_in_and_then_torch_agrees(tmp_path, monkeypatch, name, returned):
    text, fix = fix_of(tmp_path, monkeypatch, f"factor_{name}", returned=returned)
    assert fix.applicability == "exact"
    file = written(tmp_path, f"factor_{name}_mended", mended(text, fix.diff))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module.Custom.apply, (x,))


def test_a_cut_is_taken_out(tmp_path, monkeypatch):
    text, fix = fix_of(tmp_path, monkeypatch, "cut", forward="x + self.lin(x).detach()")
    assert fix.applicability == "may-change-results"
    after = mended(text, fix.diff)
    assert "return x + self.lin(x)\n" in after
    file = written(tmp_path, "cut_mended", after)
    assert gradscope.gradcheck(file, run_dir=tmp_path / "again").verdict == "right"


def test_a_formula_that_is_no_multiple_gets_no_invented_line(tmp_path, monkeypatch):
    _, fix = fix_of(tmp_path, monkeypatch, "formula", returned="grad * x")
    assert fix.diff is None
    assert "Custom.apply" in fix.snippet
