"""The benchmark's cases: their labels hold, and gradscope says what they say, on every sixth."""

import pytest
import torch

import gradscope
from benchmarks.gradcheck import mutations, peers
from benchmarks.gradcheck.case import Case
from benchmarks.gradcheck.faulty import FAULTY
from benchmarks.gradcheck.measuring import Cases, Judged, Mutated, Sized
from benchmarks.gradcheck.reference import verified
from benchmarks.gradcheck.right import RIGHT
from benchmarks.gradcheck.table import tables

ALL = (*FAULTY, *RIGHT)
SOME = ALL[::6]
pytestmark = pytest.mark.filterwarnings("ignore")


def test_there_are_enough_and_each_has_a_name_of_its_own():
    assert len(FAULTY) >= 60
    assert sum(case.verdict == "right" for case in RIGHT) >= 60
    assert len({case.name for case in ALL}) == len(ALL)
    assert all(case.culprit is not None for case in FAULTY)


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_the_label_holds_by_plain_differences(case):
    assert verified(case).partition(":")[0] in ("yes", "skipped")


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_gradscope_says_what_the_label_says(case):
    module, args, kwargs = case.make()
    result = gradscope.gradcheck(module, args, kwargs)
    assert result.verdict == case.verdict, result
    if case.culprit is not None:
        assert [f.modules[0] for f in result.findings] == [case.culprit]
    if case.kinds:
        assert result.findings[0].kind in case.kinds


def test_the_reference_sees_a_wrong_label():
    sick = FAULTY[1]
    assert verified(Case("x", sick.build, "right")).startswith("no")
    assert verified(Case("x", RIGHT[0].build, "wrong", "1")).startswith("no")


@pytest.mark.parametrize("spread", mutations.SPREADS)
def test_a_mutation_changes_the_gradient_by_its_size_and_nothing_else(spread):
    made = mutations.build(3, 1e-2, spread)
    sound = mutations.build(3, 1e-2, spread)
    holder, _, last = made.culprit.rpartition(".")
    parent = sound.model.get_submodule(holder)
    parent._modules[last] = parent._modules[last].inner
    outputs, grads = [], []
    for model in (made.model, sound.model):
        x = made.args[0].clone().requires_grad_()
        torch.manual_seed(0)
        y = model(x)
        outputs.append(y)
        grads.append(torch.autograd.grad((y**2).sum(), x)[0])
    assert torch.allclose(*outputs)
    assert not torch.equal(*grads)
    relative = (grads[0] - grads[1]).norm() / grads[1].norm()
    assert relative < 2e-2


def test_peers_agree_on_a_plain_fault_and_on_a_plain_layer():
    sick = next(case for case in FAULTY if case.name == "bias gradient doubled")
    well = next(case for case in RIGHT if case.name == "every second column")
    for fast in (True, False):
        assert peers.torch_gradcheck(sick, fast=fast, cast=True).verdict == "wrong"
        assert peers.torch_gradcheck(well, fast=fast, cast=True).verdict == "right"
    assert peers.naive(sick).verdict == "wrong"


def test_the_tables_count_what_was_said():
    from benchmarks.gradcheck.measuring import TOOLS

    said = {tool: peers.Said("wrong", "1") for tool in TOOLS}
    seconds = dict.fromkeys(TOOLS, 0.5)
    judged = [
        Judged("a", "wrong", "1", "yes", said, seconds),
        Judged("b", "right", None, "yes", said, seconds),
    ]
    found = [Mutated(s, z, 2, 1, 1) for s in mutations.SPREADS for z in mutations.SIZES]
    found.append(Mutated("all", 0.0, 6, 0, 0))
    text = tables(Cases(judged), found, [Sized(1_000, dict.fromkeys(TOOLS, 0.1))])
    assert "| gradscope | 1 | 1 | 1 | 0 | 0 | 0.50 | 0.5 |" in text
    assert "Of 6 nets without a fault 0 were called wrong." in text
    assert "False alarms: b." in text
