import threading

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gradscope.observe import private
from gradscope.observe.frames import owner
from gradscope.observe.walk import DEEP, SHALLOW, depth_limit


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
    # it cannot be told whether hooks packed it, so it is not unpacked
    assert private.saved(Old(), "self") is None


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
