"""Every private name is probed, and a torch without it is still observed rightly."""

import ast
import math
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope.observe import private, private_modules
from gradscope.observe.capabilities import CAPABILITIES, Capability, _resolved, missing

Pair = namedtuple("Pair", "first second")
BASES = {"_BatchNorm", "_ConvNd", "_Loss"}
"""Base classes of torch.nn's public layers, that every version has had."""
REMOVABLE = [c for c in CAPABILITIES if c.name != "_compiled_call_impl"]
"""``nn.Module`` itself needs the last one in every call."""


def test_this_torch_has_them_all():
    assert list(missing()) == []
    assert not Capability("torch.nowhere", "name", "").present()
    assert not Capability("torch._C", "_no_such_name", "").present()


@pytest.mark.parametrize("capability", REMOVABLE, ids=lambda c: c.name)
def test_without_a_name_a_training_is_observed_and_unchanged(capability, monkeypatch, tmp_path):
    plain = trained(None)
    monkeypatch.delattr(_resolved(capability.holder), capability.name)
    if capability.name in ("_clip_grads_with_norm_", "profile_hook_step"):
        # torch itself calls these: a version without them has another way, which is put here
        put_another_way(capability.name, monkeypatch)
    assert capability in missing()
    watched = trained(tmp_path / "run")
    assert all(map(torch.equal, plain[0], watched[0]))
    recording = gradscope.load_run(tmp_path / "run")
    assert recording.steps["loss"].tolist() == plain[1]
    assert recording.steps["norm_before_clip"].tolist() == pytest.approx(plain[2], rel=1e-5)
    assert set(recording.gradients["parameter"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not any("stopped" in sentence for sentence in recording.limits)


def trained(run_dir):
    """End state, losses and norms of a plain loop with a clip."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(16, 6)
    scope = None if run_dir is None else gradscope.watch(model, run_dir=run_dir, every=1)
    losses, norms = [], []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1]).square().mean()
        loss.backward()
        losses.append(loss.item())
        squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
        norms.append(math.sqrt(squares))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    if scope is not None:
        scope.detach()
    return [p.detach().clone() for p in model.parameters()], losses, norms


def put_another_way(name, monkeypatch):
    if name == "_clip_grads_with_norm_":

        def clip_grad_norm_(parameters, max_norm, **_):
            gradients = [p.grad for p in parameters]
            total = torch.nn.utils.get_total_norm(gradients)
            scale = torch.clamp(max_norm / (total + 1e-6), max=1.0)
            for gradient in gradients:
                gradient.mul_(scale)
            return total

        for holder in (torch.nn.utils, torch.nn.utils.clip_grad):
            monkeypatch.setattr(holder, "clip_grad_norm_", clip_grad_norm_)


def test_without_torchs_own_walk_of_containers(monkeypatch):
    tree = {"a": (1, [2, 3]), "b": Pair(4, {"c": 5})}
    own = private_modules.tree_map(str, tree), private_modules.tree_leaves(tree)
    monkeypatch.setitem(sys.modules, "torch.utils._pytree", None)
    assert (private_modules.tree_map(str, tree), private_modules.tree_leaves(tree)) == own
    assert own == ({"a": ("1", ["2", "3"]), "b": Pair("4", {"c": "5"})}, [1, 2, 3, 4, 5])


def test_without_the_norm_of_many_tensors(monkeypatch):
    tensors = [torch.randn(5), torch.randn(3, 4)]
    many = private.norms(tensors, torch.float32)
    monkeypatch.delattr(torch, "_foreach_norm")
    each = private.norms(tensors, torch.float32)
    assert all(map(torch.allclose, many, each))


def test_no_other_file_reads_a_private_name_of_torch():
    package = Path(private.__file__).parents[1]
    allowed = {"private.py", "private_modules.py", "capabilities.py"}
    found = []
    for file in sorted(package.rglob("*.py")):
        if file.name in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                found += [(file.name, node.lineno, node.attr)] * _of_torch(node.value)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                private_part = any(part.startswith("_") for part in node.module.split("."))
                names = {a.name for a in node.names if a.name.startswith("_")} - BASES
                found += [(file.name, node.lineno, node.module)] * (private_part or bool(names))
    assert [item for item in found if item[2] not in ("__version__", "__file__")] == []


def _of_torch(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "torch"
