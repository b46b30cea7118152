import numpy as np
import pytest
import torch
from synthetic import TRIVIAL, Role, Synthetic, falling
from test_lookalikes import watched
from torch import nn
from torch.nn import functional

from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.diagnose.terms import loss_terms, pushes
from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules.gradient_imbalance import GradientImbalance

rule = GradientImbalance()


def check(made):
    return rule.check(made.build(), GradientImbalance.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def two(ratio, weak=TRIVIAL, strong=None, *, steps=100, shared=True, baseline=TRIVIAL, heads=True):
    """A trunk and two heads; the second sends ``ratio`` times the first's gradient into it."""
    made = Synthetic(steps)
    trunk, _ = made.layer("trunk")
    ids = [made.layer(name)[0] for name in ("a", "b")]
    for head in ids:
        made._modules[head]["parameters"] = 64
    for head, norm, total in zip(ids, (1.0, ratio), (3.0, 3.0 if shared else 4.0), strict=True):
        made.flow(head, norm, 1.0)
        for step in range(steps):
            made._activations.append(
                {"step": step, "module": head, "role": Role.INPUT, "calls": 1, "count": 64,
                 "sum": total, "sum_sq": 64.0, "max_abs": 1.0, "source": trunk, "batch": 8}
            )  # fmt: skip
    made.loss(1.0)
    made._losses.clear()
    strong = falling(steps) if strong is None else strong
    for term, values in enumerate((weak, strong)):
        for step, value in enumerate(np.broadcast_to(values, steps)):
            made._losses.append(
                {"step": step, "site": "train.py:7", "term": term, "module": ids[term * heads],
                 "operation": ("cross_entropy", "mse")[term], "value": float(value),
                 "baseline": baseline, "share": 1.0}
            )  # fmt: skip
    return made


@pytest.mark.parametrize(("ratio", "kind"), [(9.9, Passed), (10.1, Findings)])
def test_the_ratio(ratio, kind):
    assert isinstance(check(two(ratio)), kind)


def test_what_it_says():
    finding = only(check(two(50)))
    assert (finding.severity, finding.confidence) == ("warning", "strong")
    assert (finding.modules, finding.parameters, finding.also) == (("a",), ("a.weight",), ("b",))
    assert finding.kind == "mse-over-cross_entropy"
    assert finding.summary == (
        "Where they meet, the gradient of the term mse of `b` is about 50x that of the term "
        "cross_entropy of `a`, which learns nothing."
    )


@pytest.mark.parametrize(
    ("level", "severity"), [(0.96, "warning"), (0.94, "note"), (0.71, "note"), (0.69, None)]
)
def test_severity_by_the_weaker_term(level, severity):
    outcome = check(two(50, level * TRIVIAL))
    if severity is None:
        assert isinstance(outcome, Passed)
    else:
        assert only(outcome).severity == severity


@pytest.mark.parametrize(("steps", "severity"), [(49, "note"), (50, "warning")])
def test_notes_before_fifty_steps(steps, severity):
    assert only(check(two(50, steps=steps))).severity == severity


def test_fewer_than_twenty_steps():
    assert isinstance(check(two(50, steps=19)), Undecided)


def test_a_strong_gradient_beside_a_term_that_learns_is_healthy():
    assert isinstance(check(two(1e4, falling())), Passed)


def test_where_neither_learns_nobody_is_drowned():
    assert isinstance(check(two(50, TRIVIAL, TRIVIAL)), Passed)


def test_heads_that_share_no_tensor_cannot_be_compared():
    assert isinstance(check(two(50, shared=False)), Undecided)


def test_terms_of_one_output_cannot_be_told_apart():
    assert isinstance(check(two(50, heads=False)), Undecided)


def test_without_a_trivial_loss_it_is_undecided():
    assert isinstance(check(two(50, baseline=None)), Undecided)


def test_one_term():
    made = Synthetic()
    made.loss(TRIVIAL)
    assert isinstance(check(made), NotApplicable)


class TwoHeads(nn.Module):
    def __init__(self, deep):
        super().__init__()
        self.body = nn.Linear(8, 32)
        self.a = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)) if deep else (
            nn.Linear(32, 1)
        )  # fmt: skip
        self.b = nn.Linear(32, 1)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return hidden, self.a(hidden), self.b(hidden)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("weight", [0.01, 1.0, 100.0])
def test_the_estimate_against_autograd(tmp_path, deep, weight):
    torch.manual_seed(0)
    model = TwoHeads(deep)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = torch.randn(64, 8), torch.randn(64, 2)
    writer = Writer(tmp_path / "run")
    observer = Observer([model], writer=writer, budget=None, every=1, activations_every=1)
    observer.attach()
    for _ in range(3):
        optimizer.zero_grad()
        _, a, b = model(x)
        losses = functional.mse_loss(a, y[:, :1]), weight * functional.mse_loss(b, y[:, 1:])
        sum(losses).backward()
        optimizer.step()
    observer.detach()
    writer.close()
    hidden, a, b = model(x)
    terms = functional.mse_loss(a, y[:, :1]), weight * functional.mse_loss(b, y[:, 1:])
    exact = [float(torch.autograd.grad(t, hidden, retain_graph=True)[0].norm()) for t in terms]
    recording = load_run(tmp_path / "run")
    found = pushes(recording, loss_terms(recording))
    assert [push.head for push in found] == ["a.0" if deep else "a", "b"]
    # exact for a head of one output, within a factor of 2 where several directions meet
    assert [push.norm for push in found] == pytest.approx(exact, rel=0.5 if deep else 1e-4)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_two_tasks_that_both_learn_are_silent(tmp_path, factor):
    torch.manual_seed(0)
    model = TwoHeads(deep=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    true = torch.randn(8, 2)

    def step():
        x = torch.randn(64, 8)
        y = torch.tanh(x @ true)
        optimizer.zero_grad()
        _, a, b = model(x)
        loss = functional.mse_loss(a, y[:, :1]) + factor * functional.mse_loss(b, y[:, 1:])
        loss.backward()
        optimizer.step()

    found = watched([model], step, tmp_path / "run")
    assert [f.code for f in found.findings if f.severity != "note"] == []
