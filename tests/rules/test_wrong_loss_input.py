import math
import warnings

import pandas as pd
import pytest
import torch
from loops import data, judged, only, watched
from synthetic import TRIVIAL, Synthetic, falling
from torch import nn
from torch.nn import functional

import gradscope
from gradscope.diagnose.loss_input import gained_of_possible
from gradscope.diagnose.rule import NotApplicable, Passed
from gradscope.rules.wrong_loss_input import WrongLossInput

X, Y = data()
POINTS = X[:, :1]


def synthetic(faulty=10, looks=10, loss=TRIVIAL, **facts):
    made = Synthetic(100)
    made.loss(loss)
    made._losses = []
    bad = {"operation": "cross_entropy", "input_operation": "SoftmaxBackward0"} | facts
    for step in range(looks):
        row = {"step": step, "site": "train.py:7", "term": 0, "module": 0, "value": 1.0}
        row |= bad if step < faulty else bad | {"input_operation": "AddmmBackward0"}
        made._losses.append(row)
    return judged(WrongLossInput, made.build())


@pytest.mark.parametrize(("faulty", "found"), [(10, True), (5, True), (4, False)])
def test_share_of_the_looks(faulty, found):
    outcome = synthetic(faulty)
    if found:
        assert only(outcome).kind == "softmax-twice"
    else:
        assert isinstance(outcome, Passed)


@pytest.mark.parametrize(("loss", "severity"), [(falling(), "warning"), (TRIVIAL, "critical")])
def test_severity(loss, severity):
    made = Synthetic(100)
    made.loss(loss)
    for row in made._losses:
        row |= {"input_operation": "SoftmaxBackward0", "term": 0}
    assert only(judged(WrongLossInput, made.build())).severity == severity


@pytest.mark.parametrize(("value", "found"), [(-0.02, True), (-0.005, False), (0.3, False)])
def test_an_nll_below_zero(value, found):
    outcome = synthetic(operation="nll", input_operation="MulBackward0", value=value)
    if found:
        assert only(outcome).confidence == "strong"
    else:
        assert isinstance(outcome, Passed)


@pytest.mark.parametrize(
    ("prediction", "target", "elements", "found"),
    [
        ([64, 1], [1, 64], [64, 64], True),
        ([64], [64, 1], [64, 64], True),
        ([8, 1, 5, 5], [1, 8, 5, 5], [8, 8, 5, 5], True),
        ([64, 1], [64, 1], [64, 1], False),
        ([64, 3], [64, 1], [64, 3], False),
        ([64, 3], [1, 3], [64, 3], False),
        ([64, 1], [1, 1], [64, 1], False),
        ([1, 1], [1, 1], [1, 1], False),
        # quantiles against quantiles: the batch axis stays in its place
        ([32, 8, 1], [32, 1, 8], [32, 8, 8], False),
        # points against other points
        ([64, 1], [1, 50], [64, 50], False),
        ([64, 1], None, [64, 64], True),
        ([64], None, [64, 64], True),
        ([64, 1], None, [64, 1], False),
        ([64, 1], None, [64, 3], False),
        ([64, 1, 3], None, [64, 64, 3], False),
    ],
    ids=str,
)
def test_shapes(prediction, target, elements, found):
    outcome = synthetic(
        operation="mse", input_operation="AddmmBackward0",
        input_shape=prediction, target_shape=target, element_shape=elements,
    )  # fmt: skip
    if found:
        assert only(outcome).kind == "broadcast"
    else:
        assert isinstance(outcome, Passed)


def test_a_loss_that_is_not_known():
    assert isinstance(synthetic(operation="other:MeanBackward0"), NotApplicable)


# ---------------------------------------------------------------------- real graphs


def ran(folder, loss, *end, out=4):
    """What GS503 says of a few steps on ``loss(output)``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, out), *end)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(_):
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss(model(X)).backward()
        optimizer.step()

    return judged(WrongLossInput, watched(folder / "run", [model], step, 5))


YES = functional.one_hot(Y, 4).float()
SOFT = torch.full((256, 4), 0.25)


FAULTS = {
    "softmax layer": (lambda o: functional.cross_entropy(o, Y), [nn.Softmax(1)], "softmax-twice"),
    "functional softmax": (
        lambda o: functional.cross_entropy(functional.softmax(o, 1), Y),
        [],
        "softmax-twice",
    ),
    "softmax method": (lambda o: nn.CrossEntropyLoss()(o.softmax(-1), Y), [], "softmax-twice"),
    "soft targets": (lambda o: functional.cross_entropy(o.softmax(-1), YES), [], "softmax-twice"),
    "label smoothing": (
        lambda o: functional.cross_entropy(o.softmax(-1), Y, label_smoothing=0.1),
        [],
        "softmax-twice",
    ),
    "scaled and reshaped": (
        lambda o: 3 * functional.cross_entropy(o.softmax(-1).view(256, 4), Y),
        [],
        "softmax-twice",
    ),
    "sigmoid before cross_entropy": (
        lambda o: functional.cross_entropy(o.sigmoid(), Y),
        [],
        "softmax-twice",
    ),
    "log_softmax layer": (
        lambda o: functional.cross_entropy(o, Y),
        [nn.LogSoftmax(1)],
        "log-softmax-twice",
    ),
    "sigmoid layer": (
        lambda o: functional.binary_cross_entropy_with_logits(o, YES),
        [nn.Sigmoid()],
        "sigmoid-twice",
    ),
    "sigmoid function": (
        lambda o: nn.BCEWithLogitsLoss()(torch.sigmoid(o), YES),
        [],
        "sigmoid-twice",
    ),
    "softmax before nll": (
        lambda o: functional.nll_loss(functional.softmax(o, 1), Y),
        [],
        "probabilities",
    ),
    "scores before nll": (lambda o: functional.nll_loss(o, Y), [], "logits"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(tmp_path, case):
    loss, end, kind = FAULTS[case]
    finding = only(ran(tmp_path, loss, *end))
    assert finding.kind == kind
    assert (finding.severity == "note") == (kind == "log-softmax-twice")
    if end:
        assert finding.modules == ("3",)
        assert finding.location.file.endswith("test_wrong_loss_input.py")


RIGHT = {
    "scores": (lambda o: functional.cross_entropy(o, Y), []),
    "log_softmax before nll": (lambda o: functional.nll_loss(o, Y), [nn.LogSoftmax(1)]),
    "log of softmax": (lambda o: functional.nll_loss(torch.log(o.softmax(1) + 1e-6), Y), []),
    "scores minus logsumexp": (
        lambda o: functional.nll_loss(o - o.logsumexp(1, keepdim=True), Y),
        [],
    ),
    "sigmoid before bce": (lambda o: functional.binary_cross_entropy(o, YES), [nn.Sigmoid()]),
    "scores before bce": (lambda o: functional.binary_cross_entropy_with_logits(o, YES), []),
    "softmax before mse": (lambda o: functional.mse_loss(o, YES), [nn.Softmax(1)]),
    "log_softmax before kl_div": (
        lambda o: functional.kl_div(o.log_softmax(1), SOFT, reduction="batchmean"),
        [],
    ),
    "by hand": (lambda o: -(o.log_softmax(1)[torch.arange(256), Y]).mean(), []),
}


@pytest.mark.parametrize("case", RIGHT)
def test_inputs_that_are_right(tmp_path, case):
    loss, end = RIGHT[case]
    assert isinstance(ran(tmp_path, loss, *end), Passed)


T = POINTS[:, 0]


TARGETS = {
    "mse": (lambda o: functional.mse_loss(o, T), True),
    "mse, the other way round": (lambda o: functional.mse_loss(o.squeeze(-1), POINTS), True),
    "smooth_l1": (lambda o: functional.smooth_l1_loss(o, T), True),
    "huber": (lambda o: nn.HuberLoss()(o, T), True),
    "mse by hand": (lambda o: ((o - T) ** 2).mean(), True),
    "l1 by hand": (lambda o: (T - o).abs().mean(), True),
    "columns": (lambda o: functional.mse_loss(o, POINTS), False),
    "rows": (lambda o: functional.l1_loss(o.squeeze(-1), T), False),
    "by hand": (lambda o: ((o[:, 0] - T) ** 2).mean(), False),
    "one element": (lambda o: functional.mse_loss(o, torch.zeros(1)), False),
    "scalar": (lambda o: functional.mse_loss(o, torch.tensor(0.0)), False),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_broadcast(tmp_path, case):
    loss, found = TARGETS[case]
    outcome = ran(tmp_path, loss, out=1)
    if found:
        assert only(outcome).kind == "broadcast"
    else:
        assert isinstance(outcome, Passed)


def test_quantiles_against_quantiles(tmp_path):
    def loss(output):
        return functional.smooth_l1_loss(output.unsqueeze(2), YES.unsqueeze(1))

    assert isinstance(ran(tmp_path, loss), Passed)


def test_kl_div_of_probabilities(tmp_path):
    def loss(model, batch):
        return functional.kl_div(model(batch).softmax(1), SOFT, reduction="batchmean")

    model = nn.Linear(8, 4)
    diagnosis = gradscope.check(
        model, batches=[X], loss=loss, steps=5, run_dir=tmp_path / "run", select=["GS503"]
    )
    (finding,) = diagnosis.findings
    assert finding.kind == "probabilities"
    assert finding.location.file.endswith("test_wrong_loss_input.py")


def looks(value, baseline, **facts):
    row = {"value": value, "baseline": baseline, "classes": None, "target_mean": math.nan}
    return pd.DataFrame([row | facts] * 20)


def test_the_best_that_probabilities_can_reach():
    """Losses of one-hot answers given as scores, by PyTorch."""
    right = torch.eye(10)
    best = float(functional.cross_entropy(right, torch.arange(10)))
    share = gained_of_possible("softmax-twice", looks(best, math.log(10), classes=10))
    assert share == pytest.approx(1, abs=1e-6)
    target = torch.tensor([1.0] * 3 + [0.0])
    best = float(functional.binary_cross_entropy_with_logits(target, target))
    share = gained_of_possible("sigmoid-twice", looks(best, 0.5623, target_mean=0.75))
    assert share == pytest.approx(1, abs=1e-6)
    assert math.isnan(gained_of_possible("broadcast", looks(1.0, 2.0)))


@pytest.mark.parametrize(("share", "severity"), [(0.79, "warning"), (0.81, "note")])
def test_a_second_softmax_that_did_no_harm_is_a_note(share, severity):
    best = math.log(math.e + 9) - 1
    value = TRIVIAL - share * (TRIVIAL - best)
    made = Synthetic(100)
    made.loss(value)
    for row in made._losses:
        row |= {"input_operation": "SoftmaxBackward0", "term": 0, "classes": 10}
    finding = only(judged(WrongLossInput, made.build()))
    assert finding.severity == severity
