"""add-to-optimizer: every way in which parameters are left out, and trained again afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

HEAD = "import torch\nfrom torch import nn\n\n\n"
UNREGISTERED = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        HIDDEN
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        USE
        return self.out(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
)
LAYERS = "for layer in self.hidden:\n            x = torch.tanh(layer(x))"
HIDDEN = {
    "list": ("self.hidden = [nn.Linear(8, 8), nn.Linear(8, 8)]", LAYERS, "hidden.0.weight"),
    "comprehension": (
        "self.hidden = [nn.Linear(8, 8) for _ in range(2)]",
        LAYERS,
        "hidden.0.weight",
    ),
    "appended": (
        "self.hidden = []\n        for _ in range(2):\n"
        "            self.hidden.append(nn.Linear(8, 8))",
        LAYERS,
        "hidden.0.weight",
    ),
    "local": (
        "layers = [nn.Linear(8, 8), nn.Linear(8, 8)]\n        self.hidden = layers",
        LAYERS,
        "hidden.0.weight",
    ),
    "dict": (
        'self.hidden = {"a": nn.Linear(8, 8)}',
        LAYERS.replace("self.hidden", "self.hidden.values()"),
        "hidden.a.weight",
    ),
    "tensor": ("self.hidden = torch.ones(8, requires_grad=True)", "x = x * self.hidden", "hidden"),
    "tensors": (
        "self.hidden = [torch.ones(8), torch.ones(8)]",
        "x = x * self.hidden[0]",
        "hidden.0",
    ),
}


def left_out(study, text, path, *, registered, module=-1, **facts):
    done = study(text, 8)
    row = {
        "parameter": 90, "root": 0, "path": path, "module": module, "shape": [8, 8], "count": 64,
        "requires_grad": True, "registered": registered, "optimizer": -1, "step": 0,
    }  # fmt: skip
    for known in done.records["parameters"]:
        if known["path"] == path:
            done.records["parameters"].remove(known)
            row |= {"module": known["module"], "parameter": known["parameter"]}
            break
    done.records["parameters"].append(row)
    return done.run_facts(optimizers=[{"type": "SGD", "lr": [0.1]}], **facts)


@pytest.mark.parametrize("case", HIDDEN)
def test_what_sits_in_a_plain_container_is_registered(study, case):
    hidden, use, path = HIDDEN[case]
    text = UNREGISTERED.replace("HIDDEN", hidden).replace("USE", use)
    module = 50 if path.count(".") > 1 else -1
    done = left_out(study, text, path, registered=False, module=module)
    if module == 50:
        done.records["modules"].append(
            {"module": 50, "root": 0, "path": path.rpartition(".")[0], "type": "Linear",
             "torch_type": "Linear", "leaf": True, "registered": False}
        )  # fmt: skip
    fix = done.fixes("GS403", "unregistered", parameters=(path,))["add-to-optimizer"]
    assert fix.applicability == "exact"
    assert "parameters()` does not look into" in fix.reason
    namespace = done.ran(fix)
    names = [name for name, _ in namespace["model"].named_parameters()]
    assert path in names
    held = {id(p) for p in namespace["optimizer"].param_groups[0]["params"]}
    assert held == {id(p) for p in namespace["model"].parameters()}
    assert namespace["model"](torch.ones(2, 8)).shape == (2, 4)


PARTS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.out(self.scale * torch.tanh(self.body(x)))


model = Net()
OPTIMIZER
"""
)


def holds_all(namespace):
    held = {id(p) for g in namespace["optimizer"].param_groups for p in g["params"]}
    return held == {id(p) for p in namespace["model"].parameters()}


WIDER = {
    "part": "optimizer = torch.optim.SGD(model.out.parameters(), lr=0.1)",
    "keyword": "optimizer = torch.optim.SGD(params=model.out.parameters(), lr=0.1)",
    "function": (
        "def make(net):\n    return torch.optim.SGD(net.out.parameters(), lr=0.1)\n\n\n"
        "optimizer = make(model)"
    ),
}


@pytest.mark.parametrize("case", WIDER)
def test_an_optimizer_of_a_part_gets_the_whole(study, case):
    done = left_out(study, PARTS.replace("OPTIMIZER", WIDER[case]), "body.weight", registered=True)
    fix = done.fixes("GS403", "missing", modules=("body",), parameters=("body.weight",))
    assert holds_all(done.ran(fix["add-to-optimizer"]))


LISTS = {
    "tensors": "[*model.out.parameters(), *model.body.parameters()]",
    "groups": (
        '[\n    {"params": model.out.parameters(), "lr": 0.2},\n'
        '    {"params": model.body.parameters()},\n]'
    ),
    "generator": "(p for n, p in model.named_parameters() if n != 'scale')",
}


@pytest.mark.parametrize("case", LISTS)
def test_an_optimizer_of_a_list_gets_what_its_list_lacks(study, case):
    text = PARTS.replace("OPTIMIZER", f"optimizer = torch.optim.SGD({LISTS[case]}, lr=0.1)")
    done = left_out(study, text, "scale", registered=True)
    fix = done.fixes("GS403", "missing", parameters=("scale",))["add-to-optimizer"]
    added = {
        "tensors": "*model.body.parameters(), model.scale]",
        "groups": '+    {"params": [model.scale]},\n',
        "generator": '+optimizer.add_param_group({"params": [model.scale]})',
    }
    assert added[case] in fix.diff
    assert holds_all(done.ran(fix))


def test_a_whole_block_is_one_item_and_the_model_may_be_an_argument(study):
    text = PARTS.replace(
        "OPTIMIZER",
        'def make(net):\n    return torch.optim.SGD([{"params": net.out.parameters()},\n'
        '                            {"params": [net.scale]}], lr=0.1)\n\n\n'
        "optimizer = make(model)",
    )
    done = left_out(study, text, "body.weight", registered=True)
    for row in done.records["parameters"]:
        row["optimizer"] = -1 if row["path"].startswith("body") else 0
    names = ("body.weight", "body.bias")
    fix = done.fixes("GS403", "missing", modules=("body",), parameters=names)["add-to-optimizer"]
    assert '{"params": net.body.parameters()}' in fix.diff
    assert holds_all(done.ran(fix))


def test_the_name_of_the_class_is_no_name_of_the_model(study):
    text = PARTS.replace("OPTIMIZER", f"optimizer = torch.optim.SGD({LISTS['groups']}, lr=0.1)")
    done = left_out(study, text, "scale", registered=True)
    for row in done.records["modules"]:
        row["root_label"] = "Net" if not row["path"] else None
    fix = done.fixes("GS403", "missing", parameters=("scale",))["add-to-optimizer"]
    assert holds_all(done.ran(fix))


def test_an_optimizer_built_too_early_is_built_later(study):
    text = PARTS.replace(
        "OPTIMIZER",
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "model.out = nn.Linear(8, 3)\nprint()",
    )
    done = left_out(study, text, "out.weight", registered=True)
    fix = done.fixes("GS403", "replaced", modules=("out",), parameters=("out.weight",))
    new = done.mended(fix["add-to-optimizer"])
    assert "model.out = nn.Linear(8, 3)\noptimizer = torch.optim.SGD" in new
    assert new.count("optimizer =") == 1
    assert holds_all(done.ran(fix["add-to-optimizer"]))


def test_a_second_model_is_added_to_the_sum(study):
    text = HEAD + (
        "encoder = nn.Linear(8, 8)\nmodel = nn.Linear(8, 4)\n"
        "optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)\n"
    )
    done = left_out(study, text, "weight", registered=True)
    second = {
        "module": 70, "root": 70, "root_label": "encoder", "path": "", "type": "Linear",
        "torch_type": "Linear", "leaf": True, "registered": True, "trained": True,
    }  # fmt: skip
    done.records["modules"].append(second)
    fix = done.fixes("GS403", "missing", parameters=("model.weight",))["add-to-optimizer"]
    both = "list(encoder.parameters()) + list(model.parameters())"
    assert f"+optimizer = torch.optim.SGD({both}, lr=0.1)" in fix.diff
    namespace = done.ran(fix)
    assert len(namespace["optimizer"].param_groups[0]["params"]) == 4


def test_what_is_frozen_or_held_is_no_reason(study):
    done = study(PARTS.replace("OPTIMIZER", WIDER["part"]), 8)
    assert "add-to-optimizer" not in done.fixes("GS403", "missing", parameters=("body.weight",))


def test_two_optimizers_are_left_to_the_person(study):
    text = PARTS.replace("OPTIMIZER", WIDER["part"])
    done = left_out(study, text, "body.weight", registered=True)
    done = done.run_facts(optimizers=[{"type": "SGD", "lr": [0.1]}, {"type": "SGD", "lr": [0.1]}])
    fix = done.fixes("GS403", "missing", modules=("body",), parameters=("body.weight",))
    assert fix["add-to-optimizer"].diff is None
    assert "[model.body.weight]" in fix["add-to-optimizer"].snippet


def test_the_module_list_is_one(study):
    hidden, use, path = HIDDEN["list"]
    text = UNREGISTERED.replace("HIDDEN", hidden).replace("USE", use)
    done = left_out(study, text, path, registered=False, module=50)
    done.records["modules"].append(
        {"module": 50, "root": 0, "path": "hidden.0", "type": "Linear", "torch_type": "Linear",
         "leaf": True, "registered": False}
    )  # fmt: skip
    fix = done.fixes("GS403", "unregistered", modules=("hidden.0",), parameters=(path,))
    model = done.ran(fix["add-to-optimizer"])["model"]
    assert isinstance(model.hidden, nn.ModuleList)
