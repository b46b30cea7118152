"""How a file writes a name of torch, and what it has to import for it."""

from __future__ import annotations

import importlib

import pytest

from gradscope.advise.names import resolved, spelled
from gradscope.advise.patch import apply_edits
from gradscope.advise.source_file import SourceFile

CASES = {
    "import torch": ("torch.nn.ReLU", "torch.nn.ReLU"),
    "import torch.nn as nn": ("torch.nn.ReLU", "nn.ReLU"),
    "from torch import nn as layers": ("torch.nn.ReLU", "layers.ReLU"),
    "import torch\nimport torch.nn as nn": ("torch.nn.init.zeros_", "nn.init.zeros_"),
    "from torch.nn import ReLU as R": ("torch.nn.ReLU", "R"),
    "from torch.nn.functional import relu": ("torch.nn.functional.relu", "relu"),
    "import torch.nn.functional as F": ("torch.nn.functional.gelu", "F.gelu"),
    "import torch.nn.functional": ("torch.nn.functional.gelu", "torch.nn.functional.gelu"),
    "import torch as t": ("torch.enable_grad", "t.enable_grad"),
    "": ("torch.nn.ReLU", "nn.ReLU"),
    '"""Doc."""\nx = 1': ("torch.nn.functional.gelu", "F.gelu"),
    "from __future__ import annotations\nx = 1": ("torch.nn.utils.rnn", "nn.utils.rnn"),
    "nn = 3": ("torch.nn.ReLU", "torch.nn.ReLU"),
    "def f():\n    import torch": ("torch.enable_grad", "torch.enable_grad"),
    "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n\nx = 1": ("torch.nn.ReLU", "nn.ReLU"),
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_the_name_is_bound_to_the_object_in_the_mended_file(text):
    origin, expected = CASES[text]
    file = SourceFile("f.py", text)
    name, imports = spelled(file, origin)
    assert name == expected
    mended = apply_edits(text, imports)
    namespace = {}
    exec(compile(mended, "f.py", "exec"), namespace)
    module, _, last = origin.rpartition(".")
    assert eval(name, namespace) is getattr(importlib.import_module(module), last)
    # lines that must stay on top do
    if text.startswith(("#!", '"""', "from __future__")):
        assert mended.splitlines()[0] == text.splitlines()[0]


def test_names_are_followed_through_aliases():
    text = "from torch import nn as n\nAct = n.Sigmoid\nOther = Act\nmodel = Act()\n"
    file = SourceFile("f.py", text)
    assert resolved(file, file.calls[0].func) == "torch.nn.Sigmoid"


def test_an_alias_of_itself_ends():
    file = SourceFile("f.py", "import a\nb = a.b\na = b.a\na.x()\n")
    assert resolved(file, file.calls[0].func)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_positions_of_the_tree_are_offsets_of_the_text(newline):
    text = f"x = 'ü模'{newline}if x:{newline}\ty = f(x, 'é') # é{newline}\f\nz = g(1)"
    file = SourceFile("f.py", text)
    assert [file.code(call) for call in file.calls] == ["f(x, 'é')", "g(1)"]
