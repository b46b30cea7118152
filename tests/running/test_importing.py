"""Importing the user's file: what it sees, and that nothing of it stays."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gradscope.errors import LoadError
from gradscope.running.importing import import_file, surroundings


def imported(file):
    with surroundings(file):
        return import_file(file)


def test_it_is_imported_under_its_own_stem(desk):
    file = desk.write(
        """
        import sys
        from dataclasses import dataclass
        name, first, argv = __name__, sys.path[0], list(sys.argv)
        known = sys.modules[__name__]

        @dataclass
        class Options:  # a dataclass looks its module up in sys.modules
            width: "int" = 3
        """
    )
    module = imported(file)
    assert module.name == "model"
    assert module.first == str(desk.folder)
    assert module.argv == [str(file)]
    assert module.known is module


def test_a_file_that_is_edited_is_imported_anew_with_its_siblings(desk):
    desk.write("width = 1\n", "sizes.py")
    file = desk.write("from sizes import width\n")
    assert imported(file).width == 1
    desk.write("width = 2\n", "sizes.py")
    assert imported(file).width == 2


def test_nothing_stays_in_the_process_or_beside_the_file(desk):
    desk.write("pass\n", "sibling.py")
    file = desk.write("import sibling, sys\nsys.path.append('elsewhere')\n")
    before = list(sys.path), list(sys.argv), sys.dont_write_bytecode, sys.stdout
    with surroundings(file):
        import_file(file)
        assert "sibling" in sys.modules
    assert (list(sys.path), list(sys.argv), sys.dont_write_bytecode, sys.stdout) == before
    assert "model" not in sys.modules
    assert "sibling" not in sys.modules
    assert sorted(p.name for p in desk.folder.iterdir()) == ["model.py", "sibling.py"]


def test_a_module_that_was_imported_before_is_put_back(desk, monkeypatch):
    file = desk.write("value = 1\n")
    monkeypatch.syspath_prepend(str(desk.folder))
    import model

    try:
        with surroundings(file):
            assert import_file(file) is not model
        assert sys.modules["model"] is model
    finally:
        del sys.modules["model"]


def test_what_it_prints_goes_to_stderr(desk, capfd):
    file = desk.write("import os\nprint('python')\nos.system('echo child')\n")
    imported(file)
    out, err = capfd.readouterr()
    assert out == ""
    assert "python" in err
    assert "child" in err


def test_a_file_that_would_hide_a_library_is_refused(desk):
    with pytest.raises(LoadError, match=r"random\.py has the name of the module 'random'"):
        imported(desk.write("pass\n", "random.py"))
    import random

    assert random.random() < 1


LOOP = """
import torch
print("before")
w = torch.nn.Parameter(torch.ones(2))
opt = torch.optim.{optimizer}
for _ in range(10**9):
    {guard}
        w.sum().backward()
        opt.step()
    {after}
"""


@pytest.mark.parametrize("optimizer", ["SGD([w], lr=0.1)", "AdamW([w], foreach=False)"])
@pytest.mark.parametrize(
    ("guard", "after"), [("if True:", "pass"), ("try:", "except Exception: pass")]
)
def test_a_training_script_is_stopped_at_its_first_step(desk, optimizer, guard, after):
    file = desk.write(LOOP.format(optimizer=optimizer, guard=guard, after=after))
    with pytest.raises(
        LoadError, match="looks like a training script: use gradscope run"
    ) as caught:
        imported(file)
    assert caught.value.where == "model.py:9"


def test_building_an_optimizer_and_a_schedule_is_no_training(desk):
    file = desk.write(
        """
        import torch
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        """
    )
    with surroundings(file):
        module = import_file(file)
    # and the guard is gone
    (weight,) = module.optimizer.param_groups[0]["params"]
    weight.grad = torch.ones(2)
    module.optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, 0.9])


def test_random_states_are_the_same_for_each_import(desk):
    from gradscope.running.seeds import seed_all

    file = desk.write(
        "import random, numpy, torch\n"
        "x = random.random(), numpy.random.rand(), float(torch.rand(()))\n"
    )
    drawn = []
    for _ in range(2):
        seed_all(3)
        drawn.append(imported(file).x)
    assert drawn[0] == drawn[1]
    # an independent oracle for numpy's part
    assert drawn[0][1] == np.random.RandomState(3).rand()


def test_an_interruption_while_importing_is_told(desk):
    file = desk.write("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n" + "x = 1\n" * 50)
    with pytest.raises(LoadError, match=r"interrupted while importing model\.py"):
        imported(file)


def test_relative_paths_stay_those_of_the_working_directory(desk):
    file = desk.write("import os\nhere = os.getcwd()\n")
    assert imported(file).here == str(Path.cwd())
