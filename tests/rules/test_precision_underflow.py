import math

import pytest
import torch
from sklearn.datasets import load_digits
from synthetic import TRIVIAL, WIDTH, Role, Synthetic, falling
from torch import nn
from torch.nn import functional

from gradscope.diagnose.engine import diagnose
from gradscope.diagnose.rule import Findings, NotApplicable, Passed, Undecided
from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer
from gradscope.rules import RULES
from gradscope.rules.precision_underflow import PrecisionUnderflow

rule = PrecisionUnderflow()


def check(made):
    return rule.check(made.build(), PrecisionUnderflow.options)


def only(outcome):
    assert isinstance(outcome, Findings), outcome
    (finding,) = outcome.findings
    return finding


def net(bits, *, dtype="float16", loss=TRIVIAL, steps=100, zeros=0.0, floor=-24):
    """Linears ``0, 1, …`` whose output gradients have ``bits`` left; -inf is an exact zero."""
    made = Synthetic(steps)
    for index, left in enumerate(bits):
        module = made.module(str(index), output_dtype=dtype)
        made.parameter(f"{index}.weight", module)
        alive = WIDTH * (1 - zeros)
        made.flow(module, 2.0 ** (floor + left) * math.sqrt(alive))
    for row in made._activations:
        if row["role"] == Role.GRAD_OUTPUT:
            row["looked_at"] = WIDTH
            row["zeros"] = WIDTH if row["sum_sq"] == 0 else int(zeros * WIDTH)
    made.loss(loss)
    return made


@pytest.mark.parametrize(("bits", "kind"), [(1.49, Findings), (1.51, Passed), (10.0, Passed)])
def test_the_limit(bits, kind):
    assert isinstance(check(net([bits, bits])), kind)


def test_the_margin_is_a_factor_of_the_gradients_size():
    assert check(net([3.5, 4.5])).margin == pytest.approx(4.0)


def test_zeros_of_a_relu_do_not_make_the_rest_smaller():
    outcome = check(net([1.6, 1.6], zeros=0.5))
    assert isinstance(outcome, Passed)
    assert "50 % of it is exactly zero" in outcome.measured


@pytest.mark.parametrize(("dtype", "floor"), [("bfloat16", -133), ("float16", -24)])
def test_each_format_has_its_floor(dtype, floor):
    assert isinstance(check(net([1.0, 1.0], dtype=dtype, floor=floor)), Findings)
    assert isinstance(check(net([2.0, 2.0], dtype=dtype, floor=floor)), Passed)


def test_what_it_says():
    finding = only(check(net([-math.inf, 0.5, 12.0])))
    assert (finding.kind, finding.severity, finding.modules, finding.also) == (
        "depth", "warning", ("1",), ("0",),
    )  # fmt: skip
    assert finding.summary == (
        "The gradient at `1` is held in float16 and has 0.5 significant bits left (0 % of it is "
        "exactly zero); so do 1 further tensor."
    )
    assert only(check(net([-math.inf, -math.inf]))).kind == "loss"


def test_a_zero_behind_dead_units_is_no_underflow():
    assert isinstance(check(net([-math.inf, -math.inf, 12.0])), Passed)


def test_a_training_that_learns_is_quiet():
    outcome = check(net([0.5, 0.5], loss=falling()))
    assert isinstance(outcome, Passed)
    assert "but it trains" in outcome.measured


def test_nothing_is_said_too_early():
    assert isinstance(check(net([0.5], steps=19)), Undecided)
    assert only(check(net([0.5], steps=49))).severity == "note"
    assert only(check(net([0.5], steps=50))).severity == "warning"
    assert isinstance(check(net([0.5], steps=4)), Undecided)


def test_float32_is_not_applicable():
    assert isinstance(check(net([0.5], dtype="float32")), NotApplicable)
    # without a look at the outputs the parameters' own format counts
    assert isinstance(check(net([0.5], dtype=None)), NotApplicable)


def test_compiled_modules_leave_the_parameters():
    made = Synthetic(100)
    for size, name in ((2.0**-24, "low"), (2.0**-10, "high")):
        module = made.module(name, output_dtype=None)
        made.gradient(made.parameter(f"{name}.weight", module, dtype="float16"), size * 8)
    for row in made._gradients:
        row |= {"looked_at": WIDTH, "zeros": 0}
    made.loss(TRIVIAL)
    assert only(check(made)).parameters == ("low.weight",)


@pytest.mark.parametrize(("skipped", "kind"), [(20, Passed), (21, Findings)])
def test_a_scaler_that_skips_for_ever(skipped, kind):
    made = net([12.0])
    made.each_step(loss_scale=65536.0, skipped=[s >= 100 - skipped for s in range(100)])
    outcome = check(made)
    assert isinstance(outcome, kind)
    if kind is Findings:
        finding = only(outcome)
        assert (finding.kind, finding.severity, finding.first_step) == ("skips", "critical", 79)


def test_a_skip_here_and_there_is_information():
    made = net([12.0], loss=falling())
    made.each_step(loss_scale=65536.0, skipped=[s < 40 or s % 7 == 0 for s in range(100)])
    assert isinstance(check(made), Passed)


@pytest.mark.parametrize(
    ("last", "loss", "kind"),
    [(0.5, TRIVIAL, Findings), (1.0, TRIVIAL, Passed), (0.5, falling(), Passed)],
)
def test_a_collapsed_scale(last, loss, kind):
    made = net([12.0], loss=loss)
    made.each_step(loss_scale=[65536.0] * 50 + [last] * 50)
    outcome = check(made)
    assert isinstance(outcome, kind)
    if kind is Findings:
        assert only(outcome).kind == "scale"


# ---------------------------------------------------------------------- real trainings


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def trained(digits, folder, *, factor, scaler, dtype=torch.float16, steps=100):
    torch.manual_seed(0)
    images, labels = digits
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3 / factor)
    writer = Writer(folder)
    observer = Observer([model], writer=writer, budget=None)
    observer.attach()
    for _ in range(steps):
        picked = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            output = model(images[picked])
        loss = functional.cross_entropy(output.float(), labels[picked]) * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    observer.detach()
    writer.close()
    recording = load_run(folder)
    assert recording.run["amp"] == str(dtype).removeprefix("torch.")
    found = diagnose(recording, RULES)
    return recording, [(f.code, f.kind, f.severity) for f in found.findings]


def test_a_scaler_mends_a_small_loss(digits, tmp_path):
    tiny = 2.0**-20
    off = torch.amp.GradScaler("cpu", enabled=False)
    _, found = trained(digits, tmp_path / "off", factor=tiny, scaler=off)
    assert found == [("GS202", "loss", "warning")]
    on = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    recording, found = trained(digits, tmp_path / "on", factor=tiny, scaler=on)
    assert found == []
    assert set(recording.modules["output_dtype"]) == {"float16"}


def test_a_scaler_that_starts_too_high_is_silent(digits, tmp_path):
    high = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    recording, found = trained(digits, tmp_path / "run", factor=1.0, scaler=high)
    assert recording.steps["skipped"].sum() > 5
    assert found == []


def test_bfloat16_autocast_is_silent(digits, tmp_path):
    off = torch.amp.GradScaler("cpu", enabled=False)
    _, found = trained(digits, tmp_path / "run", factor=2.0**-20, scaler=off, dtype=torch.bfloat16)
    assert found == []
