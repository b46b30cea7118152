"""Ids and places of modules and parameters."""

import torch
from torch import nn

from gradscope.observe.naming import IdMap, Registry, unwrap


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(2, 2), nn.Linear(2, 2)]
        self.parts = {"a": nn.Linear(2, 2)}
        self.scales = [torch.ones(2, requires_grad=True)]
        self.out = nn.Linear(2, 2)


def test_names_equal_named_parameters_and_named_modules():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    tree = Registry([model]).walk()
    assert [p.path for p in tree.modules.values()] == [n for n, _ in model.named_modules()]
    assert [p.path for p in tree.parameters.values()] == [n for n, _ in model.named_parameters()]


def test_a_tied_parameter_stands_once_with_its_alias():
    model = Tied()
    tree = Registry([model]).walk()
    (place,) = tree.parameters.values()
    assert place.path == "embedding.weight"
    assert place.aliases == ["head.weight"]


def test_modules_in_plain_containers_are_found_and_marked():
    model = Listed()
    tree = Registry([model]).walk()
    unregistered = {p.path for p in tree.modules.values() if not p.registered}
    assert unregistered == {"hidden.0", "hidden.1", "parts.a"}
    loose = {p.path for p in tree.parameters.values() if not p.registered}
    assert "scales.0" in loose
    assert "hidden.0.weight" in loose
    assert "out.weight" not in loose


def test_ids_stay_when_the_model_changes():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    registry = Registry([model])
    before = {p.path: i for i, p in registry.walk().parameters.items()}
    model[1] = nn.Linear(2, 2)
    model.append(nn.ReLU())
    after = {p.path: i for i, p in registry.walk().parameters.items()}
    assert after["0.weight"] == before["0.weight"]
    assert after["1.weight"] not in before.values()


def test_an_id_of_a_dead_object_is_not_given_to_its_successor():
    ids = IdMap()
    given = set()
    for _ in range(50):
        given.add(ids.add(nn.Linear(1, 1)))
    assert given == set(range(50))


def test_wrappers_leave_no_trace_in_names():
    inner = nn.Sequential(nn.Linear(2, 2))
    assert unwrap(nn.DataParallel(inner)) is inner
    compiled = torch.compile(inner, backend="eager")
    assert unwrap(compiled) is inner


def test_a_model_that_contains_itself_in_a_list_is_walked_once():
    model = nn.Linear(2, 2)
    model.friends = [model]
    tree = Registry([model]).walk()
    assert len(tree.modules) == 1
