"""Every bad input: a clear line, the user's own traceback where it is theirs, a right exit code."""

import subprocess
import sys

import pytest

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(x)
"""
BATCH = "batch = torch.randn(8, 3), torch.randn(8, 2)\n"

BAD = {
    # name: (file's text or None, arguments, exit code, words on stderr, whose traceback)
    "no such file": (None, ["modle.py"], 2, ["error: there is no file 'modle.py'"], None),
    "nearly the name": (
        NET, ["modle.py"], 2, ["there is no file 'modle.py'", "did you mean 'model.py'?"], None,
    ),
    "a folder": (NET, ["."], 2, ["error: '.' is a folder, not a Python file", "model.py"], None),
    "not Python": (None, ["notes.txt"], 2, ["error: 'notes.txt' is not a Python file"], None),
    "syntax error": (
        "x = 1\ndef broken(:\n", ["model.py"], 3,
        ["error: importing model.py failed: SyntaxError", "where: model.py:2", "def broken(:"],
        None,
    ),
    "missing import": (
        "import no_such_package\n", ["model.py"], 3,
        ["No module named 'no_such_package'", "where: model.py:1", "install 'no_such_package'"],
        "import no_such_package",
    ),
    "error while importing": (
        NET + "raise ValueError('odd\\nlines')\n", ["model.py"], 3,
        ["error: importing model.py failed: ValueError: odd", "where: model.py:10"],
        "raise ValueError",
    ),
    "exits while importing": (
        "import sys\nsys.exit(7)\n", ["model.py"], 3,
        ["error: importing model.py called sys.exit(7)", "where: model.py:2"], "sys.exit(7)",
    ),
    "trains while importing": (
        NET + "model = Net()\nopt = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(10**9):\n    model(torch.randn(8, 3)).sum().backward()\n    opt.step()\n",
        ["model.py"], 3,
        ["looks like a training script: use gradscope run", "where: model.py:14", "__main__"], None,
    ),
    "no model": ("x = 1\n", ["model.py"], 3, ["error: no model found in model.py", "try:"], None),
    "several models": (
        NET + "one, two = Net(), Net()\n", ["model.py"], 3,
        ["error: several models in model.py: one, two", "say which one: model.py:one"], None,
    ),
    "no such object": (
        NET + "net = Net()\n", ["model.py:nett"], 3,
        ["error: there is no 'nett' in model.py", "it has Net, net"], None,
    ),
    "no object": (NET, ["model.py:"], 2, ["'' is not the name of an object"], None),
    "constructor needs arguments": (
        NET.replace("__init__(self)", "__init__(self, width, depth)"), ["model.py"], 3,
        ["Net cannot be built without arguments: it needs width, depth", "where: model.py:4",
         "add `model = Net(…)`"],
        None,
    ),
    "constructor fails": (
        NET.replace("super().__init__()", "raise KeyError('depth')"), ["model.py"], 3,
        ["error: building the model with Net() failed: KeyError: 'depth'"], "raise KeyError",
    ),
    "shapes do not fit": (
        NET + "batch = torch.randn(8, 4), torch.randn(8, 2)\n", ["model.py"], 3,
        ["error: a first forward pass failed: RuntimeError: mat1 and mat2 shapes cannot be "
         "multiplied (8x4 and 3x2)", "where: model.py:9", "the model was called with 8 x 4"],
        "return self.fc(x)",
    ),
    "given shape does not fit": (
        NET, ["model.py", "--input", "8,5"], 3,
        ["error: the model does not take an input of 8 x 5", "--input 32,1,28,28"],
        "return self.fc(x)",
    ),
    "targets do not fit": (
        NET + "batch = torch.randn(8, 3), torch.randn(8, 7)\n", ["model.py"], 3,
        ["error: no loss fits an output of 8 x 2 and targets of 8 x 7"], None,
    ),
    "loss not scalar": (
        NET + BATCH + "def loss(model, batch):\n    return model(batch[0])\n", ["model.py"], 3,
        ["error: the loss of step 0 is not one number but 8 x 2", ".mean()"], None,
    ),
    "loss without grad": (
        NET + BATCH + "def loss(model, batch):\n    return model(batch[0]).detach().sum()\n",
        ["model.py"], 3, ["error: the loss of step 0 does not require grad", "detach()"], None,
    ),
    "loss is a number": (
        NET + BATCH + "def loss(model, batch):\n    return 0.5\n", ["model.py"], 3,
        ["error: the loss of step 0 is a float, not a tensor"], None,
    ),
    "nothing trainable": (
        NET + BATCH + "model = Net().requires_grad_(False)\n", ["model.py"], 3,
        ["error: nothing to train: none of the 2 parameters of Net requires grad"], None,
    ),
    "empty data set": (
        NET + "from torch.utils.data import TensorDataset\n"
        "data = TensorDataset(torch.zeros(0, 3), torch.zeros(0, 2))\n",
        ["model.py"], 3, ["error: the data set `data` is empty"], None,
    ),
    "no batch at all": (
        NET + "def batches():\n    return []\n", ["model.py"], 3,
        ["error: batches() gives no batch: the data set is empty"], None,
    ),
    "exits in the forward pass": (
        NET.replace("return self.fc(x)", "import sys; sys.exit(0)") + BATCH, ["model.py"], 3,
        ["called sys.exit(0)", "where: model.py:9"], "import sys; sys.exit(0)",
    ),
    "fails in the backward pass": (
        NET + BATCH + "class Cut(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return x * 1\n"
        "    @staticmethod\n    def backward(ctx, g):\n        raise ArithmeticError('cut')\n"
        "def loss(model, batch):\n    return Cut.apply(model(batch[0])).sum()\n",
        ["model.py"], 3, ["error: the backward pass of step 0 failed: ArithmeticError: cut"],
        "raise ArithmeticError",
    ),
    "no such device": (
        NET + BATCH, ["model.py", "--device", "gpu0"], 2,
        ["error: the device 'gpu0' cannot be used", "devices here: cpu"], None,
    ),
    "no such rule": (
        NET + BATCH, ["model.py", "--select", "XY9"], 2, ["XY9"], None,
    ),
    "no steps": (
        NET + BATCH, ["model.py", "--steps", "0"], 2,
        ["error: setting 'steps' cannot be 0", "a whole number from 1"], None,
    ),
    "no shape": (
        NET + BATCH, ["model.py", "--input", "big"], 2,
        ["error: setting 'input' cannot be 'big'", "32,1,28,28"], None,
    ),
    "no format": (NET + BATCH, ["model.py", "-o", "result.pdf"], 2, [".pdf", ".html"], None),
    "output is a folder": (
        NET + BATCH, ["model.py", "--report", "."], 2, ["error: '.' is a folder"], None,
    ),
    "no such option": (NET + BATCH, ["model.py", "--stepps", "3"], 2, ["--steps"], None),
    "no target": (NET + BATCH, [], 2, ["MODEL.PY[:OBJECT]"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_clear_line(terminal, name):
    text, arguments, code, words, traceback = BAD[name]
    terminal.write("notes", "notes.txt")
    if text is not None:
        terminal.write(text)
    before = terminal.files()
    # a report is asked for as well, to see that none is begun
    asked = [] if name in ("no target", "output is a folder") else ["--report", "report.html"]
    result = terminal.run("check", *arguments, *asked)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    frames = result.stderr.count("Traceback (most recent call last)")
    assert frames == (1 if traceback else 0), result.stderr
    if traceback:
        assert traceback in result.stderr
        assert "site-packages" not in result.stderr
        assert "gradscope/" not in result.stderr
    assert terminal.files() == before


def test_a_fault_of_gradscope_itself_exits_2(terminal, healthy):
    """A damaged installation, say, must not look like findings (1) or a healthy model (0)."""
    code = (
        "import sys, gradscope.session as session\n"
        "def broken(*a, **k): raise ZeroDivisionError('inside')\n"
        "session.check_file = broken\n"
        "from gradscope.cli import main\nsys.exit(main(['check', 'model.py']))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=terminal.folder, env=terminal.environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "a fault of gradscope itself" in result.stderr
