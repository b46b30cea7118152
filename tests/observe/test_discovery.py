"""Finding what is trained: roots, their names, tensors in no module, hand-written updates."""

import copy

import pytest
import torch
from torch import nn

from gradscope.observe.model.discovery import Discovery
from gradscope.observe.model.labels import names_of
from gradscope.observe.model.owners import parameters_below, roots_of


class Watching:
    """Keeps what it is told."""

    def __init__(self):
        self.listener = self
        self.calls = []

    def begun(self, module, args, kwargs):
        self.calls.append((module, args, kwargs))

    def backward_begin(self, tensors):
        self.calls.append(("backward", tensors))

    def step_begin(self, optimizer, args, kwargs):
        self.calls.append(("step", optimizer))


@pytest.fixture
def discovery():
    found, watching = [], Watching()
    made = Discovery(lambda one: (found.append(one), watching)[1])
    made.found, made.watching = found, watching
    made.begin()
    yield made
    made.end()
    assert made.guard.failure is None
    assert not nn.modules.module._global_forward_pre_hooks


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def ids(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_the_root_is_found_at_its_first_forward_with_gradients(discovery):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = net()
    with torch.no_grad():
        model(torch.randn(1, 3))
    other(torch.randn(1, 3))
    assert discovery.found == []
    x = torch.randn(1, 3)
    model(x)
    (found,) = discovery.found
    assert found.models == (model,)
    assert found.labels == ("model",)
    assert found.optimizers == (optimizer,)
    assert discovery.watching.calls == [(model, (x,), {})]
    model(x)
    assert len(discovery.found) == 1


def test_keyword_arguments_of_that_forward_are_told(discovery):
    class Net(nn.Linear):
        def forward(self, *, x):
            return super().forward(x)

    model = Net(3, 2)
    torch.optim.SGD(model.parameters(), lr=0.1)  # nobody holds it
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(1, 3)
    model(x=x)
    assert optimizer in discovery.found[0].optimizers
    assert discovery.watching.calls == [(model, (), {"x": x})]


def test_a_model_built_around_what_is_trained_is_the_root(discovery):
    encoder = net()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    whole = nn.Sequential(encoder, nn.Linear(2, 1))
    whole(torch.randn(1, 3)).sum().backward()
    optimizer.step()
    assert discovery.found[0].models == (whole,)


def test_a_module_that_only_computes_the_loss_is_none(discovery):
    class Loss(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).square().mean()

    model = net()
    criterion = Loss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion(torch.randn(2, 3)).backward()
    optimizer.step()
    assert discovery.found[0].models == (model,)


def test_each_of_several_roots_bears_the_name_of_its_variable(discovery):
    class Trainer:
        def __init__(self):
            self.actor = net()
            self.critics = [net(), net()]
            parameters = [p for m in (self.actor, *self.critics) for p in m.parameters()]
            self.optimizer = torch.optim.SGD(parameters, lr=0.1)

        def go(self):
            self.actor(torch.randn(1, 3))

    Trainer().go()
    (found,) = discovery.found
    assert found.labels == ("actor", "critics.0", "critics.1")


def test_a_second_training_is_found_later(discovery):
    for _ in range(2):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(1, 3)).sum().backward()
        optimizer.step()
    assert [len(found.models) for found in discovery.found] == [1, 1]
    assert discovery.found[1].models == (model,)


def test_models_without_end_are_watched_up_to_a_number(discovery):
    models = [net() for _ in range(70)]
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(1, 3)).sum().backward()
        optimizer.step()
    assert sum(len(found.models) for found in discovery.found) == 64
    assert discovery.limits == ["more than 64 models are trained: those after them are not watched"]


def test_an_optimizer_that_was_copied_tells_when_it_steps(discovery):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin, steps = copy.deepcopy((model, optimizer))
    twin(torch.randn(1, 3)).sum().backward()
    steps.step()
    assert twin in [m for found in discovery.found for m in found.models]


def test_a_group_that_is_added_is_seen_at_the_next_step(discovery):
    model, head = net(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(1, 3)).sum().backward()
    optimizer.step()
    optimizer.add_param_group({"params": head.parameters()})
    head(model(torch.randn(1, 3))).sum().backward()
    optimizer.step()
    assert [found.models for found in discovery.found] == [(model,), (head,)]


def test_tensors_in_no_module_bear_the_names_of_their_variables(discovery):
    weight_1 = torch.randn(3, 2, requires_grad=True)
    scale = {"factor": torch.ones(1, requires_grad=True)}
    optimizer = torch.optim.SGD([weight_1, scale["factor"]], lr=0.1)
    (weight_1 * scale["factor"]).sum().backward()
    optimizer.step()
    (found,) = discovery.found
    assert found.models == ()
    assert {name: id(t) for name, t in found.loose.items()} == {
        "weight_1": id(weight_1),
        "factor": id(scale["factor"]),
    }
    assert discovery.watching.calls[0][0] == "backward"


def test_without_an_optimizer_the_graph_tells(discovery):
    model, frozen = net(), net().requires_grad_(False)
    loss = (model(torch.randn(4, 3)) - frozen(torch.randn(4, 3))).square().mean()
    loss.backward()
    (found,) = discovery.found
    assert (found.models, found.labels, found.optimizers) == ((model,), ("model",), ())
    assert discovery.watching.calls == [("backward", (loss,))]


def test_an_attack_on_a_model_is_no_training(discovery):
    model = net().eval()
    x = torch.randn(2, 3, requires_grad=True)
    model(x).sum().backward()
    assert discovery.found == []


def test_before_compiled_code_there_is_no_hook_on_all_modules(discovery):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert nn.modules.module._global_forward_pre_hooks
    model.compile(backend="eager")
    assert not nn.modules.module._global_forward_pre_hooks
    assert discovery.found[0].models == (model,)
    assert discovery.found[0].compiled == (model,)
    later = net()
    torch.optim.SGD(later.parameters(), lr=0.1)
    assert not nn.modules.module._global_forward_pre_hooks
    assert discovery.found[1].models == (later,)
    assert ids(optimizer) == {id(p) for p in model.parameters()}


def test_calls_of_autograd_grad_are_counted(discovery):
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(x.sum(), x)
    torch.func.grad(lambda y: y.sum())(torch.ones(2))
    assert discovery.gradient_calls >= 1
    assert discovery.backward_calls == 0


def test_modules_that_hold_each_other_have_roots_too():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    one.others, two.others = [two], [one]
    (root,) = roots_of({id(one.weight)}, [one, two])
    assert id(one.weight) in parameters_below([root])


def test_a_name_keeps_no_tensor_alive():
    def step():
        held = torch.ones(1)
        names = names_of([held])
        return names[id(held)], __import__("weakref").ref(held)

    name, reference = step()
    assert name == "held"
    assert reference() is None
