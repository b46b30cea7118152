import copy
import gc
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope.observe.model import construction
from gradscope.observe.model.construction import (
    ConstructionTrace,
    built_at,
    locate,
    source_record,
    source_text,
)

MODELS = """\
from collections import OrderedDict

import copy
import functools
import torch
from torch import nn


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper


class Block(nn.Module):  # Block
    @decorated
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)  # fc
        self.norm, self.act = nn.LayerNorm(width), nn.ReLU()  # pair


class Head(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(),  # head.0
            nn.Linear(4, 2),  # head.1
        )


def make_stem():
    layers = [nn.Linear(4, 4), nn.Tanh()]  # stem
    return nn.Sequential(*layers)  # make_stem


class Net(nn.Module):  # Net
    def __init__(self, deep=True, given=None):
        super().__init__()
        self.stem = make_stem()
        self.encoder = nn.TransformerEncoder(  # encoder
            nn.TransformerEncoderLayer(8, 2, batch_first=True),  # layer
            2,
            enable_nested_tensor=False,
        )
        self.body = nn.Sequential(
            nn.Linear(4, 4),  # body.0
            nn.Sequential(
                nn.ReLU(),  # body.1.0
                Block(4),  # body.1.1
            ),
        )
        self.blocks = nn.ModuleList([Block(4) for _ in range(3)])  # blocks
        self.copies = nn.ModuleList(
            copy.deepcopy(self.stem) for _ in range(2)  # copies
        )
        self.grown = nn.ModuleList()
        self.grown.append(nn.Linear(4, 8))  # grown.first
        for _ in range(2):
            self.grown.append(nn.Linear(8, 8))  # grown.loop
            self.grown.append(nn.ReLU())  # grown.relu
        self.grown.append(nn.Linear(8, 1))  # grown.last
        self.named = nn.Sequential(OrderedDict([
            ("conv", nn.Conv2d(1, 2, 3)),  # named.conv
            ("relu", nn.ReLU()),
        ]))
        self.parts = nn.ModuleDict({
            "a": nn.Linear(2, 2),  # parts.a
            "b": nn.Linear(2, 2),  # parts.b
        })
        for i in range(2):
            self.add_module(f"layer{i}", nn.Linear(3, 3))  # layer_i
        if deep:
            self.out = nn.Linear(4, 4)  # out
        else:
            self.out = nn.Identity()
        self.twice = nn.Linear(1, 1) if deep else nn.Linear(1, 1)
        if deep:
            self.either = nn.Linear(2, 1)  # either.deep
        else:
            self.either = nn.Linear(3, 1)  # either.flat
        self.given = given
        self.stages = self._make(2)
        self.head = Head()
        self.hidden = [nn.Linear(2, 2)]  # hidden

    def _make(self, n):
        layers = []
        layers.append(Block(4))  # stages.0
        for _ in range(n):
            layers.append(Block(4))  # stages.more
        return nn.Sequential(*layers)  # stages


def build_model():
    width = 4
    model = nn.Sequential(
        nn.Linear(3, width),  # built.0
        nn.Sigmoid(),  # built.1
        nn.Linear(width, 1),  # built.2
    )
    return model


def with_another_stage(net):
    net.layer1 = nn.Linear(4, 7)  # replaced
    return net
"""


@pytest.fixture
def models(tmp_path):
    """The file above as a module, with a function that gives the line of a mark in it."""
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    namespace = {"__name__": "models_under_test", "__file__": str(file)}
    exec(compile(MODELS, str(file), "exec"), namespace)
    return type("Models", (), {**{k: v for k, v in namespace.items() if not k.startswith("__")}})


def mark(text):
    hits = [n for n, row in enumerate(MODELS.splitlines(), 1) if row.endswith(f"# {text}")]
    assert len(hits) == 1, text
    return hits[0]


def build(models, *args):
    with ConstructionTrace():
        return models.Net(*args)


SEEN = {
    "stem": "make_stem",
    "stem.0": "stem",
    "encoder": "encoder",
    "encoder.layers.1": "encoder",
    "encoder.layers.1.self_attn.out_proj": "encoder",
    "body.0": "body.0",
    "body.1.0": "body.1.0",
    "body.1.1": "body.1.1",
    "body.1.1.fc": "fc",
    "body.1.1.act": "pair",
    "blocks.2": "blocks",
    "blocks.2.norm": "pair",
    "copies.1": "copies",
    "copies.1.0": "copies",
    "grown.0": "grown.first",
    "grown.3": "grown.loop",
    "grown.4": "grown.relu",
    "grown.5": "grown.last",
    "named.conv": "named.conv",
    "parts.b": "parts.b",
    "layer1": "layer_i",
    "out": "out",
    "either": "either.deep",
    "stages": "stages",
    "stages.0": "stages.0",
    "stages.2": "stages.more",
    "head.1": "head.1",
    "hidden.0": "hidden",
}


@pytest.mark.parametrize("path", SEEN)
def test_construction_is_seen(models, tmp_path, path):
    net = build(models)
    assert locate(net, path) == (str(tmp_path / "models.py"), mark(SEEN[path]), "construction")


@pytest.mark.parametrize("path", SEEN)
def test_source_is_searched_where_construction_was_not_seen(models, tmp_path, path):
    net = models.Net()
    place = locate(net, path)
    # made by a call that the source alone cannot follow
    if path == "copies.1.0":
        assert place is None
    else:
        expected = {"encoder.layers.1": "encoder"}.get(path, SEEN[path])
        assert place == (str(tmp_path / "models.py"), mark(expected), "source")


def test_a_searched_line_is_always_that_which_is_seen(models):
    """The oracle of the search: wherever it answers, it answers what the trace saw."""
    seen, searched = build(models), models.Net()
    answers = 0
    for path, module in seen.named_modules():
        found = locate(searched, path)
        if path and found is not None:
            answers += 1
            assert found[:2] == built_at(module)[:2], path
    assert answers > 40


def test_a_layer_that_was_replaced_is_found_where_it_was_put_in(models, tmp_path):
    """The line in the class builds one of other numbers: it cannot be meant."""
    net = models.with_another_stage(models.Net())
    assert locate(net, "layer1") == (str(tmp_path / "models.py"), mark("replaced"), "source")
    net.layer1 = nn.Linear(4, 9)
    assert locate(net, "layer1") is None


def test_root_of_a_users_class_and_what_is_built_elsewhere(models, tmp_path):
    net = models.Net(True, nn.Linear(2, 2))
    assert locate(net, "") == (str(tmp_path / "models.py"), mark("Net"), "source")
    assert locate(net, "given") is None
    assert locate(net, "no.such") is None
    assert built_at(net) is None


def test_a_root_built_by_a_function(models, tmp_path, monkeypatch):
    with ConstructionTrace():
        seen = models.build_model()
    file = str(tmp_path / "models.py")
    assert built_at(seen[1]) == (file, mark("built.1"), "construction")
    searched = models.build_model()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
    assert locate(searched, "2") == (file, mark("built.2"), "source")
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    assert locate(other, "0") is None


def test_a_line_of_several_lines_and_a_comprehension_here():
    with ConstructionTrace():
        net = nn.Sequential(
            nn.Linear(2, 2),
            *[nn.Linear(2, 2) for _ in range(2)],
        )
    lines, first = inspect.getsourcelines(test_a_line_of_several_lines_and_a_comprehension_here)
    at = {row.strip().rstrip(","): n for n, row in enumerate(lines, first)}
    assert built_at(net[0])[1] == at["nn.Linear(2, 2)"]
    assert built_at(net[2])[1] == at["*[nn.Linear(2, 2) for _ in range(2)]"]
    assert Path(built_at(net)[0]).name == "test_construction.py"


def test_a_deep_copy_and_what_is_no_copy():
    with ConstructionTrace():
        net = nn.Sequential(nn.Linear(2, 2))
        twin = copy.deepcopy(net)
        reloaded = nn.Linear.__new__(nn.Linear)
        reloaded.__setstate__(net[0].__dict__.copy())
    assert built_at(twin[0])[1] == built_at(net[0])[1] + 1
    assert built_at(reloaded) is None


# ------------------------------------------------------------------ no trace


def test_everything_is_restored_exactly():
    def current():
        return [vars(nn.Module)[name] for name in ("__init__", "__setstate__")]

    # not torch's own in every case: torch.compile replaces them once for good
    original = current()
    signature = inspect.signature(nn.Module.__init__)
    with ConstructionTrace():
        assert inspect.signature(nn.Module.__init__) == signature
        with ConstructionTrace():
            inner = nn.Linear(1, 1)
        assert current() != original
    assert current() == original
    assert built_at(inner) is not None
    with pytest.raises(TypeError, match="unexpected"), ConstructionTrace():
        nn.Module(unexpected=1)
    assert current() == original
    outside = nn.Linear(1, 1)
    assert built_at(outside) is None


def test_a_patch_made_inside_is_left_alone(monkeypatch):
    with ConstructionTrace():
        ours = nn.Module.__init__

        def theirs(self, *args, **kwargs):
            ours(self, *args, **kwargs)

        monkeypatch.setattr(nn.Module, "__init__", theirs)
    assert nn.Module.__init__ is theirs
    assert built_at(nn.Linear(1, 1)) is None


def test_modules_are_remembered_weakly_and_by_identity():
    class Equal(nn.Module):
        __hash__ = None

        def __eq__(self, other):
            return True

    with ConstructionTrace():
        net = nn.Sequential(nn.Linear(2, 2), Equal())
    gc.collect()
    assert built_at(net[1])[1] == built_at(net[0])[1]
    before = len(construction._built)
    del net
    gc.collect()
    assert len(construction._built) == before - 3


def test_weights_and_random_state_are_those_of_an_unwatched_build(models):
    def weights(context):
        torch.manual_seed(0)
        with context:
            net = models.Net()
        return [p.clone() for p in net.parameters()], torch.get_rng_state()

    (plain, state), (seen, same) = weights(torch.enable_grad()), weights(ConstructionTrace())
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert torch.equal(state, same)


# ------------------------------------------------------------------ texts


def test_source_text_of_the_users_files_only(tmp_path, monkeypatch):
    file = tmp_path / "latin.py"
    file.write_bytes("# -*- coding: latin-1 -*-\nname = 'für'\n".encode("latin-1"))
    assert "für" in source_text(str(file))
    monkeypatch.chdir(tmp_path)
    record = source_record("latin.py")
    assert (record["file"], "für" in record["text"], len(record["sha256"])) == (
        "latin.py", True, 64,
    )  # fmt: skip
    assert source_text(torch.nn.__file__) is None
    assert source_text(pytest.__file__) is None
    assert source_text(copy.__file__) is None
    assert source_text(str(tmp_path / "missing.py")) is None
    assert source_text("<string>") is None
    (tmp_path / "long.py").write_text("#" * 300_000)
    assert len(source_text("long.py")) == 200_000


def test_a_file_that_does_not_parse_any_more_gives_nothing(models, tmp_path):
    net = models.Net()
    assert locate(net, "out") is not None
    file = tmp_path / "models.py"
    file.write_text("def broken(:\n")
    assert locate(net, "out") is None
    file.unlink()
    assert locate(net, "out") is None
