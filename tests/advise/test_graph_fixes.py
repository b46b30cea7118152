"""keep-graph, straight-through and unfreeze: afterwards the gradient arrives."""

from __future__ import annotations

import pytest
import torch

HEAD = "import torch\nfrom torch import nn\n\n\n"
NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        BODY
        return self.out(h)
"""
)
CUTS = {
    "detach": ("h = self.body(x).detach()", "detach", 0),
    "detach-in-line": ("h = torch.tanh(self.body(x).detach()) * 2.0  # why?", "detach", 0),
    "detach-function": ("h = self.body(x)\n        h = torch.detach(h) * 1.0", "detach", 1),
    "detach-in-place": ("h = self.body(x).detach_()", "detach_", 0),
    "data": ("h = self.body(x).data * 1.0", "data", 0),
    "no-grad": ("with torch.no_grad():\n            h = self.body(x)", "no_grad", 1),
    "inference-mode": (
        "with torch.inference_mode():\n            h = self.body(x)\n        h = h.clone()",
        "inference_mode",
        1,
    ),
}


def cut_at(study, body, operation, lines, reason):
    done = study(NET.replace("BODY", body), 8)
    line = 1 + done.text[: done.text.index(body)].count("\n") + lines
    for row in done.records["parameters"]:
        if row["path"].startswith("body"):
            row |= {
                "unreached_reason": reason, "unreached_operation": operation,
                "unreached_file": done.file, "unreached_line": line,
            }  # fmt: skip
    return done, line


def gets_a_gradient(model):
    model(torch.randn(4, 8)).square().sum().backward()
    return model.body.weight.grad is not None and bool(model.body.weight.grad.any())


@pytest.mark.parametrize("case", CUTS)
def test_the_cut_is_taken_out_at_the_recorded_line(study, case):
    body, operation, lines = CUTS[case]
    reason = "no-grad" if operation.endswith(("grad", "mode")) else "detached"
    done, line = cut_at(study, body, operation, lines, reason)
    assert not gets_a_gradient(done.model)
    fix = done.fixes("GS104", reason, modules=("body",), parameters=("body.weight",))["keep-graph"]
    assert f"model.py:{line}" in fix.title
    assert fix.applicability == "may-change-results"
    assert gets_a_gradient(done.rebuilt(fix))
    assert fix.diff.count("\n+") == 2


def test_a_decorator_that_switches_gradients_off(study):
    text = NET.replace("    def forward", "    @torch.no_grad()\n    def forward").replace(
        "BODY", "h = self.body(x)"
    )
    done = study(text, 8)
    line = 1 + done.text[: done.text.index("h = self.body(x)")].count("\n")
    for row in done.records["parameters"]:
        row |= {
            "unreached_reason": "no-grad", "unreached_operation": "no_grad",
            "unreached_file": done.file, "unreached_line": line,
        }  # fmt: skip
    fix = done.fixes("GS104", "no-grad", parameters=("body.weight",))["keep-graph"]
    assert gets_a_gradient(done.rebuilt(fix))


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ("h = self.body(x).detach() + self.body(x).detach()", "detach"),
        ("h = torch.tensor(self.body(x).tolist())", "tolist"),
        ("h = self.body(x)", "detach"),
    ],
)
def test_a_cut_that_is_not_clear_in_the_line_gets_a_snippet(study, body, operation):
    done, _ = cut_at(study, body, operation, 0, "detached")
    fix = done.fixes("GS104", "detached", parameters=("body.weight",))["keep-graph"]
    assert fix.diff is None
    assert fix.snippet


@pytest.mark.parametrize("reason", ["unused", "frozen", "other", None])
def test_other_reasons_are_no_cut(study, reason):
    done, _ = cut_at(study, "h = self.body(x)", "detach", 0, reason)
    assert "keep-graph" not in done.fixes("GS104", parameters=("body.weight",))


@pytest.mark.parametrize(
    "body",
    ["h = self.body(x)\n        h = torch.round(h)", "h = self.body(x)\n        h = h.sign()"],
)
def test_a_step_function_keeps_its_value_and_passes_the_gradient(study, body):
    operation = "round" if "round" in body else "sign"
    done, _ = cut_at(study, body, operation, 1, "integer")
    assert not gets_a_gradient(done.model)
    fix = done.fixes("GS104", "integer", parameters=("body.weight",))["straight-through"]
    model = done.rebuilt(fix)
    x = torch.randn(4, 8)
    model.load_state_dict(done.model.state_dict())
    assert torch.allclose(model(x), done.model(x), atol=1e-6)
    assert gets_a_gradient(model)


FREEZES = {
    "loop": "for p in model.body.parameters():\n    p.requires_grad = False",
    "method": "model.body.requires_grad_(False)",
    "one": "model.body.weight.requires_grad = False",
}


@pytest.mark.parametrize("case", FREEZES)
@pytest.mark.parametrize("other", ["", "\nmodel.out.bias.requires_grad_(False)"])
def test_the_line_that_freezes_is_undone(study, case, other):
    text = NET.replace("BODY", "h = self.body(x)") + f"\n\nmodel = Net()\n{FREEZES[case]}{other}\n"
    done = study(text, 8)
    fix = done.fixes("GS104", "frozen", parameters=("body.weight",))["unfreeze"]
    model = done.rebuilt(fix)
    assert model.body.weight.requires_grad
    assert model.out.bias.requires_grad is (other == "")


def test_nothing_frozen_is_nothing_to_unfreeze(study):
    done = study(NET.replace("BODY", "h = self.body(x)"), 8)
    assert "unfreeze" not in done.fixes("GS104", parameters=("body.weight",))
