import ast
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from watching import observed, recording

from gradscope.observe import private
from gradscope.observe.autograd.walk import DEEP, SHALLOW, depth_limit
from gradscope.observe.frames import owner


def test_inside_and_outside_of_backward():
    seen = []

    def hook(gradient):
        node = private.current_node()
        seen.append((private.current_graph_task_id(), None if node is None else node.name()))

    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        y = x.exp()
        y.register_hook(hook)
        y.sum().backward()
    first, second = (task for task, _ in seen)
    assert -1 < first < second
    assert {name for _, name in seen} == {"ExpBackward0"}
    assert private.current_graph_task_id() == -1
    assert private.current_node() is None


def test_sequence_numbers():
    x = torch.ones(2, requires_grad=True)
    expected = private.sequence_nr()
    first, second = x.exp(), x.sin()
    assert private.node_sequence_nr(first.grad_fn) == expected
    assert private.node_sequence_nr(second.grad_fn) == expected + 1
    leaf = first.grad_fn.next_functions[0][0]
    assert private.node_sequence_nr(leaf) == -1, "a leaf has no number"


def test_functorch_level():
    levels = []

    def function(x):
        levels.append(private.functorch_level_active())
        return x.sum()

    torch.func.vmap(function)(torch.ones(2, 3))
    torch.func.grad(function)(torch.ones(3))
    assert levels == [True, True]
    assert not private.functorch_level_active()


def test_compiling():
    seen = []

    class Asks(nn.Module):
        def forward(self, x):
            return x + 1 if private.is_compiling() else x - 1

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    assert not private.compile_in_use()
    model = torch.compile(Asks(), backend=backend)
    assert private.compile_in_use()
    assert private.is_compiled(model)
    assert not private.is_compiled(Asks())
    inner = Asks()
    inner.compile(backend=backend)
    assert private.is_compiled(inner)
    assert model(torch.zeros(1)).item() == 1
    assert not private.is_compiling()
    torch._dynamo.reset()
    assert not private.compile_in_use()


def test_saved_tensors():
    x = torch.rand(3, requires_grad=True)
    y = x.exp()
    node = (y * 2.5).grad_fn
    assert private.saved(node, "other") == 2.5
    assert torch.equal(private.saved(y.grad_fn, "result"), y.detach())
    assert not private.saved(y.grad_fn, "result").requires_grad
    assert private.saved(y.grad_fn, "nothing") is None
    assert private.saved(y.grad_fn.next_functions[0][0], "result") is None
    y.sum().backward()
    assert private.saved(y.grad_fn, "result") is None, "freed by backward"


def test_packed_tensors_are_left_alone():
    unpacked = []

    def unpack(tensor):
        unpacked.append(tensor)
        return tensor

    x = torch.rand(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        packed = x.exp()
    block = checkpoint(torch.exp, x, use_reentrant=False)
    assert private.saved(packed.grad_fn, "result") is None
    assert private.saved(block.grad_fn, "result") is None
    assert unpacked == []


class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_a_mode_is_removed_from_anywhere_in_the_stack():
    modes = [Mode(), Mode(), Mode()]
    for mode in modes:
        mode.__enter__()
    assert private.remove_function_mode(modes[1])
    assert torch.overrides._get_current_function_mode_stack() == [modes[0], modes[2]]
    assert not private.remove_function_mode(modes[1])
    for mode in (modes[2], modes[0]):
        assert private.remove_function_mode(mode)
    assert torch.overrides._get_current_function_mode_stack() == []


PROBES = {
    "current_graph_task_id": (torch._C, "_current_graph_task_id", -1),
    "current_node": (torch._C, "_current_autograd_node", None),
    "sequence_nr": (torch.autograd, "_get_sequence_nr", -1),
    "functorch_level_active": (torch._C._functorch, "maybe_current_level", False),
    "is_compiling": (torch.compiler, "is_compiling", False),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_version_without_a_name_gives_the_neutral_answer(monkeypatch, name):
    owner_of_name, attribute, neutral = PROBES[name]
    monkeypatch.delattr(owner_of_name, attribute)
    assert getattr(private, name)() == neutral


def test_objects_without_the_expected_attributes():
    class Old:
        """A node or a saved tensor of an older torch."""

        _saved_self = torch.ones(1)
        _raw_saved_self = object()

    assert private.node_sequence_nr(Old()) == -1
    assert private.recurrent_weights(Old()) == []
    # it cannot be told whether hooks packed it, so it is not unpacked
    assert private.saved(Old(), "self") is None


def test_a_tensor_without_a_version():
    class Old:
        def is_inference(self):
            return False

    assert private.version(Old()) == -1


def test_a_version_that_cannot_switch_off_the_functions_of_a_subclass(monkeypatch):
    class Named(torch.Tensor):
        """A subclass of the user's."""

    tensor = torch.ones(3).as_subclass(Named)
    older = SimpleNamespace(_C=SimpleNamespace(), Tensor=torch.Tensor)
    monkeypatch.setattr(private, "torch", older)
    plain = private.base_tensor(tensor)
    assert type(plain) is torch.Tensor
    assert plain.tolist() == [1, 1, 1]


def test_a_version_that_does_not_mark_what_it_compiles():
    def function():
        """Compiled by a version without the mark."""

    assert not private.is_compiled_function(function)
    assert private.compile_target(function) is None


REMOVED = (
    (torch._C, "_current_graph_task_id"),
    (torch._C, "_current_autograd_node"),
    (torch.autograd, "_get_sequence_nr"),
    (torch._C, "_get_dispatch_mode"),
    (torch._C._functorch, "maybe_current_level"),
    (torch.overrides, "_get_current_function_mode_stack"),
)


@pytest.mark.parametrize("where", REMOVED, ids=lambda where: where[1])
def test_a_training_without_a_name_is_recorded_all_the_same(tmp_path, monkeypatch, where):
    monkeypatch.delattr(*where)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms, losses, outputs = [], [], []
    with observed(tmp_path / "run", model) as observer:
        for _ in range(3):
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            norms.append(float(model[0].weight.grad.norm()))
            outputs.append(float(model[0](x).detach().square().mean().sqrt()))
            optimizer.step()
            losses.append(loss.item())
        assert observer.failure is None
    run = recording(tmp_path / "run")
    rows = run.gradients[run.gradients["parameter"] == "0.weight"]
    assert rows["norm"].tolist() == pytest.approx(norms, rel=1e-4)
    assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    rows = run.activations[(run.activations["module"] == "0") & (run.activations["role"] == 3)]
    assert rows["calls"].tolist() == [1, 1, 1]


def test_a_version_without_a_function_between_norm_and_clip(tmp_path, monkeypatch):
    clip = torch.nn.utils.clip_grad

    def clip_grad_norm_(parameters, max_norm):
        """As torch had it before it was split."""
        grads = [p.grad for p in parameters]
        total = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
        for grad in grads:
            grad.mul_((max_norm / (total + 1e-6)).clamp(max=1.0))
        return total

    monkeypatch.delattr(clip, private.CLIP_WITH_NORM)
    monkeypatch.setattr(clip, "clip_grad_norm_", clip_grad_norm_)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_grad_norm_)
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observed(tmp_path / "run", model):
        model(torch.randn(8, 4)).square().sum().backward()
        before = math.hypot(float(model.weight.grad.norm()), float(model.bias.grad.norm()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    (step,) = recording(tmp_path / "run").steps.itertuples()
    assert torch.nn.utils.clip_grad_norm_ is clip_grad_norm_
    assert step.norm_before_clip == pytest.approx(before, rel=1e-4)
    assert step.norm == pytest.approx(0.5, rel=1e-4)


MODULE_TABLES = {"_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks",
                 "_backward_hooks", "_backward_pre_hooks"}  # fmt: skip
"""Attributes of ``nn.Module`` that every version has had."""
NOT_TORCHS = {"sys._getframe", "thing._fields"}
ALONE = {
    "births.py": {"func._schema", "tensor._values"},  # of what a dispatch mode is given
    "finite.py": {"value._values"},  # of a sparse tensor
    "tracebacks.py": {"nn.Module._call_impl"},  # whose frames it takes out; absent: none are
}


def test_private_names_of_torch_stand_in_one_file():
    found = {}
    for file in Path(private.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        own = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        reads = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
        own |= {n.attr for n in reads if ast.unparse(n.value) in ("self", "cls")}
        names = {
            ast.unparse(n)
            for n in reads
            if n.attr.startswith("_") and not n.attr.startswith("__")
            and n.attr not in own | MODULE_TABLES
        }  # fmt: skip
        found[file.name] = names - NOT_TORCHS - ALONE.get(file.name, set())
    del found["private.py"]
    assert {name: names for name, names in found.items() if names} == {}


def test_a_version_without_the_stack_of_modes(monkeypatch):
    mode = Mode()
    with monkeypatch.context() as patch:
        patch.delattr(torch.overrides, "_get_current_function_mode_stack")
        mode.__enter__()
        assert private.remove_function_mode(mode)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_whose_code_a_file_is():
    assert owner(__file__) == "user"
    assert owner(torch.nn.__file__) == "torch"
    assert owner(private.__file__) == "gradscope"
    assert owner(pytest.__file__) == "library"
    assert owner(threading.__file__) == "library"
    assert owner("<string>") == "none"
    assert owner("<ipython-input-3-abc>") == "user"
    assert owner("/home/someone/ipykernel_7/123.py") == "user"


def test_chains_are_looked_at_less_deeply_on_other_threads():
    limits = []
    thread = threading.Thread(target=lambda: limits.append(depth_limit()))
    thread.start()
    thread.join()
    assert (depth_limit(), limits) == (DEEP, [SHALLOW])
