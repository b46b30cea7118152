"""Which modules a compiled function calls, told from the names that it uses."""

import functools

import torch
from torch import nn

from gradscope.observe import private
from gradscope.observe.model.compiled import calls_compiled, modules_called

net = nn.Sequential(nn.Linear(2, 2))


class Trainer:
    def __init__(self):
        self.parts = {"net": net}

    def step(self, x):
        return helper(self, x)


def helper(trainer, x):
    return trainer.parts["net"](x)


def uses_a_global(x):
    return net(x)


def calls_another(x):
    return (lambda: uses_a_global(x))()


def is_given_the_model(model, x):
    return model(x)


@torch.compile(backend="eager")
def compiled_tail(x):
    return x * 2


class Calls(nn.Module):
    def forward(self, x):
        return compiled_tail(x)


def test_modules_that_a_function_reaches():
    inner = net[0]

    def closes_over(x):
        return inner(x)

    assert modules_called(net) == [net, inner]
    assert modules_called(net.forward) == [inner]
    assert modules_called(closes_over) == [inner]
    for function in (uses_a_global, calls_another, Trainer().step, Trainer().parts["net"].__call__):
        assert set(modules_called(function)) == {net, inner}, function
    assert set(modules_called(functools.wraps(uses_a_global)(lambda x: x))) == {net, inner}
    assert modules_called(is_given_the_model) == []
    assert modules_called(torch.tanh) == []


def test_models_that_call_compiled_code():
    assert calls_compiled(Calls())
    assert calls_compiled(nn.Sequential(nn.Linear(2, 2), Calls()))
    assert not calls_compiled(net)
    model = nn.Sequential(nn.Linear(2, 2))
    model.head = torch.compile(nn.Linear(2, 2), backend="eager")
    assert calls_compiled(model)
    del model.head
    model.tail = compiled_tail
    assert calls_compiled(model)
    torch.compiler.reset()


def test_functions_compiled_so_far_are_found():
    @torch.compile(backend="eager")
    def here(x):
        return net(x)

    targets = {getattr(private.compile_target(f), "__name__", "") for f in
               private.compiled_functions()}  # fmt: skip
    assert "here" in targets
    assert here is not None
    torch.compiler.reset()
    assert private.compiled_functions() == []
